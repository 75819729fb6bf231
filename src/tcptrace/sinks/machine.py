"""Output for programs: JSON Lines, after schema.json, and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import TextIO

from tcptrace.model.columns import Column
from tcptrace.model.events import Clock, Event, printable, to_json


class JsonRenderer:
    """One JSON object a line; control characters are escaped as JSON does."""

    def __init__(self, stream: TextIO, clock: Clock) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._clock = clock
        self._backend = ""
        self._encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

    def start(self, backend: str) -> None:
        """Remember `backend`: objects name it."""
        self._backend = backend

    def header(self, _ts_ns: int | None = None) -> None:
        """Write nothing: an object names its values."""

    def row(self, event: Event) -> None:
        """Write one object."""
        self._stream.write(self._encode(to_json(event, self._clock, self._backend)) + "\n")

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


class CsvRenderer:
    """RFC 4180 with the columns' keys as header; what is not known is empty."""

    def __init__(self, stream: TextIO, clock: Clock, columns: Sequence[Column]) -> None:
        """Write to `stream`."""
        self._stream = stream
        self._clock = clock
        self._columns = columns
        self._writer = csv.writer(stream, lineterminator="\r\n")
        self._is_headed = False

    def start(self, _backend: str) -> None:
        """Do nothing: CSV does not tell."""

    def header(self, _ts_ns: int | None = None) -> None:
        """Write the header, once: tables that follow have the same columns."""
        if self._is_headed:
            return
        self._is_headed = True
        self._writer.writerow(column.key for column in self._columns)

    def row(self, event: Event) -> None:
        """Write one record."""
        cells = (column.value(event, self._clock) for column in self._columns)
        self._writer.writerow("" if cell is None else printable(str(cell)) for cell in cells)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()
