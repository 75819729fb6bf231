"""What the screen of `tcptrace top` shows: from frames and keys to lines of text.

It has a line of the trace, one of graphs, and the table; behind a row are its graphs, processes,
connections and failures. It knows no terminal and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcptrace.model.columns import clock_time
from tcptrace.model.pace import Pace
from tcptrace.model.text import printable
from tcptrace.sinks.layout import Cell, cell_len
from tcptrace.sinks.screen import behind
from tcptrace.sinks.screen.fit import GRAPH, WITHOUT_ORDER, Columns, columns, heading_of
from tcptrace.sinks.screen.history import GRAPHS, INTERVALS, History, graphs, with_graph
from tcptrace.sinks.screen.text import (
    NOTHING,
    Line,
    duration,
    filled,
    fitted,
    graph,
    number,
    speed,
)
from tcptrace.top.aggregator import Row
from tcptrace.top.frame import Frame
from tcptrace.top.keys import Dimension, cells
from tcptrace.top.order import CalmOrder, Figure
from tcptrace.top.traffic import (
    BY_KEY,
    MEASURES,
    WHY,
    Traffic,
    activity,
    search_text,
    sort_text,
    traffic_of,
    why,
)

_REMEMBERED = 200
"""Rows, from the first, whose graphs are remembered."""


class Picture:
    """The state of the screen."""

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
        self._dimensions = dimensions
        self._title = title
        self._most_rows = most_rows
        self._only_failed = only_failed
        self.pace = pace
        """How fast the recording is played that is shown, if one is."""
        self._began_ns: int | None = None
        self._frame: Frame | None = None
        self._traffics: dict[Row, Traffic] = {}
        """Of the frame that is shown, as far as they were needed."""
        self._orders: dict[str, CalmOrder] = {}
        self._histories: dict[Row, History] = {}
        self._total = History()
        self._seen = [0] * len(dimensions)
        """How wide the keys are that were shown."""
        self._first = 0
        """How many rows are above the window."""
        self.rows: list[Row] = []
        """The rows that are shown, in their order."""
        self.selected: Row | None = None
        self.sorted_by = ""
        """The key of a measure or a dimension; empty for the busiest first."""
        self.is_reversed = False
        self.needle = ""
        """What the keys of rows must hold."""
        self.is_paused = False

    def update(self, frame: Frame) -> None:
        """Take a frame; a paused picture stands still, but its graphs go on."""
        if self._began_ns is None:
            self._began_ns = frame.interval.begin_ns
        if self._frame and frame.interval.end_ns <= self._frame.interval.end_ns:
            self._go_back(frame)
        if not self.is_paused:
            self._frame = frame
            self._traffics.clear()
            self.arrange()
        self._total.add(_of_graphs(frame.interval.total, frame, self._dimensions))
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
            history.add(_of_graphs(row, frame, self._dimensions))

    def pause(self) -> None:
        """Stand still, or go on with the next frame; a recording stands still itself."""
        if self.pace:
            self.pace.pause()
            return
        self.is_paused = not self.is_paused
        if self.is_paused and self._frame:
            for row in self.rows:  # rows go on to change
                self._traffic(row)

    # --- the order

    def arrange(self) -> None:
        """Order and filter the rows anew."""
        if self._frame is None:
            return
        wanted = [row for row in self._frame.interval.rows if self._keeps(row)]
        self.rows = self._in_order(wanted)[: self._most_rows]
        if self.selected not in self.rows:
            self.selected = None

    def _keeps(self, row: Row) -> bool:
        if self._only_failed and not row.run.failed:
            return False
        return not self.needle or self.needle.lower() in search_text(row, self._dimensions)

    def _in_order(self, wanted: list[Row]) -> list[Row]:
        names = [dimension.name for dimension in self._dimensions]
        if self.sorted_by in names:
            at = names.index(self.sorted_by)
            rows = sorted(wanted, key=lambda row: sort_text(self._dimensions, row, at))
        else:
            order = self._orders.setdefault(self.sorted_by, CalmOrder())
            rows = order.arrange({row: self._figure(row) for row in wanted})
        return rows[::-1] if self.is_reversed else rows

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

    def sort_by(self, key: str) -> None:
        """Sort by a column; by the same again, the other way round."""
        self.is_reversed = key == self.sorted_by and not self.is_reversed
        self.sorted_by = key
        self.arrange()

    def sort_beside(self, step: int, width: int) -> None:
        """Sort by a column to the right (1) or the left (-1) of the present one."""
        shown = [key for key, _ in self._columns(width) if key not in WITHOUT_ORDER]
        keys = ["", *shown]
        at = keys.index(self.sorted_by) if self.sorted_by in keys else 0
        self.sorted_by, self.is_reversed = keys[(at + step) % len(keys)], False
        self.arrange()

    def reverse(self) -> None:
        """Turn the order round."""
        self.is_reversed = not self.is_reversed
        self.arrange()

    def filter_by(self, needle: str) -> None:
        """Show the rows whose key has this in it."""
        self.needle = needle
        self.arrange()

    # --- the selected row

    def move(self, step: int) -> None:
        """Select a row further down, or up if `step` is negative."""
        if self.rows:
            known = self.selected in self.rows
            at = self.rows.index(self.selected) + step if self.selected and known else self._first
            self.selected = self.rows[min(max(at, 0), len(self.rows) - 1)]

    def select_at(self, line: int) -> None:
        """Select the row on a line of the window."""
        if 0 <= self._first + line < len(self.rows):
            self.selected = self.rows[self._first + line]

    def column_at(self, x: int, width: int) -> str | None:
        """Return the key of the column at a cell of the header, if rows can be ordered by it."""
        at = 0
        for key, wide in self._columns(width):
            if at <= x < at + wide:
                return None if key in WITHOUT_ORDER else key
            at += wide + 1
        return None

    # --- lines

    def head(self, width: int) -> list[Line]:
        """Return the lines above the table: the trace, graphs of all, and what is to be said."""
        frame = self._frame
        if frame is None:
            text = f"{self._title}  waiting for the first interval"
            return [[Cell(fitted(text, width), "heading")]]
        summary = "  ".join(self._summary(frame))
        lines = [[Cell(fitted(summary, width), "heading")], graphs(self._total, width)]
        state = "  ".join(self._state(frame))
        return [*lines, [Cell(fitted(state, width), "unusual")]] if state else lines

    def _summary(self, frame: Frame) -> Iterator[str]:
        """Yield what holds for all rows."""
        interval = frame.interval
        yield self._title
        yield clock_time(frame.wall_ns)
        yield f"up {duration((interval.end_ns - (self._began_ns or 0)) / 1e9)}"
        yield f"{interval.total.open} open"
        yield f"{len(interval.rows)} rows"
        if interval.fallen_out:
            yield f"{interval.fallen_out} fell out"
        if interval.untracked:
            yield f"{interval.untracked} not tracked"

    def _state(self, frame: Frame) -> Iterator[str]:
        """Yield what is not as usual."""
        if self.is_paused or (self.pace and self.pace.is_paused):
            yield "PAUSED"
        if self.pace and self.pace.has_ended():
            yield "END"
        if self.pace and self.pace.speed != 1:
            yield f"speed {speed(self.pace.speed)}"
        if self._only_failed:
            yield "with failures only"
        if self.needle:
            yield f"filter: {self.needle}"
        if frame.note:
            yield frame.note

    def _columns(self, width: int) -> Columns:
        return columns(self._dimensions, self._seen, width)

    def table(self, width: int, height: int) -> list[Line]:
        """Return the header and the rows that have room."""
        for row in self.rows[:_REMEMBERED]:
            for at, text in enumerate(cells(self._dimensions, row.key or ())):
                self._seen[at] = max(self._seen[at], cell_len(printable(text or NOTHING)))
        room = max(height - 1, 1)
        self._scroll(room)
        shown = self._columns(width)
        rows = self.rows[self._first : self._first + room]
        return [self._header(shown, width), *(self._line(row, shown, width) for row in rows)]

    def _scroll(self, room: int) -> None:
        """Move the window to where the selected row is."""
        self._first = max(0, min(self._first, len(self.rows) - room))
        if self.selected in self.rows:
            at = self.rows.index(self.selected)
            self._first = min(max(self._first, at - room + 1), at)

    def _header(self, shown: Columns, width: int) -> Line:
        line = []
        for at, (key, wide) in enumerate(shown):
            is_sorted = key == self.sorted_by
            mark = ("▲" if self.is_reversed else "▼") if is_sorted else ""
            text = (heading_of(key) + mark)[:wide]
            text = fitted(text, wide) if at < len(self._dimensions) else text.rjust(wide)
            line += [Cell(text, "sorted" if is_sorted else "header"), Cell(" ", "header")]
        return filled(line, width, "header")

    def _line(self, row: Row, shown: Columns, width: int) -> Line:
        keys = [printable(text or NOTHING) for text in cells(self._dimensions, row.key or ())]
        line = []
        for at, (key, wide) in enumerate(shown):
            if at < len(keys):
                line.append(Cell(fitted(keys[at], wide), "bold" if at == 0 else None))
            else:
                line.append(self._cell(row, key, wide))
            line.append(Cell(" "))
        line = filled(line, width)
        return [Cell(cell.text, "selected") for cell in line] if row is self.selected else line

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
        for heading, key in GRAPHS:
            yield filled(with_graph(heading, key, history, min(width, INTERVALS + 15)), width)
        traffic = self._traffic(row)
        texts = [
            f"{measure.heading} {number(measure.value(traffic), measure.unit)}"
            for measure in MEASURES
        ]
        for some in (texts[:10], texts[10:]):
            yield [Cell(fitted("  ".join(some), width))]


def _of_graphs(row: Row, frame: Frame, dimensions: Sequence[Dimension]) -> Traffic:
    """Return what an interval came to, as far as graphs need it."""
    return traffic_of(row, frame.interval, dimensions, whole_run=False)
