"""Output for programs: JSON Lines, after schema.json, and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from tcptrace.model.columns import Column, values_of
from tcptrace.model.events import NewTable, weight
from tcptrace.model.lines import Form, Lines
from tcptrace.model.objects import form_of, object_of
from tcptrace.model.text import printable
from tcptrace.sinks.stream import Piece, StreamSink

FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001 - spreadsheets take wide forms, too
"""The characters that a formula can begin with."""


class JsonSink(StreamSink):
    """One JSON object a line; control characters are escaped as JSON does."""

    def form(self, record: Any, /) -> Form:
        """Return what lines of a class of rows consist of."""
        return form_of(record, self._meta.backend)

    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        for row in rows:
            if row.__class__ is Lines:
                yield from row.pieces()
            elif row.__class__ is not NewTable:  # an object names its values
                yield object_of(row.__class__, self._meta.backend)(row, 0), weight(row)


class CsvSink(StreamSink):
    """RFC 4180 with the columns' keys as header; what is not known is empty."""

    def __init__(self, stream: TextIO, columns: Sequence[Column]) -> None:
        """Write to `stream`."""
        super().__init__(stream)
        self._columns = columns
        self._values = values_of(columns)
        self._is_headed = False
        self._lines = _Lines()
        self._writer = csv.writer(self._lines, lineterminator="\r\n")

    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        """Yield the header, once: tables that follow have the same columns; and the rows."""
        for row in rows:
            if not isinstance(row, NewTable):
                yield self._record(self._values(row, self._first_ns(row))), weight(row)
            elif not self._is_headed:
                self._is_headed = True
                yield self._record(column.key for column in self._columns), 0

    def _record(self, values: Iterable[object]) -> str:
        self._writer.writerow(map(_cell, values))
        return self._lines.pop()


class _Lines(list[str]):
    """Takes what is written, piece by piece."""

    write = list.append


def _cell(value: object) -> str:
    """Return the text of a cell; names that a spreadsheet would compute get a quote in front."""
    if value is None:
        return ""
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else text
