"""Recordings of one host in the files of a directory, as one: `DirectoryRows`."""

from __future__ import annotations

import dataclasses
import datetime as dt
import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tcptrace.errors import TcptraceError
from tcptrace.model import filenames
from tcptrace.model.filenames import GROWING
from tcptrace.model.filters import Filters
from tcptrace.model.kept import Classes
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.model.window import Window
from tcptrace.sources.recording.kept import KeptSource
from tcptrace.sources.recording.parquet import AT_ONCE, ParquetRows

LATE = dt.timedelta(days=1)
"""Rows can be older than their file: an attempt to connect that fails is told when it has."""
NEVER_NS = 1 << 63


class Found(NamedTuple):
    """A file of a recording."""

    begun: dt.datetime
    path: str
    host: str | None
    """As its directory says."""

    @property
    def is_growing(self) -> bool:
        """Whether it is still being written, or was left behind."""
        return self.path.endswith(GROWING)


def walk(path: str, window: Window, host: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """Yield directories and the names of their files.

    Args:
        path: of the directory.
        window: days without anything of this time are passed over.
        host: where one is named, those of others are passed over.

    Raises:
        TcptraceError: one of them cannot be read, so a part would be taken for all.

    """
    for place, directories, names in os.walk(path, onerror=_refuse):
        directories[:] = [
            name
            for name in directories
            if can_be_in(name, window) and (host is None or filenames.host_of(name) in {None, host})
        ]
        yield place, names


def _refuse(error: OSError) -> None:
    """Raise TcptraceError, unless a directory has been removed meanwhile."""
    if not isinstance(error, FileNotFoundError):
        raise TcptraceError(f"cannot read {error.filename}: {error.strerror}") from None


def find(places: Iterable[tuple[str, list[str]]], probe: str) -> Iterator[Found]:
    """Yield a probe's files in these places."""
    for place, names in places:
        present = set(names)
        for name in names:
            own = filenames.shown(name) or name
            known = filenames.place_of(own)
            if known and known.probe == probe and (name == own or own not in present):
                host = filenames.host_of(place.rpartition("/")[2])
                yield Found(known.begun, f"{place}/{name}", host)


def can_be_in(directory: str, window: Window) -> bool:
    """Tell whether a directory can have rows of a time."""
    day = filenames.date_of(directory)
    if day is None:
        return True
    first = dt.datetime.combine(day, dt.time(), dt.timezone.utc) - LATE
    return window.meets(_nanoseconds(first), _nanoseconds(first + 3 * LATE))


def _nanoseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000


def of_one_host(found: Sequence[Found], host: str | None, path: str) -> list[Found]:
    """Return the files of the host, which need not be named where there is but one.

    Raises:
        TcptraceError: there are none, or of several hosts.

    """
    hosts = sorted({file.host for file in found if file.host})
    wanted = [file for file in found if host is None or file.host == host]
    if host is None and len(hosts) > 1:
        few = ", ".join(hosts[:10]) + (", …" if len(hosts) > 10 else "")
        raise TcptraceError(
            f"{path} has recordings of {len(hosts)} hosts: {few}.\nGive --host NAME"
        )
    if not wanted:
        of = f" of {host}" if host else ""
        raise TcptraceError(f"{path} has no recording{of} that this command can show, of this time")
    return sorted(wanted)


class DirectoryRows(KeptSource):
    """Rows of many files, by their time."""

    is_whole = True

    def __init__(
        self,
        path: str,
        found: Sequence[Found],
        classes: Classes,
        filters: Filters,
        tests: Sequence[Callable[[Any], bool]],
        window: Window,
        open_file: Callable[[str], Any] | None = None,
    ) -> None:
        """Read what the files say of themselves; see `ParquetRows` for the rest.

        Raises:
            TcptraceError: none of them can be read.

        """
        super().__init__(path)
        self._how = (classes, filters, tests, window)
        self._open_file = open_file
        self.others: list[Meta] = []
        self._boot = ""
        self._files: list[tuple[int, str]] = []
        """When the first of a file's rows happened."""
        cut = sum(self._look_at(file) for file in found)
        if not self.others:
            raise TcptraceError(f"{path} has no file that has been begun in earnest")
        self._files.sort()
        self.meta = self.others.pop(0)
        if cut:
            self.warning = f"{cut} of {len(found)} files were cut off, as by a crash"

    def _look_at(self, found: Found) -> bool:
        """Take a file if it can have wanted rows; tell whether it was cut off."""
        rows = self._opened(found.path)
        if rows is None:
            return False
        try:
            self.others += [rows.meta] if _is_new(rows.meta, self.others) else []
            span = rows.span_ns()
            if span and self._how[3].meets(*span):
                self._files.append((span[0], found.path))
                self._losses = Losses(*map(sum, zip(self._losses, rows.losses(), strict=True)))
            return not rows.is_whole and not found.is_growing
        finally:
            rows.close()

    def _opened(self, path: str) -> ParquetRows | None:
        """Return a file's rows; None where nothing is there, or yet."""
        if self._open_file:
            file = self._open_file(path)
            return ParquetRows(path, *self._how, by_time=True, file=file)
        place, _, name = path.rpartition("/")
        final = f"{place}/{filenames.shown(name) or name}"
        for candidate in dict.fromkeys((path, final)):  # it may have ended meanwhile
            try:
                return ParquetRows(candidate, *self._how, by_time=True)
            except TcptraceError:
                if candidate == path == final and Path(path).exists():
                    raise
        return None

    def _groups(self) -> Iterator[list[Any]]:
        """Yield rows in the order of their time, from no more files than have rows of then."""
        waiting = list(reversed(self._files))
        reading: list[_Reading] = []
        rows: list[Any] = []
        while waiting or reading:
            if waiting and (not reading or waiting[-1][0] <= reading[0].wall_ns):
                _, path = waiting.pop()
                fresh = _Reading(len(waiting), self._opened(path))
                if fresh.step():
                    heapq.heappush(reading, fresh)
                yield []
                continue
            first = reading[0]
            if first.boot_id != self._boot:
                yield rows
                rows = []
                self._boot = first.boot_id
            rows.append(first.row)
            if first.step():
                heapq.heapreplace(reading, first)
            else:
                heapq.heappop(reading)
            if len(rows) >= AT_ONCE:
                yield rows
                rows = []
        yield rows

    def _boot_id(self) -> str:
        """Return which boot the last rows are of; a group has those of one."""
        return self._boot

    def close(self) -> None:
        """Close nothing: files are open while they are read."""


def _is_new(meta: Meta, known: Sequence[Meta]) -> bool:
    """Tell whether a run asked for something else than those before it."""
    return all(dataclasses.replace(meta, start_ns=other.start_ns) != other for other in known)


class _Reading:
    """A file that is being read, at its next row."""

    __slots__ = ("_number", "_rows", "_source", "boot_id", "row", "wall_ns")

    def __init__(self, number: int, source: ParquetRows | None) -> None:
        self._number = number
        self._source = source
        self._rows = iter(_rows_of(source)) if source else iter(())
        self.boot_id = source.meta.boot_id if source else ""
        self.row: Any = None
        self.wall_ns = 0

    def step(self) -> bool:
        """Go to the next row; close the file and return False where there is none."""
        self.row = next(self._rows, None)
        if self.row is None:
            if self._source:
                self._source.close()
            return False
        self.wall_ns = self.row.wall_ns
        return True

    def __lt__(self, other: _Reading) -> bool:
        return (self.wall_ns, -self._number) < (other.wall_ns, -other._number)


def _rows_of(source: ParquetRows) -> Iterator[Any]:
    for batch in source.batches():
        yield from batch.events
