"""Messages to people: lines on standard error. A run goes on where they cannot be written."""

from __future__ import annotations

import contextlib
import sys
from contextlib import closing

from tcptrace.model.text import printable
from tcptrace.sinks.output import Output

PATIENCE_S = 0.1
"""How long a message waits for a reader who stands still, in seconds; later ones do not wait."""


def say(text: str) -> None:
    """Tell the user something, in the program's name."""
    tell(f"tcptrace: {text}")


def tell(text: str) -> None:
    """Write lines to standard error, where they can be written.

    What a terminal could act on is escaped: paths, names and others' errors are data.
    """
    lines = (line.expandtabs() for line in text.split("\n"))
    _STDERR.write("".join(f"{printable(line)}\n" for line in lines))


def show_progress(text: str = "") -> None:
    """Show what is being done, on a terminal, where the next such text takes its place."""
    with contextlib.suppress(ValueError):
        if sys.stderr.isatty():
            _STDERR.write(f"\r\x1b[K{printable(text)}")


class _Stderr:
    """Standard error, and whether its reader stood still when it was last written to."""

    def __init__(self) -> None:
        self._patience_s = PATIENCE_S

    def write(self, text: str) -> None:
        with (
            contextlib.suppress(OSError, ValueError),  # closed, full or without a reader
            closing(Output(sys.stderr)) as output,
        ):
            output.put(text)
            is_taken = output.push()
            if not is_taken:
                output.wait(self._patience_s)
                is_taken = output.push()
            self._patience_s = PATIENCE_S if is_taken else 0.0


_STDERR = _Stderr()
