"""Directories for what has no room in memory, which go with the program, also by a signal."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory, gettempdir
from types import FrameType

from tcptrace.errors import TcptraceError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PREFIX = "tcptrace-map-"
_places: set[str] = set()
before_removal: list[Callable[[], None]] = []
"""Called when a signal ends this process: they end others, which would write there again."""


class Place(TemporaryDirectory[str]):
    """A directory of the program's own, in another one."""

    def __init__(self, where: str | None) -> None:
        """Make it below `where`, or where temporary files usually are. Raises TcptraceError."""
        try:
            super().__init__(prefix=PREFIX, dir=where)
        except OSError as error:
            place = where or gettempdir()
            raise TcptraceError(
                f"cannot make a directory in {place}: {error.strerror}.\n"
                "Give another place with --temp"
            ) from None
        _places.add(self.name)

    def cleanup(self) -> None:
        """Remove it, with all that is in it."""
        super().cleanup()
        _places.discard(self.name)


@contextmanager
def ending_at_signals() -> Iterator[None]:
    """Have signals remove what there is on disk and end the program, unless they are ignored."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {number: was for number, was in before.items() if was is not signal.SIG_IGN}
    for number in taken:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number, was in taken.items():
            signal.signal(number, was)


def _end(number: int, _frame: FrameType | None) -> None:
    """End at once: an engine that is told to stop first waits for all that its threads do."""
    for end in before_removal:
        end()
    for place in [*_places, *_places]:  # they may make another file meanwhile
        shutil.rmtree(place, ignore_errors=True)
    os._exit(128 + number)
