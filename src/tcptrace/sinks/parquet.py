"""Rows that are kept in a Parquet file, in columns typed after their classes; see groups.py."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.sinks.groups import (
    GroupedSink,
    Groups,
    Waiting,
    ended,
    first_known,
    schema_of,
    sync,
)
from tcptrace.sinks.recording import create


class ParquetRecording(GroupedSink):
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

    def note(self, losses: Losses) -> None:
        """Do nothing: the end tells."""

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
