"""What is told to people, beside the data: lines on standard error. A run goes on without it."""

from __future__ import annotations

import contextlib
import select
import sys

from tcptrace.model.events import printable

PATIENCE_MS = 200
"""So long a message waits for a reader; it is left out where that is not enough."""


def say(text: str) -> None:
    """Tell the user something, in the program's name."""
    tell(f"tcptrace: {text}")


def tell(text: str) -> None:
    """Write lines to standard error, where they can be written.

    What a terminal could act on is escaped: paths, names and others' errors are data.
    """
    lines = (line.expandtabs() for line in text.split("\n"))
    with contextlib.suppress(OSError, ValueError):  # closed, full or without a reader
        if _has_room():
            sys.stderr.write("".join(f"{printable(line)}\n" for line in lines))
            sys.stderr.flush()


def _has_room() -> bool:
    """Tell whether a message can be written; a reader that stands still is not waited for."""
    try:
        descriptor = sys.stderr.fileno()
    except OSError:  # not a file, but a test's buffer
        return True
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)
    return bool(poller.poll(PATIENCE_MS))
