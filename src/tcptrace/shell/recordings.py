"""Recordings on the command line: ``-r`` reads events in place of a run."""

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
from tcptrace.model.window import ALWAYS, Window
from tcptrace.probes.probe import Probe
from tcptrace.shell.keeping import STDOUT, is_bucket, is_directory, is_parquet, require_pyarrow
from tcptrace.shell.options import PREFERRED, TraceOption, turned_on
from tcptrace.sources.recording.kept import KeptSource

Keeps = Callable[[Any], bool]


def reading(
    context: click.Context, probe: Probe, options: Sequence[click.Parameter], filters: Filters
) -> KeptSource:
    """Return the recording that the command line names, with the filters that it asks for.

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
    window = Window(given["since"], given["until"])
    _require_there(path)
    if is_directory(path):
        source = _open_directory(path, probe, given["host"], mine, keeps, window)
    else:
        source = _open(path, Classes(probe.row_classes), mine, keeps, window)
    try:
        may_lack = context.meta.get(PREFERRED, ())
        on = turned_on(options, given)
        wanted = [option for option in on if option.name not in may_lack]
        for known in (source.meta, *source.others):
            if known.probe:
                _check_meta(source.name, known, probe, wanted, given)
                _check_narrowed(source.name, known, list(_own(options)), wanted)
                _check_filters(known, mine)
    except TcptraceError:
        source.close()
        raise
    meta = _without(source.meta, list(_own(options)), given)
    source.meta = dataclasses.replace(
        meta, probe=meta.probe or probe.name, filters={**meta.filters, **mine.texts()}
    )
    return source


def _require_there(path: str) -> None:
    """Raise TcptraceError where no file or directory has this name."""
    if path == STDOUT or is_bucket(path):
        return
    try:
        Path(path).stat()
    except FileNotFoundError as error:
        raise TcptraceError(f"cannot read {path}: {error.strerror}") from None
    except OSError:
        return  # whoever reads it says what is wrong


def _open(
    path: str, classes: Any, filters: Filters, keeps: Sequence[Keeps], window: Window
) -> KeptSource:
    if not is_parquet(path):
        from tcptrace.sources.recording.jsonl import JsonLines  # noqa: PLC0415 - not for help

        tests = [*([filters.keeps] if filters.values else ()), *keeps]
        return JsonLines(path, classes, tests + ([window.keeps] if window != ALWAYS else []))
    require_pyarrow()
    from tcptrace.sources.recording.parquet import ParquetRows  # noqa: PLC0415 - an extra, and slow

    return ParquetRows(path, classes, filters, keeps, window)


def _open_directory(
    path: str,
    probe: Probe,
    host: str | None,
    filters: Filters,
    keeps: Sequence[Keeps],
    window: Window,
) -> KeptSource:
    require_pyarrow()
    from tcptrace.model.kept import Classes  # noqa: PLC0415 - not for help
    from tcptrace.sources.recording import directory  # noqa: PLC0415 - an extra, and slow

    if is_bucket(path):
        from tcptrace.sources.recording.bucket import Bucket  # noqa: PLC0415 - slower yet

        bucket = Bucket(path)
        places, open_file = bucket.walk(window), bucket.open
    else:
        places, open_file = directory.walk(path, window, host), None
    own = directory.of_one_host(list(directory.find(places, probe.name)), host, path)
    classes = Classes(probe.row_classes)
    return directory.DirectoryRows(path, own, classes, filters, keeps, window, open_file)


def _is_said(context: click.Context, name: str) -> bool:
    """Tell whether a parameter was given, and not left at its default."""
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
    """Return a recording's `Meta` without the options whose rows are left out."""
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
    name: str,
    meta: Meta,
    probe: Probe,
    options: Sequence[TraceOption],
    given: Mapping[str, Any],
) -> None:
    """Raise RefusedError where a recording does not have what is asked for."""
    if meta.probe != probe.name:
        raise RefusedError(f"{name} was recorded by `tcptrace {meta.probe}`: read it with that")
    for option in options:
        if not _has(probe, meta, option, given[option.name or ""]):
            raise RefusedError(
                f"{name} was recorded without this {option.opts[0]}: it cannot be had now"
            )


def _check_narrowed(
    name: str, meta: Meta, options: Sequence[TraceOption], wanted: Sequence[TraceOption]
) -> None:
    """Raise RefusedError where rows are missing that an option needs."""
    left_out = {
        option.name or "": option.opts[0]
        for option in options
        if not meta.switches.keys().isdisjoint(option.narrows)
    }
    for option in wanted:
        for other in left_out.keys() & {*option.excludes}:
            raise RefusedError(
                f"{name} was recorded with {left_out[other]}: rows are missing for {option.opts[0]}"
            )


def _has(probe: Probe, meta: Meta, option: TraceOption, value: Any) -> bool:
    """Tell whether the run that was recorded had all that an option asks of its probe."""
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
    """Raise RefusedError where a recording was already filtered, by another value."""
    for name, text in filters.texts().items():
        before = meta.filters.get(name, text)
        if before != text:
            flag = BY_NAME[name].flags[0]
            raise RefusedError(
                f"the recording has only what {flag} {before} let pass.\n"
                f"Read it with the same, or without {flag}"
            )
