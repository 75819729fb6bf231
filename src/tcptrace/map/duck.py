"""DuckDB, the engine of one machine: it works on disk what has no room in memory."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import duckdb

from tcptrace.errors import ShortageError, TcptraceError
from tcptrace.map.engine import Files
from tcptrace.map.place import Place

NO_SPACE = os.strerror(errno.ENOSPC)
GLOB = re.compile(r"[*?\[]")
"""What would stand for several files in a path."""


class DuckDb:
    """An engine of a run, with a database of its own in a directory that goes with it."""

    name = "duckdb"
    time_ns = "epoch_ns(time)"

    def __init__(self, memory: int, place: str | None = None) -> None:
        """Use at most so many bytes of memory; keep what is too much below `place`."""
        self._place = Place(place)
        self._connection = duckdb.connect(
            str(Path(self._place.name, "map.db")),
            config={
                "memory_limit": f"{memory}B",
                "temp_directory": str(Path(self._place.name, "spilled")),
                "threads": str(os.cpu_count() or 1),
                "preserve_insertion_order": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            },
        )

    def scan(self, table: Files, view: str) -> Collection[str]:
        """Make a view of files; return the names of its columns."""
        paths = ", ".join(self.text(GLOB.sub(r"[\g<0>]", path)) for path in table.paths)
        options = "filename = true, hive_partitioning = false"
        self.run(f"CREATE TEMP VIEW {view} AS SELECT * FROM read_parquet([{paths}], {options})")  # noqa: S608 - quoted
        return [name for name, *_ in self.rows(f"DESCRIBE {view}")]

    def in_filename(self, part: str) -> str:
        """Return a part of a path as it stands in the column `filename`."""
        return part

    def text(self, value: str) -> str:
        """Return a text as it stands in a query."""
        return "'" + value.replace("'", "''") + "'"

    def hashed(self, *expressions: str) -> str:
        """Return the expression of a 64-bit hash of others."""
        return f"hash({', '.join(expressions)})"

    def run(self, statement: str) -> None:
        """Run a statement. Raises TcptraceError."""
        try:
            self._connection.execute(statement)
        except duckdb.Error as error:
            raise self._failed(error) from error

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query selects. Raises TcptraceError."""
        self.run(query)
        return self._connection.fetchall()

    def _failed(self, error: duckdb.Error) -> TcptraceError:
        first = str(error).partition("\n")[0]
        message = f"DuckDB could not make the map: {first}"
        if isinstance(error, duckdb.OutOfMemoryException) or NO_SPACE in first:
            hint = "Give it more with --memory, or a disk with more room with --temp"
            return ShortageError(f"{message}\n{hint}", details=str(error))
        return TcptraceError(message, details=str(error))

    def close(self) -> None:
        """Let go of all that was made."""
        self._connection.close()
        self._place.cleanup()
