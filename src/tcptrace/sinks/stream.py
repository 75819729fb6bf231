"""What sinks that write text to a stream have in common: `StreamSink`."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from tcptrace.model.lines import Form
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.sinks.output import Output

Piece = tuple[str, int]
"""A text that is written whole or not at all, and of how many events it tells."""


class StreamSink(abc.ABC):
    """Writes rows as text, each of them whole; waits for the reader only in `flush`."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`, which stays open."""
        self._stream = stream
        self._output = Output(stream)
        self._first: int | None = None

    def open(self, meta: Meta) -> None:
        """Keep what holds for all rows."""
        self._meta = meta

    def write(self, rows: Sequence[Any]) -> None:
        """Take rows."""
        self._output.put_all(self._pieces(rows))

    @abc.abstractmethod
    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        """Yield the texts of rows, with the ends of their lines."""

    def form(self, _record: Any, /) -> Form | None:
        """Return what lines of a class of rows consist of, if it can take `Lines`."""
        return None

    def first_ns(self, ts_ns: int) -> int:
        """Return when the first row of all happened: this one, if none was there before."""
        if self._first is None:
            self._first = ts_ns
        return int(self._first or 0)

    def _first_ns(self, row: Any) -> int:
        """Return when the first row that was ever asked about happened."""
        return self.first_ns(row.ts_ns)

    def note(self, losses: Losses) -> None:
        """Keep what may be missing so far; people are told of it apart."""
        self._losses = losses

    def flush(self, seconds: float = 0) -> bool:
        """Hand rows to the stream's reader; tell whether all were taken.

        It waits for a reader that reads on, but not for one that takes nothing in so many seconds.
        """
        while not self._output.push():
            if not self._output.wait(seconds):
                return False
        return True

    def drop(self) -> int:
        """Forget rows that were not taken; return of how many events they tell."""
        return self._output.drop()

    def is_closed(self) -> bool:
        """Tell whether the stream's reader is gone."""
        return not self._output.has_reader()

    def close(self, losses: Losses) -> None:
        """Hand over what the reader takes; whoever opened the stream closes it."""
        self.flush()
        self._output.close()
