"""Which recordings there are below the paths of a command line, and of which hosts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.errors import ShortageError, TcptraceError
from tcptrace.map.directory import in_directory
from tcptrace.map.ends import Kept, digest_of, end_of, look
from tcptrace.map.engine import Files
from tcptrace.map.fetch import fetched
from tcptrace.map.inputs import TYPES
from tcptrace.map.names import part_of_host
from tcptrace.model.filenames import host_of
from tcptrace.model.kept import Classes
from tcptrace.model.window import Window
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sinks.parquet import ParquetRecording
from tcptrace.sources.recording.jsonl import JsonLines

DAY_NS = 86_400 * 1_000_000_000
SAID = 3
"""So many of a kind are named."""


class Found(NamedTuple):
    """What a map is made of."""

    tables: Sequence[Files]
    namesakes: frozenset[str] = frozenset()
    """Names that several hosts have had at the same time."""
    notes: Sequence[str] = ()
    """What people should know of it."""


class _Table(NamedTuple):
    """Files that have the same columns."""

    paths: list[str]
    hosts: dict[str, str]
    """The hosts that parts of the paths name, by these."""


def around(since_ns: int | None, until_ns: int | None) -> Window:
    """Return the time of which directories are read: how a connection ended may be told later."""
    return Window(since_ns, None if until_ns is None else until_ns + DAY_NS)


def find(paths: Iterable[Path | str], place: Path, window: Window) -> Found:
    """Return the files below paths.

    Args:
        paths: directories of a fleet's recordings, single recordings, or URLs of object storage.
        place: a directory for what has to be fetched, or made of recordings that are no Parquet.
        window: the time of which directories are read.

    Raises:
        TcptraceError: there is none, or it cannot be read.

    """
    finder = _Finder(place, window)
    for number, path in enumerate(paths):
        finder.add(
            fetched(path, place / f"fetched-{number}", window) if isinstance(path, str) else path
        )
    return finder.found()


class _Finder:
    """Looks at one path after the other."""

    def __init__(self, place: Path, window: Window) -> None:
        self._place, self._window = place, window
        self._tables: dict[tuple[str | None, str], _Table] = {}
        """Files by their host, where no part of their paths names it, and by their columns."""
        self._kept: list[Kept] = []
        self._left_out: dict[Path, TcptraceError] = {}
        self._taken: set[Path] = set()
        self._ends: set[bytes] = set()

    def add(self, path: Path) -> None:
        """Take a path. Raises TcptraceError."""
        if path.is_dir():
            self._add_directory(path)
        elif self._is_new(path):
            self._add_file(path, None)

    def _is_new(self, path: Path) -> bool:
        """Tell whether a file was not taken before, by whatever path."""
        real = path.resolve()
        is_new = real not in self._taken
        self._taken.add(real)
        return is_new

    def _add_directory(self, root: Path) -> None:
        """Take what can be read below a directory."""
        for path in filter(self._is_new, in_directory(root, self._leave_out, self._window)):
            try:
                self._add_file(path, part_of_host(path.relative_to(root)))
            except ShortageError:
                raise
            except TcptraceError as error:
                self._leave_out(path, error)

    def _is_copy(self, end: pq.FileMetaData) -> bool:
        """Tell whether a file that ends so was taken before."""
        digest = digest_of(end)
        is_copy = digest in self._ends
        self._ends.add(digest)
        return is_copy

    def _leave_out(self, path: Path, error: TcptraceError) -> None:
        self._left_out[path] = error

    def _add_file(self, path: Path, part: str | None) -> None:
        """Take a file; its host is in it where no part of its path tells. Raises TcptraceError."""
        host = part and host_of(part)
        if path.suffix == ".jsonl":
            made = self._place / f"{len(self._kept)}.parquet"
            kept, columns = _converted(path, made)
            path, part = made, None
        else:
            end = end_of(path)
            kept, columns = look(path, end)
            if self._is_copy(end):
                return
        kept = kept._replace(host=host or kept.host)
        self._kept.append(kept)
        table = self._tables.setdefault((None if part else kept.host, columns), _Table([], {}))
        table.paths.append(str(path))
        if part:
            table.hosts[part] = kept.host

    def found(self) -> Found:
        """Return all that was taken. Raises TcptraceError where nothing can be read."""
        if self._left_out and not self._tables:
            raise next(iter(self._left_out.values()))
        tables = [
            Files(table.paths, host, table.hosts) for (host, _), table in self._tables.items()
        ]
        namesakes = frozenset(_namesakes(self._kept))
        return Found(tables, namesakes, [*self._notes(namesakes)])

    def _notes(self, namesakes: Iterable[str]) -> Iterator[str]:
        """Yield what people should know."""
        whys = [str(error).partition("\n")[0] for error in self._left_out.values()]
        yield from (f"left out: {why}" for why in whys[:SAID])
        if len(whys) > SAID:
            yield f"left out: {len(whys) - SAID} more that cannot be read"
        cut = sorted({kept.host for kept in self._kept if kept.is_cut})
        if cut:
            yield f"recordings were cut off when their writers were killed, of {_few(cut)}"
        lost: dict[str, int] = {}
        for kept in self._kept:
            lost[kept.host] = lost.get(kept.host, 0) + kept.losses.total
        hosts = [f"{host} ({count})" for host, count in sorted(lost.items()) if count]
        if hosts:
            yield f"events were lost when it was recorded, so ends can be missing: {_few(hosts)}"
        for host in sorted(namesakes):
            yield f"several hosts are called {host}: each stands with its boot's id"


def _few(names: Sequence[str]) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - SAID} more" if len(names) > SAID else ""
    return ", ".join(names[:SAID]) + more


def _namesakes(kept: Iterable[Kept]) -> Iterator[str]:
    """Yield names of hosts of which one boot began before the last that another has recorded."""
    boots: dict[tuple[str, str], tuple[int, int]] = {}
    for file in kept:
        key = file.host, file.boot_id
        first, last = boots.get(key, (file.begun_ns, file.last_ns))
        boots[key] = min(first, file.begun_ns), max(last, file.last_ns)
    spans = sorted((host, *span) for (host, boot), span in boots.items() if boot)
    for (host, _, last), (other, first, _) in pairwise(spans):
        if host == other and first < last:
            yield host


def check_rows(tables: Iterable[Files]) -> None:
    """Read all rows, and raise TcptraceError where that fails."""
    damaged = [path for table in tables for path in table.paths if not _is_whole(path)]
    if damaged:
        raise TcptraceError(
            f"files are damaged: {_few(damaged)}.\nMove them away, and make the map without them"
        )


def _is_whole(path: str) -> bool:
    try:
        with pq.ParquetFile(path) as parquet:
            names = [name for name in parquet.schema_arrow.names if name in TYPES]
            for number in range(parquet.num_row_groups):
                parquet.read_row_group(number, columns=names, use_threads=False).validate(full=True)
    except (OSError, pa.ArrowException):
        return False
    return True


def _converted(path: Path, to: Path) -> tuple[Kept, str]:
    """Make a Parquet recording of one in JSON Lines, and look at it. Raises TcptraceError."""
    source = JsonLines(str(path), Classes(TRACER.row_classes), [])
    try:
        with closing(source):
            _write(source, to)
    except OSError as error:
        raise ShortageError(
            f"there is no room for the rows of {path}: {error.strerror}.\n"
            "Give a directory with more of it with --temp"
        ) from None
    kept, columns = look(to, end_of(to))
    return kept._replace(host=source.meta.host or path.stem, is_cut=not source.is_whole), columns


def _write(source: JsonLines, to: Path) -> None:
    """Write what was recorded. Raises OSError: there is no room."""
    sink = ParquetRecording(str(to), TRACER.row_classes, force=True)
    try:
        sink.open(source.meta)
        for batch in source.batches():
            sink.write(list(batch.events))
            sink.flush()
    finally:
        sink.close(source.losses())
