"""Which recordings there are below the paths of a command line, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.errors import TcptraceError
from tcptrace.map.engine import Files
from tcptrace.map.fetch import fetched
from tcptrace.map.names import host_in, usual
from tcptrace.model.kept import CUT_KEY, END_KEY, META_KEY, Classes
from tcptrace.model.losses import NOTHING_LOST, Losses, losses_from
from tcptrace.model.meta import Meta, meta_from_json
from tcptrace.model.window import Window
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sinks.parquet import ParquetRecording
from tcptrace.sources.recording.directory import can_be_in
from tcptrace.sources.recording.jsonl import JsonLines

DAY_NS = 86_400 * 1_000_000_000
UNKNOWN = "unknown"
SAID = 3
"""So many of a kind are named."""


class Found(NamedTuple):
    """What a map is made of."""

    tables: Sequence[Files]
    namesakes: frozenset[str] = frozenset()
    """Names that several hosts have had at the same time."""
    notes: Sequence[str] = ()
    """What people should know of it."""


class _Kept(NamedTuple):
    """What a file says of itself."""

    host: str
    boot_id: str
    begun_ns: int
    losses: Losses
    is_cut: bool


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


def in_directory(root: Path, window: Window = Window()) -> list[Path]:  # noqa: B008 - immutable
    """Return the recordings below a directory, in their order. Raises TcptraceError."""
    every = [path for path in sorted(root.rglob("*")) if path.suffix in {".parquet", ".jsonl"}]
    shown = usual([path.relative_to(root) for path in every])
    if not shown:
        raise TcptraceError(
            f"there are no recordings in {root}.\n"
            "They are made with: tcptrace tracer -d --failed -w DIRECTORY/"
        )
    return [root / path for path in shown if all(can_be_in(part, window) for part in path.parts)]


class _Finder:
    """Looks at one path after the other."""

    def __init__(self, place: Path, window: Window) -> None:
        self._place, self._window = place, window
        self._tables: dict[tuple[str, str | None, str], list[str]] = {}
        """Files by the directory or the host that they are of, and by their columns."""
        self._kept: list[_Kept] = []
        self._left_out: list[Path] = []
        self._taken: set[Path] = set()

    def add(self, path: Path) -> None:
        """Take a path. Raises TcptraceError."""
        if path.is_dir():
            self._add_directory(path)
        elif self._is_new(path):
            self._add_file(path)

    def _is_new(self, path: Path) -> bool:
        """Tell whether a file was not taken before, by whatever path."""
        real = path.resolve()
        is_new = real not in self._taken
        self._taken.add(real)
        return is_new

    def _add_directory(self, root: Path) -> None:
        """Take what can be read below a directory: engines read what has its host in its path."""
        for path in filter(self._is_new, in_directory(root, self._window)):
            host = host_in(path.relative_to(root))
            try:
                if host is None or path.suffix == ".jsonl":
                    self._add_file(path)
                else:
                    kept, columns = _look(path)
                    self._take(kept._replace(host=host), path, (str(root), None, columns))
            except TcptraceError:
                self._left_out.append(path)

    def _take(self, kept: _Kept, path: Path, key: tuple[str, str | None, str]) -> None:
        self._kept.append(kept)
        self._tables.setdefault(key, []).append(str(path))

    def _add_file(self, path: Path) -> None:
        """Take a file whose host is in it. Raises TcptraceError."""
        if path.suffix == ".jsonl":
            made = self._place / f"{len(self._kept)}.parquet"
            kept = _converted(path, made)
            self._take(kept, made, ("", kept.host, _look(made)[1]))
        else:
            kept, columns = _look(path)
            self._take(kept, path, ("", kept.host, columns))

    def found(self) -> Found:
        """Return all that was taken. Raises TcptraceError where nothing can be read."""
        if self._left_out and not self._tables:
            _look(self._left_out[0])
        tables = [Files(paths, host, root) for (root, host, _), paths in self._tables.items()]
        namesakes = frozenset(_namesakes(self._kept))
        return Found(tables, namesakes, [*self._notes(namesakes)])

    def _notes(self, namesakes: Iterable[str]) -> Iterator[str]:
        """Yield what people should know."""
        if self._left_out:
            files = _few([*map(str, self._left_out)])
            yield f"files that are left out, for they cannot be read: {files}"
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


def _namesakes(kept: Iterable[_Kept]) -> Iterator[str]:
    """Yield names of hosts of which one boot had begun a file before another's last."""
    boots: dict[tuple[str, str], tuple[int, int]] = {}
    for file in kept:
        key = file.host, file.boot_id
        first, last = boots.get(key, (file.begun_ns, file.begun_ns))
        boots[key] = min(first, file.begun_ns), max(last, file.begun_ns)
    spans = sorted((host, *span) for (host, boot), span in boots.items() if boot)
    for (host, _, last), (other, first, _) in pairwise(spans):
        if host == other and first < last:
            yield host


def _look(path: Path) -> tuple[_Kept, str]:
    """Return what a Parquet recording says of itself, and its columns. Raises TcptraceError."""
    try:
        read = pq.read_metadata(path)
        known = read.metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise TcptraceError(unreadable(path, error)) from None
    if META_KEY not in known:
        raise TcptraceError(f"{path} is no recording of tcptrace")
    if known.keys().isdisjoint({END_KEY, CUT_KEY}):
        raise TcptraceError(unreadable(path, None))
    try:
        meta = meta_from_json(json.loads(known[META_KEY]))
        losses = losses_from(json.loads(known.get(END_KEY, "{}")))
    except ValueError as error:
        raise TcptraceError(f"{path} cannot be read: {error}") from None
    kept = _kept(meta, losses, UNKNOWN)._replace(is_cut=CUT_KEY in known)
    return kept, str(read.schema).partition("\n")[2]  # behind where it is in memory


def _kept(meta: Meta, losses: Losses, name: str) -> _Kept:
    """Return what a recording says; `name` is what its host is called where that is not known."""
    return _Kept(meta.host or name, meta.boot_id, meta.start_ns, losses, is_cut=False)


def unreadable(path: Path, error: Exception | None) -> str:
    """Return what is to be said of a file that cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {path}: {error.strerror}"
    return (
        f"{path} is no recording of tcptrace, or was not ended by its writer.\n"
        f"What is whole of it is had with: tcptrace tracer -r {path} -w whole.parquet"
    )


def _converted(path: Path, to: Path) -> _Kept:
    """Make a Parquet recording of one in JSON Lines. Raises TcptraceError."""
    source = JsonLines(str(path), Classes(TRACER.row_classes), [])
    sink = ParquetRecording(str(to), TRACER.row_classes, force=True)
    try:
        sink.open(source.meta)
        for batch in source.batches():
            sink.write(list(batch.events))
            sink.flush()
        return _kept(source.meta, source.losses(), path.stem)._replace(is_cut=not source.is_whole)
    finally:
        source.close()
        sink.close(NOTHING_LOST)
