"""What /proc says of a process (proc(5)). One that has ended is None, or has no threads."""

from __future__ import annotations

import contextlib
from pathlib import Path

ENDED = frozenset("ZX")
# Inode numbers: include/linux/proc_ns.h, and include/uapi/linux/nsfs.h.
INITIAL = {"pid": 0xEFFFFFFC, "time": 0xEFFFFFFA}


def _stat(pid: int) -> list[str] | None:
    """Return the fields of a process's file stat, from the state on, which is the third."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(")")[2].split()
    return None


def start_time(pid: int) -> int | None:
    """Return when a process began, in clock ticks since boot."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in ENDED else None


def is_in_initial(namespace: str) -> bool:
    """Tell whether this process is in the initial namespace of a kind, such as "pid"."""
    try:
        return Path("/proc/self/ns", namespace).stat().st_ino == INITIAL[namespace]
    except FileNotFoundError:  # the kernel has no such namespaces
        return True


def cpu_ticks(pid: int) -> int | None:
    """Return how long a process has run on a processor, in clock ticks."""
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else None


def parent_of(pid: int) -> int | None:
    """Return the id of a process's parent."""
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def is_running(pid: int) -> bool:
    """Tell whether a thread of a process goes on; when none does, its files are closed."""
    states = (fields[0] for thread in threads_of(pid) if (fields := _stat(thread)))
    return any(state not in ENDED for state in states)


def threads_of(pid: int) -> set[int]:
    """Return the ids of a process's threads."""
    with contextlib.suppress(OSError):
        return {int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()}
    return set()
