"""Text: a header, then rows in columns; in a pipe plain, on a terminal laid out for its size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from tcptrace.model.columns import Column, Field, expressions, functions
from tcptrace.model.events import NewTable, weight
from tcptrace.model.lines import Form, Lines, Part, line_of
from tcptrace.model.text import printable
from tcptrace.sinks.color import HEADING, Palette
from tcptrace.sinks.layout import Cell, Screen, padded, terminal_size
from tcptrace.sinks.stream import Piece, StreamSink

NOTHING = "-"


def texts(values: Iterable[object]) -> list[str]:
    """Return the texts of values, safe for a terminal; "-" where nothing is known."""
    return [
        NOTHING
        if value is None
        else str(value)
        if value.__class__ is int
        else printable(str(value))
        for value in values
    ]


def cells(row: Any, first_ns: int, columns: Sequence[Column]) -> list[Cell]:
    """Return the cells of a row, with what deserves a look."""
    values = (column.value(row, first_ns) for column in columns)
    return [
        Cell(text, column.concern(row) or (column.style if text != NOTHING else "dim"))
        for text, column in zip(texts(values), columns, strict=True)
    ]


def _form_of(columns: Sequence[Column], widths: Sequence[int]) -> Form:
    """Return what lines with these columns consist of."""
    parts: list[str | Part] = []
    for expression, column, width in zip(expressions(columns), columns, widths, strict=True):
        text = (
            f"{NOTHING!r} if (v := {expression}) is None else "
            "v if v.__class__ is int else printable(v if v.__class__ is str else str(v))"
        )
        number = "" if isinstance(column.value, Field) else None
        parts += [Part(text, f"!s:<{width}" if width else "", column.reads(), number), " "]
    parts[-1] = "\n"
    return Form(parts, {**functions(columns), "printable": printable})


class PlainSink(StreamSink):
    """Columns of at least their declared width; nothing is cut."""

    def __init__(self, stream: TextIO, columns: Sequence[Column], palette: Palette) -> None:
        """Write to `stream`."""
        super().__init__(stream)
        self._columns = columns
        self._palette = palette
        self._widths = [column.width for column in columns[:-1]] + [0]
        self._form = _form_of(columns, self._widths)
        self._line = line_of(self._form)

    def form(self, _record: Any, /) -> Form | None:
        """Return what lines consist of, unless they have colours."""
        return None if self._palette.has_color else self._form

    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        for row in rows:
            if row.__class__ is Lines:
                yield from row.pieces()
            elif isinstance(row, NewTable):
                yield self._painted([Cell(column.heading, HEADING) for column in self._columns]), 0
            elif self._palette.has_color:
                painted = self._painted(cells(row, self._first_ns(row), self._columns))
                yield painted, weight(row)
            else:
                yield self._line(row, self._first_ns(row)), weight(row)

    def _painted(self, row: Sequence[Cell]) -> str:
        pairs = zip(row, self._widths, strict=True)
        return " ".join(padded(cell, width, self._palette) for cell, width in pairs) + "\n"


class TerminalSink(StreamSink):
    """Rows on a terminal, laid out batch by batch."""

    def __init__(
        self, stream: TextIO, columns: Sequence[Column], palette: Palette, *, wide: bool
    ) -> None:
        """Write to `stream`."""
        super().__init__(stream)
        self._columns = columns
        self._screen = Screen(columns, lambda: terminal_size(stream), palette, wide=wide)

    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        lines = [*self._lines(rows)]
        weights = [weight(row) for row in rows if not isinstance(row, NewTable)]
        weights = [0] * (len(lines) - len(weights)) + weights  # headers come first, mostly
        for line, count in zip(lines, weights, strict=True):
            yield f"{line}\n", count

    def _lines(self, rows: Sequence[Any]) -> Iterator[str]:
        waiting: list[list[Cell]] = []
        for row in rows:
            if isinstance(row, NewTable):
                yield from self._screen.lines(waiting)
                waiting.clear()
                self._screen.begin()
            else:
                waiting.append(cells(row, self._first_ns(row), self._columns))
        yield from self._screen.lines(waiting)
