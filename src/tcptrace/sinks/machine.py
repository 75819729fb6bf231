"""Output for programs: JSON Lines, after schema.json, and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from tcptrace.model.columns import Column
from tcptrace.model.events import NewTable, to_json
from tcptrace.model.text import printable
from tcptrace.sinks.stream import Piece, StreamSink, weight

FORMULA = tuple("=+-@＝＋－＠")  # noqa: RUF001 - spreadsheets take wide forms, too
"""What a formula begins with."""


class JsonSink(StreamSink):
    """One JSON object a line; control characters are escaped as JSON does."""

    def __init__(self, stream: TextIO) -> None:
        """Write to `stream`."""
        super().__init__(stream)
        self._encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        backend = self._meta.backend
        for row in rows:
            if not isinstance(row, NewTable):  # an object names its values
                yield self._encode(to_json(row, backend)) + "\n", weight(row)


class CsvSink(StreamSink):
    """RFC 4180 with the columns' keys as header; what is not known is empty."""

    def __init__(self, stream: TextIO, columns: Sequence[Column]) -> None:
        """Write to `stream`."""
        super().__init__(stream)
        self._columns = columns
        self._is_headed = False

    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        """Yield the header, once: tables that follow have the same columns; and the rows."""
        for row in rows:
            if not isinstance(row, NewTable):
                first_ns = self._first_ns(row)
                values = (column.value(row, first_ns) for column in self._columns)
                yield _record(map(_cell, values)), weight(row)
            elif not self._is_headed:
                self._is_headed = True
                yield _record(column.key for column in self._columns), 0


def _record(cells: Iterable[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue()


def _cell(value: object) -> str:
    """Return the text of a cell; names that a spreadsheet would compute get a quote in front."""
    if value is None:
        return ""
    text = printable(str(value))
    return f"'{text}" if isinstance(value, str) and text.startswith(FORMULA) else text
