"""What an error says that is short, and what to do about that."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from tcptrace.errors import ShortageError

REASONS = {
    errno.EMFILE: "this process may not open more files.\nRaise its limit: ulimit -n 4096",
    errno.ENFILE: "this system may not open more files.\nRaise its limit: sysctl fs.file-max",
    errno.ENOMEM: "memory is short.\n"
    "Give it more (ulimit -v, the cgroup's memory.max), or try a smaller --buffer-mb",
    errno.EFBIG: "this process may not write files so large.\nRaise its limit: ulimit -f",
}
FORKING = {
    errno.EAGAIN: "no more processes may be started.\n"
    "Raise the limit: ulimit -u, the cgroup's pids.max"
}
"""What fork(2) means."""
LOADING = {
    errno.E2BIG: "the program is too large for this kernel's verifier.\n"
    "Give fewer values to the filters, or ranges: 8000-8100"
}
"""What bpf(2) means."""


def check_shortage(error: OSError, what: str, more: Mapping[int, str] | None = None) -> None:
    """Raise ShortageError where an error says that a resource is short.

    Args:
        error: as the system call gave it.
        what: what cannot be done, such as "cannot load the programs".
        more: what this system call means by its own errors.

    """
    reason = {**REASONS, **(more or {})}.get(error.errno or 0)
    if reason:
        raise ShortageError(f"{what}: {reason}") from None


def short_of(number: int, what: str) -> ShortageError:
    """Return what to tell of the resource that an errno of `REASONS` says is short."""
    return ShortageError(f"{what}: {REASONS[number]}")
