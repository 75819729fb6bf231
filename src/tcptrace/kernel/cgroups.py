"""The cgroup v2 hierarchy: where the directory of a cgroup id is, and whose container it is."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from tcptrace.kernel.syscalls import open_by_handle_at

MOUNTS = Path("/proc/self/mounts")
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
FILEID_KERNFS = 0xFE  # include/linux/exportfs.h
# Docker, Podman, containerd and CRI-O end a container's cgroup with its id, under systemd as in
# docker-ID.scope.
_CONTAINER = re.compile("[/-]([0-9a-f]{64})(?:[.]scope)?(?=/|$)")


@functools.cache
def mount_point() -> str | None:
    """Return where cgroup v2 is mounted; None where it is not.

    The kernel escapes blanks and newlines alone: any other byte may be in a name.
    """
    for line in MOUNTS.read_bytes().split(b"\n"):
        _, place, kind, *_ = (*line.split(b" "), b"", b"", b"")
        if kind == b"cgroup2":
            return os.fsdecode(re.sub(rb"\\([0-7]{3})", _octal, place))
    return None


def _octal(escaped: re.Match[bytes]) -> bytes:
    return bytes([int(escaped[1], 8) & 0xFF])


@functools.cache
def _root() -> int | None:
    """Open the hierarchy's root, for good."""
    place = mount_point()
    return None if place is None else os.open(place, DIRECTORY)


@functools.lru_cache(maxsize=4096)
def path_of(cgroup_id: int | None) -> str | None:
    r"""Return a cgroup's path from the root of the hierarchy, such as ``/system.slice``.

    None where it is not known: for a cgroup that has been removed and was not asked for before,
    without CAP_DAC_READ_SEARCH, or without cgroup v2. Bytes that are not UTF-8 become ``\xNN``.
    """
    try:
        root = _root()
        if cgroup_id is None or root is None:
            return None
        directory = open_by_handle_at(root, FILEID_KERNFS, cgroup_id, DIRECTORY)
        try:
            path = Path(f"/proc/self/fd/{directory}").readlink()
        finally:
            os.close(directory)
    except OSError:
        return None
    inside = str(path).removeprefix(mount_point() or "") or "/"
    return os.fsencode(inside).decode("utf-8", "backslashreplace")


@functools.lru_cache(maxsize=4096)
def container_of(cgroup_id: int | None) -> str | None:
    """Return the id of the innermost container that a cgroup is of, as its path tells.

    64 hexadecimal digits; None where there is none, or `path_of` knows no path.
    """
    found = _CONTAINER.findall(path_of(cgroup_id) or "")
    return found[-1] if found else None


def ids_of(pid: int) -> tuple[int, ...]:
    """Return the ids of a process's cgroup and of those above it, nearest first.

    Empty without cgroup v2, and where its cgroup was removed. Raises OSError where the process has
    ended.
    """
    lines = Path(f"/proc/{pid}/cgroup").read_bytes().split(b"\n")
    path = next((line[3:] for line in lines if line.startswith(b"0::")), None)
    place = mount_point()
    if place is None or path is None:
        return ()
    mount = Path(place)
    own = mount / os.fsdecode(path).lstrip("/")
    above = (own, *own.parents)
    if not own.is_dir():
        return ()
    return tuple(one.stat().st_ino for one in above[: above.index(mount) + 1])
