"""Rows that are kept in a Parquet file, in columns typed after their classes; see groups.py."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.sinks.groups import (
    GROUP_ROWS,
    GROUP_S,
    Groups,
    Waiting,
    ended,
    first_known,
    schema_of,
    sync,
)
from tcptrace.sinks.recording import create


class ParquetRecording:
    """A recording in a Parquet file."""

    def __init__(self, path: str, records: Iterable[Any], *, force: bool) -> None:
        """Write rows of these classes to the file `path`."""
        self._path = path
        self._schema = schema_of(records)
        self._descriptor = create(path, force=force)
        self._groups: Groups | None = None
        """None once they cannot be written."""

    def open(self, meta: Meta) -> None:
        """Begin the file; each end says what holds for all rows."""
        self._waiting = Waiting(self._schema, meta)
        self._groups = Groups(self._descriptor, self._schema, first_known(meta))
        self._do(self._groups.begin)

    def write(self, rows: Sequence[Any]) -> None:
        """Keep rows for their group."""
        self._waiting.add(rows)
        if self._waiting.count >= GROUP_ROWS:
            self._write_group()

    def note(self, losses: Losses) -> None:
        """Do nothing: the end tells."""

    def flush(self, seconds: float = 0) -> bool:
        """Write the group if its rows have waited; nobody else has to take them."""
        if self._waiting.count and time.monotonic() - self._waiting.since >= GROUP_S:
            self._write_group()
        return True

    def drop(self) -> int:
        """Forget rows that could not be written; return of how many events they tell."""
        return self._waiting.drop()

    def is_closed(self) -> bool:
        """Tell that a file can always be written to."""
        return False

    def close(self, losses: Losses) -> None:
        """Write the last group, and the end of all."""
        try:
            if self._groups and self._waiting.count:
                self._write_group()
            if self._groups:
                groups = self._groups
                self._do(lambda: groups.end(ended(losses)))
        finally:
            os.close(self._descriptor)

    def _write_group(self) -> None:
        """Append the rows as a group."""
        groups = self._groups
        if groups:
            table = self._waiting.table()
            self._do(lambda: groups.append(table))
            self._waiting.drop()

    def _do(self, write: Callable[[], None]) -> None:
        """Write, to the disk itself; an error names the file, and ends all writing."""
        try:
            write()
            sync(self._descriptor)
        except OSError as error:
            self._groups = None
            error.filename = self._path
            raise
