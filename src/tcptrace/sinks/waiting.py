"""Recordings that have ended, and wait to be carried away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tcptrace.model import filenames


def waiting(spool: Path) -> Iterator[Path]:
    """Yield the files that have ended, the oldest first."""
    found = (path for path in spool.rglob("*.parquet") if filenames.place_of(path.name))
    yield from sorted(found, key=lambda path: (path.parts[-3], path.name))
