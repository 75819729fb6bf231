"""What a source hands over at a time: `Batch`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Batch(NamedTuple):
    """Events that have come, and the time by which they are all that has."""

    events: Iterator[Any]
    """Oldest first; to be used up before the next batch is asked for."""
    until_ns: int
    """CLOCK_MONOTONIC: of what happened before, nothing comes after this batch."""
    offset_ns: int = 0
    """What the wall clock was ahead of CLOCK_MONOTONIC."""
    boot_id: str = ""
    """Of a recording: which boot of its host the events are of, where that is known."""

    def wall_ns(self, ts_ns: int) -> int:
        """Return a time by CLOCK_MONOTONIC in nanoseconds since 1970."""
        return ts_ns + self.offset_ns
