"""A stream as something to write to without ever waiting for its reader: `Output`.

Whoever waits in a write hears no signal: a reader that stands still would make a run deaf.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import select
import socket
import stat
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, TextIO

from tcptrace.errors import TcptraceError

MOST_BYTES = 1 << 16
"""How many bytes are written at once."""
Write = Callable[[bytes], int]


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
    """Let nothing that is still buffered fail again when the interpreter ends.

    A process that traces can open no device any more; memory takes all as well.
    """
    os.dup2(os.memfd_create("discarded"), stream.fileno())


class _Way(NamedTuple):
    """How a file is written to without waiting."""

    descriptor: int
    write: Write
    """Raises BlockingIOError instead of waiting."""
    most: int
    """Bytes that are written at once; a pipe takes so many whole or not at all."""
    close: Callable[[], None] = lambda: None


def _way_to(descriptor: int) -> _Way:
    """Return how to write to an open file; its flags are others', too, and stay as they are."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISSOCK(mode):
        return _way_to_socket(descriptor)
    is_pipe = stat.S_ISFIFO(mode)
    if not is_pipe and not os.isatty(descriptor):
        return _Way(descriptor, lambda data: os.write(descriptor, data), MOST_BYTES)
    return _way_to_pipe(descriptor, select.PIPE_BUF if is_pipe else MOST_BYTES)


def _way_to_pipe(descriptor: int, most: int) -> _Way:
    """Open a pipe or terminal once more, with flags of our own."""
    flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        own = os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # it may be another user's
        return _Way(descriptor, _where_ready(descriptor), select.PIPE_BUF)
    return _Way(own, lambda data: os.write(own, data), most, lambda: os.close(own))


def _where_ready(descriptor: int) -> Write:
    """Return a function that writes where there is room; for what a pipe takes at once."""
    poller = select.poll()
    poller.register(descriptor, select.POLLOUT)

    def write(data: bytes) -> int:
        if not poller.poll(0):
            raise BlockingIOError
        return os.write(descriptor, data[: select.PIPE_BUF])

    return write


def _way_to_socket(descriptor: int) -> _Way:
    own = socket.socket(fileno=os.dup(descriptor))
    flags = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
    return _Way(own.fileno(), lambda data: own.send(data, flags), MOST_BYTES, own.close)


class Output:
    """Takes text for a stream, and hands it over as its reader makes room."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`, which stays open, behind what it has been given by others."""
        stream.flush()
        self._stream = stream
        self._fresh: list[tuple[str, int]] = []
        """Texts that come behind those that are pending, and that were not tried yet."""
        self._pending: deque[tuple[bytes, int]] = deque()
        self._written = 0
        """Bytes of the first that is pending."""
        self._way: _Way | None = None
        with contextlib.suppress(io.UnsupportedOperation):  # not a file, but a test's buffer
            descriptor = stream.fileno()
            if descriptor >= 0:  # else a screen takes it: textual's stand-in for a stream
                self._way = _way_to(descriptor)
        self._poller = select.poll()
        if self._way:
            self._poller.register(self._way.descriptor, select.POLLOUT)

    def put(self, text: str, rows: int = 0) -> None:
        """Take text that tells of so many rows, to be written at the next `push`."""
        self.put_all([(text, rows)] if text else [])

    def put_all(self, pieces: Iterable[tuple[str, int]]) -> None:
        """Take texts, each with the number of rows that it tells of."""
        if self._way is None:
            for text, _ in pieces:
                self._stream.write(text)
        else:
            self._fresh += pieces

    def push(self) -> bool:
        """Write what there is room for; tell whether that is all. Raises OSError."""
        if not self._way or self._pushed_at_once(self._way):
            return True
        self._pending.extend((self._encoded(text), rows) for text, rows in self._fresh)
        self._fresh.clear()
        self._forget_written()
        while self._pending:
            try:
                self._written += self._way.write(self._next())
            except BlockingIOError:
                return False
            self._forget_written()
        return True

    def _pushed_at_once(self, way: _Way) -> bool:
        """Write all in one piece, where that may be; tell whether nothing is left."""
        if self._pending or way.most < MOST_BYTES:
            return False
        data = self._encoded("".join([text for text, _ in self._fresh]))
        with contextlib.suppress(BlockingIOError):
            self._written = way.write(data) if data else 0
        if self._written < len(data):
            return False
        self._fresh.clear()
        self._written = 0
        return True

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._stream.encoding, "backslashreplace")

    def _forget_written(self) -> None:
        """Forget the pieces that are written."""
        while self._pending and self._written >= len(self._pending[0][0]):
            self._written -= len(self._pending.popleft()[0])

    def _next(self) -> bytes:
        """Return what to write at once: whole pieces, where they fit."""
        size = 0
        parts: list[bytes] = []
        for data, _ in self._pending:
            size += len(data)
            if parts and self._way and size > self._way.most:
                break
            parts.append(data)
        return b"".join(parts)[self._written :]

    def wait(self, seconds: float) -> bool:
        """Wait for room, or for the reader's end; tell whether that came."""
        return bool(self._poller.poll(seconds * 1000))

    def push_within(self, seconds: float) -> bool:
        """Write all of it if there is room for it in time; tell whether that is so."""
        deadline = time.monotonic() + seconds
        while not self.push():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.wait(left)
        return True

    def drop(self) -> int:
        """Forget what is pending; return of how many rows it tells."""
        rows = sum(rows for _, rows in (*self._pending, *self._fresh))
        self._pending.clear()
        self._fresh.clear()
        self._written = 0
        return rows

    def has_reader(self) -> bool:
        """Tell whether somebody could read what is written."""
        gone = select.POLLERR | select.POLLHUP | select.POLLNVAL
        return not any(events & gone for _, events in self._poller.poll(0))

    def close(self) -> None:
        """Let go of the stream."""
        if self._way:
            self._way.close()
