"""tracefs: where it is mounted, and what it says of tracepoints."""

from __future__ import annotations

from pathlib import Path

from tcptrace.errors import TcptraceError
from tcptrace.kernel.syscalls import CLONE_NEWNS, MS_PRIVATE, MS_REC, mount, unshare

USUAL_PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))


def find() -> Path | None:
    """Return where tracefs is mounted and can be read, or None."""
    for place in USUAL_PLACES:
        try:
            if (place / "events").is_dir():
                return place
        except PermissionError:
            continue
    return None


def find_or_mount() -> Path:
    """Return where tracefs is; mount it for this process alone where it is not.

    The mount is made in a mount namespace of this process's own, so that nothing changes for the
    rest of the system. Call it only in a process that may change its namespaces.

    Raises:
        TcptraceError: it is not mounted and cannot be.

    """
    place = find()
    if place:
        return place
    try:
        unshare(CLONE_NEWNS)
        mount("none", "/", "", MS_REC | MS_PRIVATE)
        mount("tracefs", str(USUAL_PLACES[0]), "tracefs")
    except OSError as error:
        raise TcptraceError(
            f"tracefs is not readable and cannot be mounted privately ({error.strerror}).\n"
            f"As root: mount -t tracefs tracefs {USUAL_PLACES[0]}"
        ) from None
    return USUAL_PLACES[0]


def tracepoint_id(name: str) -> int:
    """Return the id of the tracepoint ``category:event``. Raises OSError or TcptraceError."""
    category, _, event = name.partition(":")
    return int((find_or_mount() / "events" / category / event / "id").read_text())
