"""Plain text: a header, then rows in columns, for files, pipes and awk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from tcptrace.model.columns import Column
from tcptrace.model.events import Clock, Event, printable

NOTHING = "-"


def cells(event: Event, clock: Clock, columns: Sequence[Column]) -> list[str]:
    """Return the text of each column, safe for a terminal; "-" where nothing is known."""
    values = (column.value(event, clock) for column in columns)
    return [NOTHING if value is None else printable(str(value)) for value in values]


class PlainRenderer:
    """Columns of at least their declared width; nothing is cut."""

    def __init__(self, stream: TextIO, clock: Clock, columns: Sequence[Column]) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._clock = clock
        self._columns = columns
        last = len(columns) - 1
        self._form = " ".join(
            "%s" if at == last else f"%-{column.width}s" for at, column in enumerate(columns)
        )

    def start(self, _backend: str) -> None:
        """Do nothing: text does not tell."""

    def header(self) -> None:
        """Write the header."""
        self._write([column.heading for column in self._columns])

    def row(self, event: Event) -> None:
        """Write one row."""
        self._write(cells(event, self._clock, self._columns))

    def _write(self, texts: list[str]) -> None:
        self._stream.write(self._form % tuple(texts) + "\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()
