"""Rows that are kept as JSON Lines: what ``--json`` prints, behind one line about all of it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import sys
from typing import Any, TextIO

from tcptrace.errors import TcptraceError
from tcptrace.kernel.apart import give
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta, meta_to_json
from tcptrace.sinks.machine import JsonSink

STDOUT = "-"
SHORT = (",", ":")
FLAGS = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
MODE = 0o600
"""Only the owner may read what processes talk to."""


def create(path: str, *, force: bool) -> int:
    """Make a file that only its owner can read; return its descriptor.

    Raises:
        TcptraceError: it exists and may not be overwritten, or cannot be made.

    """
    try:
        descriptor = _made(path) if not force else _made_or_emptied(path)
    except FileExistsError:
        raise TcptraceError(f"{path} is already there.\nGive --force to overwrite it") from None
    except OSError as error:
        raise TcptraceError(f"cannot make {path}: {error.strerror}") from None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.fchmod(descriptor, MODE)
    return descriptor


def _made(path: str) -> int:
    """Make a file that belongs to the user who traces. Raises OSError."""
    descriptor = os.open(path, FLAGS | os.O_EXCL, MODE)
    give(descriptor)
    return descriptor


def _made_or_emptied(path: str) -> int:
    """Make a file, or empty the one that is there, which stays its owner's. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        return _made(path)
    return os.open(path, FLAGS | os.O_TRUNC, MODE)


def _stream(path: str, *, force: bool) -> TextIO:
    if path == STDOUT:
        return sys.stdout
    return os.fdopen(create(path, force=force), "w", encoding="ascii")


class JsonLinesRecording(JsonSink):
    """A recording as JSON Lines."""

    def __init__(self, path: str, *, force: bool) -> None:
        """Write to the file `path`, or to standard output."""
        super().__init__(_stream(path, force=force))
        self._path = path
        self._known = NOTHING_LOST

    def open(self, meta: Meta) -> None:
        """Write the line about all rows."""
        super().open(meta)
        self._put(meta_to_json(meta))

    def note(self, losses: Losses) -> None:
        """Write what may be missing so far."""
        if losses != self._known:
            self._known = losses
            self._put({"type": "losses", **losses._asdict()})

    def flush(self, seconds: float = 0) -> bool:
        """Hand rows over; an error names the file."""
        try:
            return super().flush(seconds)
        except OSError as error:
            if self._path != STDOUT:
                error.filename = self._path
            raise

    def close(self, losses: Losses) -> None:
        """Write that this is all of it."""
        self._put({"type": "end", **losses._asdict()})
        super().close(losses)
        if self._path != STDOUT:
            self._stream.close()

    def _put(self, values: dict[str, Any]) -> None:
        self._output.put(f"{json.dumps(values, separators=SHORT)}\n")
