"""Tables of `tcptrace top`, one for each interval: which rows, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tcptrace.model.events import NewTable
from tcptrace.top.aggregator import Interval, Row
from tcptrace.top.frame import Frame
from tcptrace.top.keys import Dimension
from tcptrace.top.listeners import Listener, Table
from tcptrace.top.measures import BY_KEY
from tcptrace.top.traffic import Traffic, activity, is_alive, sort_text, table, traffic_of


def anew(frames: Iterator[Any]) -> Iterator[Any]:
    """Yield frames, each as a table of its own: it tells all that those before it did."""
    for frame in frames:
        yield NewTable()
        yield frame


def of_listeners(tables: Iterator[Table], rows: int | None) -> Iterator[NewTable | Listener]:
    """Yield tables of who listens."""
    for found in tables:
        yield NewTable(found.wall_ns)
        yield from found.rows[:rows]


def of_traffic(
    frames: Iterator[Frame],
    by: Sequence[Dimension],
    sort: str | None,
    rows: int | None,
    *,
    only_failed: bool,
) -> Iterator[NewTable | Traffic]:
    """Yield a table for each frame."""
    for frame in frames:
        yield NewTable(frame.wall_ns)
        chosen = _chosen(frame.interval, by, sort, only_failed=only_failed)
        yield from table(frame.interval, by, chosen[:rows], frame.wall_ns)


def _chosen(
    interval: Interval, by: Sequence[Dimension], sort: str | None, *, only_failed: bool
) -> list[Row]:
    """Return the rows to show, in their order."""
    rows = [row for row in interval.rows if row.run.failed or not only_failed]
    rows = [row for row in rows if is_alive(row) or only_failed]
    names = [dimension.name for dimension in by]
    if sort in names:
        return sorted(rows, key=lambda row: sort_text(by, row, names.index(sort)))
    measure = BY_KEY.get(sort or "")
    if measure is None:
        return sorted(rows, key=activity, reverse=True)
    figures = {row: measure.value(traffic_of(row, interval, by)) or 0.0 for row in rows}
    return sorted(rows, key=lambda row: figures[row], reverse=True)
