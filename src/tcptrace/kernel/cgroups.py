"""The cgroup v2 hierarchy: where the directory of a cgroup id is, and whose container it is."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tcptrace.kernel.syscalls import open_by_handle_at

MOUNTS = Path("/proc/self/mountinfo")
CGROUP_NS = Path("/proc/self/ns/cgroup")
CGROUP_NS_INIT_INO = 0xEFFFFFFB  # include/uapi/linux/nsfs.h
ROOT_ID = 1
"""The id of the hierarchy's root: the kernel gives it first."""
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILEID_KERNFS = 0xFE  # include/linux/exportfs.h


class _Mount(NamedTuple):
    place: str
    root: str
    """Which directory of the hierarchy is there, as seen from this process's cgroup namespace."""


def _mounts() -> Iterator[_Mount]:
    """Yield where cgroup v2 is mounted (proc_pid_mountinfo(5)).

    The kernel escapes blanks and newlines alone: any other byte may be in a name.
    """
    for line in MOUNTS.read_bytes().split(b"\n"):
        before, _, after = line.partition(b" - ")
        if after.startswith(b"cgroup2 "):
            root, place = before.split(b" ")[3:5]
            yield _Mount(
                *(os.fsdecode(re.sub(rb"\\([0-7]{3})", _octal, field)) for field in (place, root))
            )


def _unescape(name: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", _octal, name))


def _octal(escaped: re.Match[bytes]) -> bytes:
    return bytes([int(escaped[1], 8) & 0xFF])


def _is_whole(mount: _Mount) -> bool:
    """Tell whether the root of the hierarchy is mounted there, and not a directory below it."""
    try:
        return Path(mount.place).stat().st_ino == ROOT_ID
    except OSError:
        return False


@functools.cache
def _mount() -> _Mount | None:
    """Return a mount of cgroup v2, if possible of the whole hierarchy."""
    return min(_mounts(), key=lambda mount: not _is_whole(mount), default=None)


def mount_point() -> str | None:
    """Return where cgroup v2 is mounted; None where it is not."""
    mount = _mount()
    return mount and mount.place


@functools.cache
def _above() -> str | None:
    """Return the path from the hierarchy's root to what is mounted, which no namespace may hide."""
    mount = _mount()
    if mount is None or _is_whole(mount):
        return mount and ""
    is_initial = CGROUP_NS.stat().st_ino == CGROUP_NS_INIT_INO
    return mount.root.rstrip("/") if is_initial else None


@functools.cache
def _root() -> int | None:
    """Open what is mounted, for good."""
    place = mount_point()
    return None if place is None else os.open(place, DIRECTORY)


def prepare() -> int | None:
    """Find the hierarchy while this process may; return the descriptor that `path_of` needs."""
    with contextlib.suppress(OSError):
        _above()
        return _root()
    return None


def _inside(path: str, directory: str) -> str | None:
    """Return the path from a directory, such as ``/a/b``; None for what is not below it."""
    above, parts = (text.rstrip("/").split("/") for text in (directory, path))
    below = parts[len(above) :]
    if parts[: len(above)] != above or ".." in below:
        return None
    return "".join(f"/{part}" for part in below)


@functools.lru_cache(maxsize=4096)
def path_of(cgroup_id: int | None) -> str | None:
    r"""Return a cgroup's path from the root of the hierarchy, such as ``/system.slice``.

    None where it is not known: for a cgroup that has been removed and was not asked for before,
    without CAP_DAC_READ_SEARCH, or without cgroup v2; and in a cgroup namespace that does not show
    the root. Bytes that are not UTF-8 become ``\xNN``.
    """
    try:
        root, above = _root(), _above()
        if cgroup_id is None or root is None or above is None:
            return None
        directory = open_by_handle_at(root, FILEID_KERNFS, cgroup_id, DIRECTORY)
        try:
            path = os.readlink(f"/proc/self/fd/{directory}")  # noqa: PTH115 - bytes that Path changes
        finally:
            os.close(directory)
    except OSError:
        return None
    inside = _inside(path, mount_point() or "")
    return None if inside is None else _text(above + inside)


def has_paths() -> bool:
    """Tell whether cgroups can be known by their paths here."""
    return mount_point() is not None and _above() is not None


def _text(path: str) -> str:
    return os.fsencode(path or "/").decode("utf-8", "backslashreplace")


def everywhere() -> Iterator[tuple[int, str]]:
    """Yield the id and path of each cgroup, as `path_of` has it, as far as they are shown here.

    An id has 64 bits, which on all machines that tcptrace knows is an inode number.
    """
    place, above = mount_point(), _above()
    if place is None or above is None:
        return
    yield os.stat(place).st_ino, _text(above)  # noqa: PTH116 - as below
    waiting = [(place, above)]
    while waiting:
        directory, path = waiting.pop()
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    inside = f"{path}/{entry.name}"
                    yield entry.inode(), _text(inside)
                    waiting.append((entry.path, inside))


def ids_of(pid: int) -> tuple[int, ...]:
    """Return the ids of a process's cgroup and of those above it, nearest first.

    Empty without cgroup v2, and where its cgroup was removed. Raises OSError where the process has
    ended.
    """
    lines = Path(f"/proc/{pid}/cgroup").read_bytes().split(b"\n")
    path = next((line[3:] for line in lines if line.startswith(b"0::")), None)
    mount = _mount()
    inside = _inside(os.fsdecode(path), mount.root) if mount and path else None
    if mount is None or inside is None:
        return ()
    place = Path(mount.place)
    own = place / inside.lstrip("/")
    above = (own, *own.parents)
    if not own.is_dir():
        return ()
    return tuple(directory.stat().st_ino for directory in above[: above.index(place) + 1])
