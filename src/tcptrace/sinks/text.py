"""Text: a header, then rows in columns; in a pipe plain, on a terminal laid out for its size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TextIO

from tcptrace.model.columns import Column
from tcptrace.model.events import Clock, Event, printable
from tcptrace.sinks.color import HEADING, Palette
from tcptrace.sinks.layout import Cell, Screen, padded, terminal_size

NOTHING = "-"


def texts(event: Event, clock: Clock, columns: Sequence[Column]) -> list[str]:
    """Return the text of each column, safe for a terminal; "-" where nothing is known."""
    values = (column.value(event, clock) for column in columns)
    return [NOTHING if value is None else printable(str(value)) for value in values]


def cells(event: Event, clock: Clock, columns: Sequence[Column]) -> list[Cell]:
    """Return the cells of a row, with what deserves a look."""
    return [
        Cell(text, column.concern(event) or (column.style if text != NOTHING else "dim"))
        for text, column in zip(texts(event, clock, columns), columns, strict=True)
    ]


class PlainRenderer:
    """Columns of at least their declared width; nothing is cut."""

    def __init__(
        self, stream: TextIO, clock: Clock, columns: Sequence[Column], palette: Palette
    ) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._clock = clock
        self._columns = columns
        self._palette = palette
        self._widths = [column.width for column in columns[:-1]] + [0]
        self._form = " ".join(f"%-{width}s" if width else "%s" for width in self._widths) + "\n"

    def start(self, _backend: str) -> None:
        """Do nothing: text does not tell."""

    def header(self, _ts_ns: int | None = None) -> None:
        """Write the header."""
        self._paint([Cell(column.heading, HEADING) for column in self._columns])

    def row(self, event: Event) -> None:
        """Write one row."""
        if self._palette.has_color:
            self._paint(cells(event, self._clock, self._columns))
        else:
            self._stream.write(self._form % tuple(texts(event, self._clock, self._columns)))

    def _paint(self, row: Sequence[Cell]) -> None:
        pairs = zip(row, self._widths, strict=True)
        line = " ".join(padded(cell, width, self._palette) for cell, width in pairs)
        self._stream.write(line + "\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


class TerminalRenderer:
    """Rows on a terminal, laid out batch by batch."""

    def __init__(
        self,
        stream: TextIO,
        clock: Clock,
        columns: Sequence[Column],
        palette: Palette,
        *,
        wide: bool,
    ) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._clock = clock
        self._columns = columns
        self._screen = Screen(columns, lambda: terminal_size(stream), palette, wide=wide)
        self._waiting: list[list[Cell]] = []

    def start(self, _backend: str) -> None:
        """Do nothing: text does not tell."""

    def header(self, _ts_ns: int | None = None) -> None:
        """Write the header."""
        self._write(self._screen.header())

    def row(self, event: Event) -> None:
        """Keep one row for the batch."""
        self._waiting.append(cells(event, self._clock, self._columns))

    def flush(self) -> None:
        """Write the rows that wait."""
        self._write(self._screen.lines(self._waiting))
        self._waiting.clear()
        self._stream.flush()

    def _write(self, lines: Iterator[str]) -> None:
        self._stream.writelines(f"{line}\n" for line in lines)
