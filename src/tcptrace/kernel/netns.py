"""Network namespaces: where they have names, what is one, and how to enter it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from tcptrace.kernel.syscalls import CLONE_NEWNET, setns

NAMED = Path("/run/netns")
"""Where ip-netns(8) gives them names."""
_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h


def is_netns(path: Path) -> bool:
    """Tell whether a file is a network namespace.

    A name can be an empty file: one that was made where its mount is not seen from here.
    """
    try:
        if path.stat().st_dev != Path("/proc/self/ns/net").stat().st_dev:
            return False
        with path.open("rb") as file:
            return fcntl.ioctl(file, _NS_GET_NSTYPE) == CLONE_NEWNET
    except (OSError, ValueError):  # a ValueError for a NUL in the path
        return False


def enter(path: Path) -> None:
    """Go to another network namespace, for good. Raises OSError."""
    there = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(there, CLONE_NEWNET)
    finally:
        os.close(there)
