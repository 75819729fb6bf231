"""A directory of small files that only this user, or root, can have written.

What is kept here is loaded into the kernel by root. So the directory is opened step by step from
``/``, following no link, and each step and file is judged by its own descriptor: it belongs to root
or to this user, and nobody else can write to it. In a directory with the sticky bit, such as /tmp,
others cannot touch what is not theirs.

A file is written beside its name and renamed, so that a reader finds the whole or nothing, also
where two write at once or one is killed. Its checksum is for what disks and people do, not for an
attacker, who would have had to be root.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import time
from _blake2 import blake2b
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"tcptrace\0kept\0"
FORMAT = 1
MOST_FILES, MOST_BYTES = 128, 32 << 20
FILE_BYTES = 4 << 20
"""The largest file that is read."""
ABANDONED_S = 600
"""After so long without a change, a file that was being written belongs to a dead process."""
WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
NAME = re.compile("[0-9a-f]{32}")
"""What files are called."""
_UNFINISHED = re.compile(r"[0-9a-f]{32}\.[0-9]+")
_CHECKSUM = 16
_LENGTH = 4


class DamagedError(ValueError):
    """What was read is not what was written; says why."""


class StoreError(Exception):
    """Nothing can be kept, or read, there; says why."""

    is_missing = False
    """Whether there is no such directory."""


class Entry(NamedTuple):
    """A file that is kept."""

    name: str
    bytes: int
    written_s: float
    """Since the epoch."""
    used_s: float


def default_place() -> str:
    """Return where programs are kept: systemd's choice, else root's, else the user's."""
    given = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]  # systemd.exec(5): a list
    if given.startswith("/"):
        return given
    if os.geteuid() == 0:
        return "/var/cache/tcptrace"
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not caches.startswith("/"):
        caches = f"{os.environ.get('HOME', '/nonexistent')}/.cache"
    return f"{caches}/tcptrace"


def pack(fields: list[bytes]) -> bytes:
    """Return fields as a file: each behind its length, and a checksum of the whole."""
    parts = [MAGIC, FORMAT.to_bytes(_LENGTH, "little")]
    for field in fields:
        parts += [len(field).to_bytes(_LENGTH, "little"), field]
    whole = b"".join(parts)
    return whole + blake2b(whole, digest_size=_CHECKSUM).digest()


def unpack(data: bytes) -> list[bytes]:
    """Return the fields of a file. Raises DamagedError."""
    whole, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    at = len(MAGIC) + _LENGTH
    if not whole.startswith(MAGIC):
        raise DamagedError("it is none of tcptrace's")
    if len(whole) < at or blake2b(whole, digest_size=_CHECKSUM).digest() != checksum:
        raise DamagedError("it is damaged")
    form = int.from_bytes(whole[len(MAGIC) : at], "little")
    if form != FORMAT:
        raise DamagedError(f"its format is {form}, this tcptrace has {FORMAT}")
    fields = []
    while at < len(whole):
        end = at + _LENGTH + int.from_bytes(whole[at : at + _LENGTH], "little")
        if end > len(whole) or at + _LENGTH > len(whole):
            raise DamagedError("a field is longer than the file")
        fields.append(whole[at + _LENGTH : end])
        at = end
    return fields


class Store:
    """A directory that is open."""

    def __init__(self, place: str | None = None, *, make: bool = False) -> None:
        """Open it, and make it where that is wanted. Raises StoreError."""
        self.place = place or default_place()
        try:
            self._directory = _open_step_by_step(self.place, make=make)
        except OSError as error:
            reason = StoreError(f"{self.place}: {error.strerror}")
            reason.is_missing = isinstance(error, FileNotFoundError)
            raise reason from None

    def close(self) -> None:
        """Close it."""
        os.close(self._directory)

    def read(self, name: str) -> bytes | None:
        """Return a file, or None where there is none. Raises DamagedError or OSError."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(name, flags, dir_fd=self._directory)
        except FileNotFoundError:
            return None
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_size > FILE_BYTES:
                raise DamagedError("it is no file of programs")
            if not _is_safe(status):
                raise DamagedError("others could have written it")
            data = _read_all(file)
            with contextlib.suppress(OSError):
                os.utime(file, ns=(time.time_ns(), status.st_mtime_ns))  # for `_make_room`
            return data
        finally:
            os.close(file)

    def write(self, name: str, data: bytes) -> None:
        """Write a file in place of the one of that name, and let old ones go. Raises OSError."""
        unfinished = f"{name}.{time.time_ns()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        file = os.open(unfinished, flags, 0o600, dir_fd=self._directory)
        try:
            with os.fdopen(file, "wb") as opened:
                opened.write(data)
            directory = self._directory
            os.rename(unfinished, name, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError:
            self.remove(unfinished)
            raise
        self._make_room()

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._directory)

    def entries(self) -> list[Entry]:
        """Return what is kept, the latest used first."""
        return sorted(self._matching(NAME), key=lambda entry: entry.used_s, reverse=True)

    def _matching(self, pattern: re.Pattern[str]) -> Iterator[Entry]:
        with contextlib.suppress(OSError), os.scandir(self._directory) as files:
            for file in files:
                if pattern.fullmatch(file.name) and file.is_file(follow_symlinks=False):
                    status = file.stat(follow_symlinks=False)
                    times = status.st_mtime, status.st_atime
                    yield Entry(file.name, status.st_size, *times)

    def _make_room(self) -> None:
        """Remove what was used longest ago, where there is too much, and what the killed left."""
        total = 0
        for number, entry in enumerate(self.entries()):
            total += entry.bytes
            if number >= MOST_FILES or total > MOST_BYTES:
                self.remove(entry.name)
        for entry in self._matching(_UNFINISHED):
            if time.time() - entry.written_s > ABANDONED_S:
                self.remove(entry.name)


def _is_safe(status: os.stat_result) -> bool:
    """Tell whether only this user or root can have written what has this status."""
    return status.st_uid in {0, os.geteuid()} and not status.st_mode & WRITABLE_BY_OTHERS


def _is_safe_on_the_way(status: os.stat_result) -> bool:
    """Tell whether others cannot replace what this user or root has in a directory."""
    is_sticky = bool(status.st_mode & stat.S_ISVTX)
    return status.st_uid in {0, os.geteuid()} and (
        is_sticky or not status.st_mode & WRITABLE_BY_OTHERS
    )


def _open_step_by_step(path: str, *, make: bool) -> int:
    """Open a directory, judging each one on the way. Raises OSError and StoreError."""
    names = [name for name in path.split("/") if name]
    if ".." in names:
        raise StoreError(f"{path} is not a plain path")
    here, so_far = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC), "/"
    try:
        for name in names:
            if not _is_safe_on_the_way(os.fstat(here)):
                raise StoreError(f"others can write to {so_far}")
            step = _open_directory(here, name, make=make)
            os.close(here)
            here, so_far = step, f"{so_far.rstrip('/')}/{name}"
        if not _is_safe(os.fstat(here)):
            raise StoreError(f"others can write to {so_far}")
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=here)
    finally:
        os.close(here)


def _open_directory(parent: int, name: str, *, make: bool) -> int:
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(FileNotFoundError):
        return os.open(name, flags, dir_fd=parent)
    if make:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=parent)
    return os.open(name, flags, dir_fd=parent)


def _read_all(file: int) -> bytes:
    parts = []
    while part := os.read(file, 1 << 20):
        parts.append(part)
    return b"".join(parts)
