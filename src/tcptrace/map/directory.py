"""Which recordings there are below a directory, also where parts of it are links."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from tcptrace.errors import TcptraceError
from tcptrace.map.names import usual
from tcptrace.model.window import ALWAYS, Window
from tcptrace.sources.recording.directory import can_be_in

ENDINGS = (".parquet", ".jsonl")
LeaveOut = Callable[[Path, TcptraceError], None]
"""Takes what cannot be read, and why."""


def in_directory(root: Path, leave_out: LeaveOut, window: Window = ALWAYS) -> Iterator[Path]:
    """Yield the recordings below a directory, in their order, each file once.

    Args:
        root: the directory.
        leave_out: is told what cannot be read.
        window: days without anything of this time are passed over.

    Raises:
        TcptraceError: there is none.

    """
    taken: set[str] = set()
    every, closed = _walk(str(root))
    shown = usual([path.relative_to(root) for path in every])
    if not shown and closed:
        raise closed[0][1]
    if not shown:
        raise TcptraceError(
            f"there are no recordings in {root}.\n"
            "They are made with: tcptrace tracer -d --failed -w DIRECTORY/"
        )
    for path, error in closed:
        leave_out(path, error)
    for name in shown:
        path = root / name
        real = os.path.realpath(path)
        if real in taken or not all(can_be_in(part, window) for part in name.parts):
            continue
        taken.add(real)
        if os.path.isfile(path):  # noqa: PTH113 - pathlib raises behind closed directories
            yield path
        else:
            leave_out(path, TcptraceError(f"{path} is no file"))


def _walk(root: str) -> tuple[list[Path], list[tuple[Path, TcptraceError]]]:
    """Return what is called as recordings are, and the directories that cannot be read, and why.

    Links to directories are followed when all else was seen, and no directory is read twice: so
    what a link leads to stands at its own place, if that is below the root as well.
    """
    found: list[Path] = []
    closed: list[tuple[Path, TcptraceError]] = []
    seen: set[str] = set()
    places, links = [root], list[str]()
    while places or links:
        place = places.pop() if places else links.pop()
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        try:
            entries = [*os.scandir(place)]
        except OSError as error:
            closed.append((Path(place), TcptraceError(f"cannot read {place}: {error.strerror}")))
            continue
        for entry in entries:
            if os.path.isdir(entry.path):  # noqa: PTH112 - others raise where a link leads nowhere
                (links if entry.is_symlink() else places).append(entry.path)
            elif entry.name.endswith(ENDINGS):
                found.append(Path(entry.path))
    return sorted(found), closed
