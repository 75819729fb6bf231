"""Recordings on the command line: ``-w`` keeps a run's events in a file, or in a directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from tcptrace.errors import TcptraceError, pip_install
from tcptrace.model.limits import Limits
from tcptrace.probes.probe import Probe
from tcptrace.shell.amounts import NO_LIMIT, Amount
from tcptrace.shell.say import say
from tcptrace.sinks.sink import Sink

STDOUT = "-"
ROTATED = Amount(seconds=600)
"""How long a file of a directory grows by default."""
WITHOUT_PYARROW = (
    "Parquet needs pyarrow, which is not installed.\n"
    f"Install it: {pip_install('pyarrow')}\nOr take a name that ends in .jsonl"
)


def is_parquet(path: str) -> bool:
    """Tell by a file's name whether it is Parquet, or JSON Lines. Raises UsageError."""
    suffix = Path(path).suffix
    if path != STDOUT and suffix not in {".jsonl", ".parquet"}:
        raise click.UsageError(f"{path} ends neither in .jsonl nor in .parquet.")
    return suffix == ".parquet"


def is_bucket(path: str) -> bool:
    """Tell whether recordings are kept in object storage."""
    return path.startswith("s3://")


def is_directory(path: str) -> bool:
    """Tell whether recordings are kept in many files: in a directory, or in object storage."""
    return path != STDOUT and (path.endswith("/") or is_bucket(path) or Path(path).is_dir())


@dataclasses.dataclass(frozen=True, slots=True)
class Keeping:
    """Where a run's events are kept."""

    path: str
    force: bool
    also_print: bool
    limits: Limits | None = None
    """When files of a directory end, and which of them are kept; None for a single file."""

    @property
    def place(self) -> str:
        """Where files are made on this host, which is the path unless that is a bucket's."""
        if not is_bucket(self.path):
            return self.path
        from tcptrace.sinks.bucket import spool_for  # noqa: PLC0415 - for few runs

        return str(spool_for(self.path))

    def check(self) -> None:
        """Raise TcptraceError where a file would be overwritten, or cannot be written."""
        if self.limits is not None:
            require_pyarrow()
            return
        if self.path != STDOUT and not self.force and Path(self.path).exists():
            raise TcptraceError(f"{self.path} is already there.\nGive --force to overwrite it")
        if is_parquet(self.path):
            require_pyarrow()

    def open(self, probe: Probe) -> Sink:
        """Make the file. Raises TcptraceError."""
        if self.limits is not None and is_bucket(self.path):
            from tcptrace.sinks.bucket import BucketRecording  # noqa: PLC0415 - the same

            return BucketRecording(self.path, probe.name, probe.row_classes, self.limits, say)
        if self.limits is not None:
            from tcptrace.sinks.directory import DirectoryRecording  # noqa: PLC0415 - the same

            return DirectoryRecording(self.path, probe.name, probe.row_classes, self.limits, say)
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
    if is_directory(path):
        return Keeping(path, force=False, also_print=given["also_print"], limits=_limits(given))
    is_parquet(path)
    for name in ("rotate", "keep"):
        if given[name] is not None:
            raise click.UsageError(f"--{name} is for directories: -w {path}/.")
    return Keeping(path, force=given["force"], also_print=given["also_print"])


def _limits(given: Mapping[str, Any]) -> Limits:
    """Return when files of a directory end, and what is kept. Raises UsageError."""
    if given["force"]:
        raise click.UsageError("--force is for a file; in a directory nothing is overwritten.")
    file, kept = given["rotate"] or ROTATED, given["keep"] or NO_LIMIT
    return Limits(file.seconds, file.size, kept.seconds, kept.size)


def require_pyarrow() -> None:
    """Raise TcptraceError where Parquet cannot be had."""
    try:
        import pyarrow.parquet  # type: ignore[import-untyped,unused-ignore] # noqa: F401, PLC0415
    except ImportError:
        raise TcptraceError(WITHOUT_PYARROW) from None
