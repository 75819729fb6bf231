"""What sinks that write text to a stream have in common: `StreamSink`."""

from __future__ import annotations

import abc
import io
import select
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta


def _poller(stream: TextIO) -> select.poll | None:
    """Return what tells when the reader of a stream is gone; None where it is no file."""
    poller = select.poll()
    try:
        poller.register(stream.fileno(), 0)
    except io.UnsupportedOperation:
        return None
    return poller


class StreamSink(abc.ABC):
    """Writes rows as text, in one piece each time."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`, which stays open."""
        self._stream = stream
        self._poller = _poller(stream)
        self._first: int | None = None

    def open(self, meta: Meta) -> None:
        """Keep what holds for all rows."""
        self._meta = meta

    def write(self, rows: Sequence[Any]) -> None:
        """Write rows."""
        text = "".join(self._texts(rows))
        if text:
            self._stream.write(text)

    @abc.abstractmethod
    def _texts(self, rows: Sequence[Any]) -> Iterator[str]:
        """Yield the text of rows, with the ends of their lines."""

    def _first_ns(self, row: Any) -> int:
        """Return when the first row that was ever asked about happened."""
        if self._first is None:
            self._first = row.ts_ns
        return int(self._first or 0)

    def flush(self) -> None:
        """Hand all rows to the stream's reader."""
        self._stream.flush()

    def is_closed(self) -> bool:
        """Tell whether the stream's reader is gone."""
        return bool(self._poller and self._poller.poll(0))

    def close(self, losses: Losses) -> None:
        """Hand over what is left; whoever gave the stream closes it."""
        self.flush()
