"""Network namespaces: where they have names, what is one, and how to enter it."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from tcptrace.kernel.shortage import check_shortage
from tcptrace.kernel.syscalls import CLONE_NEWNET, setns

NAMED = Path("/run/netns")
"""Where ip-netns(8) gives them names."""
NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h


def open_netns(path: Path) -> int | None:
    """Return a descriptor that keeps a network namespace; None for a file that is none.

    A name can be an empty file: one that was made where its mount is not seen from here. Raises
    ShortageError.
    """
    try:
        if path.stat().st_dev != Path("/proc/self/ns/net").stat().st_dev:
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
        if isinstance(error, OSError):
            check_shortage(error, f"cannot open {path}")
        return None
    with contextlib.suppress(OSError):
        if fcntl.ioctl(descriptor, NS_GET_NSTYPE) == CLONE_NEWNET:
            return descriptor
    os.close(descriptor)
    return None


def is_netns(path: Path) -> bool:
    """Tell whether a file is a network namespace."""
    descriptor = open_netns(path)
    if descriptor is None:
        return False
    os.close(descriptor)
    return True


def enter(path: Path) -> None:
    """Go to another network namespace, for good; to be there takes no right. Raises OSError."""
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if os.fstat(there).st_ino != Path("/proc/self/ns/net").stat().st_ino:
            setns(there, CLONE_NEWNET)
    finally:
        os.close(there)
