"""Landlock: which files a process may open from now on (landlock(7)).

Rights are those of include/uapi/linux/landlock.h. A kernel knows as many as its version has; what
it does not know stays permitted. Files that are open stay open.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterable
from functools import cache

from tcptrace.kernel.syscalls import (
    landlock_add_path,
    landlock_create_ruleset,
    landlock_restrict_self,
)

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_AND_REMOVE = 0x1FF0
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
READ = READ_FILE | READ_DIR
WRITE = WRITE_FILE | _MAKE_AND_REMOVE | TRUNCATE
_OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
"""What can be permitted on a file that is no directory."""
_SINCE = {1: EXECUTE | WRITE_FILE | READ | _MAKE_AND_REMOVE, 2: REFER, 3: TRUNCATE, 5: IOCTL_DEV}
_NET_SINCE, _BIND_AND_CONNECT = 4, 0b11
_SCOPES_SINCE, _ABSTRACT_SOCKETS = 6, 0b01


@cache
def version() -> int:
    """Return the kernel's version of Landlock; 0 where it has none, or it is turned off."""
    try:
        return landlock_create_ruleset(b"")
    except OSError:
        return 0


def restrict(reads: Iterable[str], writes: Iterable[str]) -> bool:
    """Let this thread open nothing any more but what is below these places.

    Nor may it listen or connect by TCP. Return False where the kernel has no Landlock.
    """
    known = version()
    if not known:
        return False
    handled = sum(rights for since, rights in _SINCE.items() if since <= known)
    net = _BIND_AND_CONNECT if known >= _NET_SINCE else 0
    scoped = _ABSTRACT_SOCKETS if known >= _SCOPES_SINCE else 0
    size = 24 if known >= _SCOPES_SINCE else 16 if known >= _NET_SINCE else 8
    ruleset = landlock_create_ruleset(struct.pack("=QQQ", handled, net, scoped)[:size])
    try:
        for places, rights in ((reads, READ), (writes, READ | WRITE)):
            for place in places:
                _permit(ruleset, rights & handled, place)
        landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)
    return True


def _permit(ruleset: int, rights: int, place: str) -> None:
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # it is not there, or closed to this process anyway
    try:
        is_directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        landlock_add_path(ruleset, rights if is_directory else rights & _OF_FILES, descriptor)
    finally:
        os.close(descriptor)
