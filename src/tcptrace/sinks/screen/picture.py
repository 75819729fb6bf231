"""What the screen of `tcptrace top` shows: from frames and keys to lines of text.

It has a line of the trace, one of graphs, and the table; behind a row are its graphs, processes,
connections and failures. It knows no terminal and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from tcptrace.model.columns import clock_time
from tcptrace.model.pace import Pace
from tcptrace.model.text import printable
from tcptrace.sinks.layout import Cell, cell_len
from tcptrace.sinks.screen import behind
from tcptrace.sinks.screen.fit import FAILURES, GRAPH, RUN, TRAFFIC, Columns, columns, heading_of
from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.history import (
    GRAPHS,
    INTERVALS,
    History,
    figures_of,
    graphs,
    with_graph,
)
from tcptrace.sinks.screen.text import (
    NOTHING,
    Line,
    duration,
    filled,
    fitted,
    graph,
    number,
)
from tcptrace.top.aggregator import Row
from tcptrace.top.frame import Frame
from tcptrace.top.keys import BY_NAME, Dimension, cells
from tcptrace.top.measures import BY_KEY, WHY, why
from tcptrace.top.order import CalmOrder, Figure
from tcptrace.top.traffic import Traffic, activity, search_text, sort_text, traffic_of

_REMEMBERED = 200
"""Rows, from the first, whose graphs are remembered."""
_NOT_GRAPHED = ("open", "lat", "p95", "rtt", "retr")
_OF_RUN = ("conns", "accs", "fails", "rxall", "txall")


class Picture(Grid[Row]):
    """The state of the screen that shows traffic."""

    sorts: ClassVar = {
        "c": "conn",
        "a": "acc",
        "f": "fail",
        "o": "open",
        "b": "rx",
        "B": "tx",
        "l": "lat",
        "t": "rtt",
        "n": "",
    }
    help: ClassVar = (
        ("Enter →", "what is behind the row: processes, connections, failures"),
        ("c a f o", "sort by connects, accepts, failures, open connections"),
        ("b B l t", "sort by bytes in, bytes out, latency, round-trip time"),
        ("S", "show the whole run, or the last interval again"),
    )

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        title: str,
        *,
        most_rows: int | None = None,
        only_failed: bool = False,
        pace: Pace | None = None,
    ) -> None:
        """Start with nothing to show.

        Args:
            dimensions: what was added up by.
            title: what the first line begins with.
            most_rows: how many rows to show; None for all.
            only_failed: whether to show the rows with failures alone.
            pace: of the recording that is played; None where it is shown what happens.

        """
        super().__init__(title, most_rows=most_rows, pace=pace)
        self._dimensions = dimensions
        self._only_failed = only_failed
        self._began_ns: int | None = None
        self._frame: Frame | None = None
        self._open = 0
        """Connections, when the frame was taken."""
        self._traffics: dict[Row, Traffic] = {}
        """Of the frame that is shown, as far as they were needed."""
        self._orders: dict[str, CalmOrder[Row]] = {}
        self._histories: dict[Row, History] = {}
        self._total = History()
        self._seen = [0] * len(dimensions)
        """How wide the keys are that were shown."""

    def update(self, frame: Frame) -> None:
        """Take a frame; a paused picture stands still, but its graphs go on."""
        if self._began_ns is None:
            self._began_ns = frame.interval.begin_ns
        if self._frame and frame.interval.end_ns <= self._frame.interval.end_ns:
            self._go_back(frame)
        if not self.is_paused:
            self._frame = frame
            self._open = frame.interval.total.open
            self._traffics.clear()
            self.arrange()
        self._total.put(_of_graphs(frame.interval.total, frame, self._dimensions))
        self._remember(frame)

    def _go_back(self, frame: Frame) -> None:
        """Forget what comes after a frame of a recording: its rows are others."""
        self._total = History()
        self._histories, self._orders = {}, {}
        key = self.selected.key if self.selected else None
        self.selected = next((row for row in frame.interval.rows if row.key == key), None)

    def _remember(self, frame: Frame) -> None:
        """Add to the graphs of the first rows, and of those that have one."""
        alive = set(frame.interval.rows)
        wanted = [row for row in (*self.rows[:_REMEMBERED], *self._histories) if row in alive]
        histories = {row: self._histories.get(row) or History() for row in wanted}
        self._histories = dict([*histories.items()][: 2 * _REMEMBERED])
        for row, history in self._histories.items():
            history.put(_of_graphs(row, frame, self._dimensions))

    def pause(self) -> None:
        """Stand still, or go on with the next frame; a recording stands still itself."""
        super().pause()
        if self.is_paused and self._frame:
            for row in self.rows:  # rows go on to change
                self._traffic(row)

    # --- the order

    def _wanted(self) -> list[Row]:
        """Return the rows of the frame that are to be shown."""
        return [row for row in self._frame.interval.rows if self._keeps(row)] if self._frame else []

    def _keeps(self, row: Row) -> bool:
        if self._only_failed and not row.run.failed:
            return False
        return not self.needle or self.needle.lower() in search_text(row, self._dimensions)

    def _in_order(self, wanted: list[Row]) -> list[Row]:
        """Return rows in the order of `sorted_by`, which is calm where it is one of figures."""
        names = [dimension.name for dimension in self._dimensions]
        if self.sorted_by in names:
            at = names.index(self.sorted_by)
            return sorted(wanted, key=lambda row: sort_text(self._dimensions, row, at))
        order = self._orders.setdefault(self.sorted_by, CalmOrder())
        return order.arrange({row: self._figure(row) for row in wanted})

    def _figure(self, row: Row) -> Figure:
        """Return what a row is ordered by."""
        measure = BY_KEY.get(self.sorted_by)
        return (measure.value(self._traffic(row)) or 0.0,) if measure else activity(row)

    def _traffic(self, row: Row) -> Traffic:
        """Return what the interval that is shown came to in a row."""
        known = self._traffics.get(row)
        if known is None and self._frame:
            known = traffic_of(row, self._frame.interval, self._dimensions)
            self._traffics[row] = known
        if known is None:
            raise LookupError("there is no frame yet")
        return known

    # --- lines

    def head(self, width: int) -> list[Line]:
        """Return the lines above the table: the trace, graphs of all, and what is to be said."""
        frame = self._frame
        if frame is None:
            return self._waiting(width)
        summary = "  ".join(self._summary(frame))
        lines = [[Cell(fitted(summary, width), "heading")], graphs(self._total, width)]
        state = "  ".join(self._state(frame))
        return [*lines, filled([Cell(state, "unusual")], width)] if state else lines

    def _summary(self, frame: Frame) -> Iterator[str]:
        """Yield what holds for all rows."""
        interval = frame.interval
        yield self._title
        yield clock_time(frame.wall_ns)
        yield f"up {duration((interval.end_ns - (self._began_ns or 0)) / 1e9)}"
        yield f"{self._open} open"
        yield f"{len(interval.rows)} rows"
        if interval.fallen_out:
            yield f"{interval.fallen_out} fell out"
        if interval.untracked:
            yield f"{interval.untracked} not tracked"

    def _state(self, frame: Frame) -> Iterator[str]:
        """Yield what is not as usual."""
        yield from self._states()
        if self._only_failed:
            yield "with failures only"
        if frame.note:
            yield frame.note

    def _columns(self, width: int) -> Columns:
        """Return the columns that have room."""
        is_about_failures = self._only_failed or self.sorted_by == "fail"
        offered = RUN if self.shows_run else FAILURES if is_about_failures else TRAFFIC
        return columns(self._dimensions, self._seen, width, offered)

    def _heading(self, key: str) -> str:
        """Return a column's heading."""
        return heading_of(key)

    def _is_left(self, key: str) -> bool:
        """Tell whether a column is of what rows are added up by."""
        return key in BY_NAME

    def _measure(self) -> None:
        """Look how wide the keys of the first rows are."""
        for row in self.rows[:_REMEMBERED]:
            for at, text in enumerate(cells(self._dimensions, row.key or ())):
                self._seen[at] = max(self._seen[at], cell_len(printable(text or NOTHING)))

    def _cells(self, row: Row, shown: Columns) -> list[Cell]:
        """Return the cells of a row: those of its key, and its figures."""
        keys = [printable(text or NOTHING) for text in cells(self._dimensions, row.key or ())]
        return [
            Cell(fitted(keys[at], wide), None if at else "bold")
            if at < len(keys)
            else self._cell(row, key, wide)
            for at, (key, wide) in enumerate(shown)
        ]

    def _cell(self, row: Row, key: str, wide: int) -> Cell:
        """Return a figure of a row."""
        if key == GRAPH:
            of = (self._histories.get(row) or History()).of
            return Cell(graph(map(sum, zip(of["conn"], of["acc"], strict=True)), wide), "good")
        traffic = self._traffic(row)
        if key == WHY.key:
            return Cell((why(traffic) or "").rjust(wide), WHY.concern(traffic))
        measure = BY_KEY[key]
        value = measure.value(traffic)
        look = measure.concern(traffic) or (None if value else "dim")
        return Cell(number(value, measure.unit).rjust(wide), look)

    # --- behind a row

    def title_of(self, row: Row) -> str:
        """Return a row's key as text."""
        texts = cells(self._dimensions, row.key or ())
        return printable("  ".join(text or NOTHING for text in texts))

    def behind(self, row: Row, width: int) -> list[Line]:
        """Return what is behind a row."""
        if self._frame is None:
            return []
        found = sorted(
            self._frame.connections_of([row]), key=lambda connection: -connection.event.ts_ns
        )
        tables = behind.tables(row, found, self._frame.interval.end_ns, width)
        return [*self._figures(row, width), *tables]

    def _figures(self, row: Row, width: int) -> Iterator[Line]:
        """Yield the graphs of a row, then its other figures."""
        history = self._histories.get(row) or History()
        for figure in GRAPHS:
            yield filled(with_graph(figure, history, min(width, INTERVALS + 15)), width)
        yield filled([Cell(_figures_text(self._traffic(row), _NOT_GRAPHED))], width)
        of_run = _figures_text(self._traffic(row), _OF_RUN)
        yield filled([Cell("since the start: ", "dim"), Cell(of_run)], width)


def _figures_text(traffic: Traffic, keys: Sequence[str]) -> str:
    """Return some figures, each behind its heading."""
    measures = [BY_KEY[key] for key in keys]
    return "  ".join(
        f"{measure.heading} {number(measure.value(traffic), measure.unit)}" for measure in measures
    )


def _of_graphs(row: Row, frame: Frame, dimensions: Sequence[Dimension]) -> dict[str, float]:
    """Return what an interval came to, as far as graphs need it."""
    return figures_of(traffic_of(row, frame.interval, dimensions, whole_run=False))
