"""Standard output, as a file that may be closed."""

from __future__ import annotations

import fcntl
import io
import os
from typing import TextIO

from tcptrace.errors import TcptraceError


def require_open(stream: TextIO) -> None:
    """Raise TcptraceError where nothing can be written to `stream`, standard output."""
    try:
        flags = fcntl.fcntl(stream.fileno(), fcntl.F_GETFL)
    except io.UnsupportedOperation:  # not a file, but a test's buffer
        return
    if flags & os.O_ACCMODE == os.O_RDONLY:
        raise TcptraceError(
            "standard output is closed, or open for reading alone: rows have nowhere to go.\n"
            "Give it a file, a pipe or a terminal"
        )


def buffered(stream: TextIO) -> TextIO:
    """Return `stream`, standard output, with a buffer.

    With PYTHONUNBUFFERED it has none, and Python then drops the rest of a write that a signal cuts
    short.
    """
    if not isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        return stream
    return os.fdopen(stream.fileno(), "w", encoding=stream.encoding, closefd=False)


def discard(stream: TextIO) -> None:
    """Let nothing that is still buffered fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
