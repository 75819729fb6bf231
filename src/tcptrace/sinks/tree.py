"""The directories of a host's recordings: `Tree`. Links in it are not followed."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tcptrace.kernel.apart import give_directory
from tcptrace.model import filenames

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MODE = 0o700
"""Only the owner may read what processes talk to."""


class Kept(NamedTuple):
    """A file of this host."""

    day: str
    """The directory's name."""
    name: str


@contextlib.contextmanager
def opened(name: str, within: int | None = None) -> Iterator[int]:
    """Hold a directory open. Raises OSError."""
    descriptor = os.open(name, DIRECTORY, dir_fd=within)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make(name: str, within: int) -> None:
    """Make a directory, and have it on the disk; one that is there stays. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, MODE, dir_fd=within)
        os.fsync(within)


class Tree:
    """A directory with those of days, and in each of them one of this host."""

    def __init__(self, path: str, host: str) -> None:
        """Take the path of the directory, which is made when it is needed."""
        self.path = path
        self._host = filenames.host_directory(host)

    def make(self) -> None:
        """Make the directory, where it is not there. Raises OSError: it cannot be written to."""
        try:
            Path(self.path).mkdir(MODE, parents=True)
        except FileExistsError:
            Path(self.path).mkdir(exist_ok=True)
        else:
            give_directory(self.path)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self.path)

    @contextlib.contextmanager
    def day(self, name: str, *, make: bool = False) -> Iterator[int]:
        """Hold this host's directory of a day open. Raises OSError."""
        if make:
            self.make()
        root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if make:
                _make(name, root)
            with opened(name, root) as day:
                if make:
                    _make(self._host, day)
                with opened(self._host, day) as own:
                    yield own
        finally:
            os.close(root)

    def files(self) -> list[Kept]:
        """Return this host's files of all days, hidden ones included. Raises OSError."""
        found = []
        for day in self._days():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError), self.day(day) as own:
                found += [Kept(day, entry.name) for entry in os.scandir(own)]
        return found

    def _days(self) -> list[str]:
        try:
            return [entry.name for entry in os.scandir(self.path) if filenames.date_of(entry.name)]
        except FileNotFoundError:
            return []

    def remove(self, kept: Kept) -> None:
        """Remove a file, and its directories where nothing else is in them. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), self.day(kept.day) as own:
            os.unlink(kept.name, dir_fd=own)
        root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with contextlib.suppress(OSError):  # not empty
                with opened(kept.day, root) as day:
                    os.rmdir(self._host, dir_fd=day)
                os.rmdir(kept.day, dir_fd=root)
        finally:
            os.close(root)

    def size(self, kept: Kept) -> int:
        """Return how many bytes a file takes; 0 where it is gone. Raises OSError."""
        with contextlib.suppress(FileNotFoundError), self.day(kept.day) as own:
            return os.stat(kept.name, dir_fd=own, follow_symlinks=False).st_size
        return 0
