"""What a screen shows at a time: `Frame`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from tcptrace.top.aggregator import Connection, Interval, Row


class Frame(NamedTuple):
    """An interval, and what is behind its rows."""

    interval: Interval
    wall_ns: int
    """Its end by the wall clock, in nanoseconds since 1970."""
    connections_of: Callable[[Iterable[Row]], Iterator[Connection]]
    """The open connections of some rows, as they are now."""
    note: str = ""
    """What is not as it should be."""

    @property
    def weight(self) -> int:
        """How many attempts and accepts it counts in the summary: those of the whole run."""
        return self.interval.total.run.attempts + self.interval.total.run.accepts
