"""What the join asks of an SQL engine: `Engine`; map.sql is the same for all of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple, Protocol

END = re.compile(r";\n")


class Files(NamedTuple):
    """Parquet files that are read as one table: they have the same columns.

    To find out what columns files have in common, an engine would hold all of them open.
    """

    paths: Sequence[str]
    host: str | None = None
    """Whose they are; None where a part of each path says so, or a column."""
    hosts: Mapping[str, str] = {}
    """The hosts that parts of the paths name, by these, such as ``host=db%2F1``."""


class Engine(Protocol):
    """Runs SQL over Parquet files."""

    name: str
    time_ns: str
    """The column `time` of recordings as nanoseconds since 1970."""

    def scan(self, table: Files, view: str) -> Collection[str]:
        """Make a view of files, with their names; return the names of its columns."""

    def in_filename(self, part: str) -> str:
        """Return a part of a path as it stands in the column `filename`."""

    def text(self, value: str) -> str:
        """Return a text as it stands in a query."""

    def hashed(self, *expressions: str) -> str:
        """Return the expression of a 64-bit hash of others."""

    def run(self, statement: str) -> None:
        """Run a statement. Raises TcptraceError."""

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what a query selects. Raises TcptraceError."""

    def close(self) -> None:
        """Let go of all that was made."""


def statements() -> Iterator[str]:
    """Yield the statements of map.sql, in their order."""
    text = files("tcptrace.map").joinpath("map.sql").read_text(encoding="utf-8")
    yield from (part for part in END.split(text) if part.strip())
