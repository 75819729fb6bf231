"""Which files of recordings there are below the paths of a command line."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.errors import TcptraceError
from tcptrace.map.engine import Files
from tcptrace.model.kept import END_KEY, META_KEY, Classes
from tcptrace.model.losses import Losses
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sinks.parquet import ParquetRecording
from tcptrace.sources.recording.jsonl import JsonLines

DAY_NS = 86_400 * 1_000_000_000
HOST, DATE = "host=", "date="
UNKNOWN = "unknown"
USUAL = "tracer-"
"""Files of a directory whose names begin so are taken; others only where there is none."""


class Days(NamedTuple):
    """Days that a map's time touches, with one before and behind, as directories name them."""

    first: str = ""
    last: str = "~"

    def has(self, path: Path) -> bool:
        """Tell whether what is in a directory of a date can be of these days."""
        date = next((part for part in path.parts if part.startswith(DATE)), None)
        return date is None or self.first <= date.removeprefix(DATE) <= self.last


def days(since_ns: int | None, until_ns: int | None) -> Days:
    """Return the days between two times."""

    def day(ns: int) -> str:
        at = dt.datetime.fromtimestamp(ns / 1e9, dt.timezone.utc)
        return at.strftime("%Y-%m-%d")

    return Days(
        "" if since_ns is None else day(since_ns - DAY_NS),
        "~" if until_ns is None else day(until_ns + DAY_NS),
    )


def find(paths: Iterable[Path], place: Path, wanted: Days) -> list[Files]:
    """Return the files below paths: directories of a fleet's recordings, or single recordings.

    Args:
        paths: of the command line.
        place: a directory for what has to be made of recordings that are no Parquet.
        wanted: the days of which directories are read.

    Raises:
        TcptraceError: there is none, or it cannot be read.

    """
    found: list[Files] = []
    for path in paths:
        if path.is_dir():
            found += _of_directory(path, wanted)
        elif path.suffix == ".jsonl":
            found.append(_converted(path, place / f"{len(found)}.parquet"))
        else:
            found.append(Files([str(path)], _host_of(path)))
    return found


def in_directory(root: Path) -> list[Path]:
    """Return the Parquet files below a directory, in their order. Raises TcptraceError."""
    every = [path for path in sorted(root.rglob("*.parquet")) if not _is_hidden(path, root)]
    if not every:
        raise TcptraceError(
            f"there are no recordings in {root}.\n"
            "They are made with: tcptrace tracer -d --failed -w DIRECTORY/"
        )
    return [path for path in every if path.name.startswith(USUAL)] or every


def _of_directory(root: Path, wanted: Days) -> Iterator[Files]:
    """Yield a directory's files: those whose paths name their host, and the others."""
    chosen = [path for path in in_directory(root) if wanted.has(path)]
    named = [str(path) for path in chosen if any(part.startswith(HOST) for part in path.parts)]
    if named:
        yield Files(named, root=str(root))
    for path in chosen:
        if not any(part.startswith(HOST) for part in path.parts):
            yield Files([str(path)], _host_of(path))


def _is_hidden(path: Path, root: Path) -> bool:
    """Tell whether a file is none of the recordings: engines pass such over as well."""
    return any(part.startswith((".", "_")) for part in path.relative_to(root).parts)


def _host_of(path: Path) -> str:
    """Return the host that a Parquet recording is from. Raises TcptraceError."""
    try:
        known = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise TcptraceError(unreadable(path, error)) from None
    if META_KEY not in known:
        raise TcptraceError(f"{path} is no recording of tcptrace")
    if END_KEY not in known:
        raise TcptraceError(unreadable(path, None))
    return str(json.loads(known[META_KEY]).get("host") or UNKNOWN)


def unreadable(path: Path, error: Exception | None) -> str:
    """Return what is to be said of a file that cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {path}: {error.strerror}"
    return (
        f"{path} is no recording of tcptrace, or was not ended by its writer.\n"
        f"What is whole of it is had with: tcptrace tracer -r {path} -w whole.parquet"
    )


def _converted(path: Path, to: Path) -> Files:
    """Make a Parquet recording of one in JSON Lines. Raises TcptraceError."""
    source = JsonLines(str(path), Classes(TRACER.row_classes), [])
    sink = ParquetRecording(str(to), TRACER.row_classes, force=True)
    try:
        sink.open(source.meta)
        for batch in source.batches():
            sink.write(list(batch.events))
            sink.flush()
    finally:
        source.close()
        sink.close(Losses())
    return Files([str(to)], source.meta.host or path.stem)
