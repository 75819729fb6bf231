"""Recordings on the command line: ``-w`` keeps a run's events, ``-r`` reads them in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tcptrace.errors import RefusedError, TcptraceError
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.model.meta import Meta
from tcptrace.probes.probe import Probe
from tcptrace.shell.options import PREFERRED, TraceOption, turned_on
from tcptrace.sinks.sink import Sink
from tcptrace.sources.recording.kept import KeptSource

STDOUT = "-"
Keeps = Callable[[Any], bool]
WITHOUT_PYARROW = (
    "Parquet needs pyarrow, which is not installed.\n"
    "Install it: pip install 'tcptrace[record]'; or take a name that ends in .jsonl"
)


def is_parquet(path: str) -> bool:
    """Tell by a file's name whether it is Parquet, or JSON Lines. Raises UsageError."""
    suffix = Path(path).suffix
    if path != STDOUT and suffix not in {".jsonl", ".parquet"}:
        raise click.UsageError(f"{path} ends neither in .jsonl nor in .parquet.")
    return suffix == ".parquet"


@dataclasses.dataclass(frozen=True, slots=True)
class Keeping:
    """Where a run's events are kept."""

    path: str
    force: bool
    also_print: bool

    def check(self) -> None:
        """Raise TcptraceError where a file would be overwritten, or cannot be written."""
        if self.path != STDOUT and not self.force and Path(self.path).exists():
            raise TcptraceError(f"{self.path} is already there.\nGive --force to overwrite it")
        if is_parquet(self.path):
            _require_pyarrow()

    def open(self, probe: Probe) -> Sink:
        """Make the file. Raises TcptraceError."""
        if not is_parquet(self.path):
            from tcptrace.sinks.recording import JsonLinesRecording  # noqa: PLC0415 - not for help

            return JsonLinesRecording(self.path, force=self.force)
        from tcptrace.sinks.parquet import ParquetRecording  # noqa: PLC0415 - an extra, and slow

        return ParquetRecording(self.path, probe.row_classes, force=self.force)


def keeping(given: Mapping[str, Any], *, counts: bool) -> Keeping | None:
    """Return where the command line has events kept. Raises UsageError."""
    path: str | None = given["write"]
    if path is None:
        return None
    if counts:
        raise click.UsageError(
            "-c keeps no attempts: record without it, and count with -c -r FILE."
        )
    for name, flag in {"also_print": "--print", "summary": "--summary"}.items():
        if path == STDOUT and given.get(name):
            raise click.UsageError(f"{flag} and -w - both write to standard output.")
    is_parquet(path)
    return Keeping(path, force=given["force"], also_print=given["also_print"])


def _require_pyarrow() -> None:
    try:
        import pyarrow.parquet  # type: ignore[import-untyped,unused-ignore] # noqa: F401, PLC0415
    except ImportError:
        raise TcptraceError(WITHOUT_PYARROW) from None


def reading(
    context: click.Context, probe: Probe, options: Sequence[click.Parameter], filters: Filters
) -> KeptSource:
    """Return the recording that the command line names, with what it wants of it.

    Raises:
        UsageError: an option needs the kernel.
        TcptraceError: the recording cannot be read, or does not have what was asked for.

    """
    from tcptrace.model.kept import Classes  # noqa: PLC0415 - not for help

    given = context.params
    path: str = given["read"]
    _refuse_kernel_s(context, options)
    mine = filters.only([name for name in filters.values if _is_said(context, name)])
    keeps = _kept_by(list(_own(options)), given)
    source = _open(path, Classes(probe.row_classes), mine, keeps)
    try:
        if source.meta.probe:
            may_lack = context.meta.get(PREFERRED, ())
            on = turned_on(options, given)
            wanted = [option for option in on if option.name not in may_lack]
            _check_meta(source, probe, wanted, given)
            _check_narrowed(source, list(_own(options)), wanted)
            _check_filters(source.meta, mine)
    except TcptraceError:
        source.close()
        raise
    meta = _without(source.meta, list(_own(options)), given)
    source.meta = dataclasses.replace(
        meta, probe=meta.probe or probe.name, filters={**meta.filters, **mine.texts()}
    )
    return source


def _open(path: str, classes: Any, filters: Filters, keeps: Sequence[Keeps]) -> KeptSource:
    if not is_parquet(path):
        from tcptrace.sources.recording.jsonl import JsonLines  # noqa: PLC0415 - not for help

        return JsonLines(path, classes, [filters.keeps, *keeps] if filters.values else keeps)
    _require_pyarrow()
    from tcptrace.sources.recording.parquet import ParquetRows  # noqa: PLC0415 - an extra, and slow

    return ParquetRows(path, classes, filters, keeps)


def _is_said(context: click.Context, name: str) -> bool:
    """Tell whether a parameter was given, and has not its default."""
    names = ("ipv4", "ipv6") if name == "family" else (name,)
    sources = map(context.get_parameter_source, names)
    return any(source is ParameterSource.COMMANDLINE for source in sources)


def _own(options: Sequence[click.Parameter]) -> Iterator[TraceOption]:
    return (option for option in options if isinstance(option, TraceOption))


def _refuse_kernel_s(context: click.Context, options: Sequence[click.Parameter]) -> None:
    """Raise UsageError where an option asks something of the kernel."""
    for option in _own(options):
        if option.needs_kernel and _is_said(context, option.name or ""):
            raise click.UsageError(f"{option.opts[0]} is about the kernel; it is not for -r.")


def _kept_by(options: Sequence[TraceOption], given: Mapping[str, Any]) -> list[Keeps]:
    """Return what tells whether the command's own options keep a row."""
    tests = [option.keeps(given[option.name or ""]) for option in options if option.keeps]
    return [test for test in tests if test]


def _without(meta: Meta, options: Sequence[TraceOption], given: Mapping[str, Any]) -> Meta:
    """Return what holds when the rows of options that are not given are left out."""
    missed = [
        option
        for option in options
        if option.keeps and not given[option.name or ""] and option.keeps(None)
    ]
    switches = {define for option in missed for define in option.switches}
    probes = {probe.name for option in missed for probe in option.probes}
    return dataclasses.replace(
        meta,
        switches={define: text for define, text in meta.switches.items() if define not in switches},
        companions=tuple(name for name in meta.companions if name not in probes),
    )


def _check_meta(
    source: KeptSource, probe: Probe, options: Sequence[TraceOption], given: Mapping[str, Any]
) -> None:
    """Raise RefusedError where a recording does not have what is asked for."""
    meta = source.meta
    if meta.probe != probe.name:
        raise RefusedError(
            f"{source.name} was recorded by `tcptrace {meta.probe}`: read it with that"
        )
    for option in options:
        if not _has(probe, meta, option, given[option.name or ""]):
            raise RefusedError(
                f"{source.name} was recorded without this {option.opts[0]}: it cannot be had now"
            )


def _check_narrowed(
    source: KeptSource, options: Sequence[TraceOption], wanted: Sequence[TraceOption]
) -> None:
    """Raise RefusedError where rows were left out that an option is to tell of."""
    left_out = {
        option.name or "": option.opts[0]
        for option in options
        if not source.meta.switches.keys().isdisjoint(option.narrows)
    }
    for option in wanted:
        for name in left_out.keys() & {*option.excludes}:
            raise RefusedError(
                f"{source.name} was recorded with {left_out[name]}: rows are missing for "
                f"{option.opts[0]}"
            )


def _has(probe: Probe, meta: Meta, option: TraceOption, value: Any) -> bool:
    """Tell whether a run that was recorded so had what an option asks of a probe."""
    if option.is_for_rows:
        return True
    wanted = {define: probe.switch_text(define, value) for define in option.switches}
    left = {
        define
        for define, text in wanted.items()
        if meta.switches.get(define, text if define in option.narrows else None) != text
    }
    return not left and all(probe.name in meta.companions for probe in option.probes)


def _check_filters(meta: Meta, filters: Filters) -> None:
    """Raise RefusedError where a recording was already filtered, and otherwise."""
    for name, text in filters.texts().items():
        before = meta.filters.get(name, text)
        if before != text:
            flag = BY_NAME[name].flags[0]
            raise RefusedError(
                f"the recording has only {flag} {before}: {flag} {text} would not be all of it"
            )
