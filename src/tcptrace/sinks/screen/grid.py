"""A table that is looked at on a screen: its order, its filter, its window and the selected row."""

from __future__ import annotations

import abc
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from tcptrace.model.pace import Pace
from tcptrace.sinks.layout import Cell
from tcptrace.sinks.screen.fit import WITHOUT_ORDER, Columns
from tcptrace.sinks.screen.text import Line, filled, fitted, speed

Key = TypeVar("Key", bound=Hashable)
"""What a row is known by from one frame to the next."""


class Grid(abc.ABC, Generic[Key]):
    """The state of a screen with a table; it knows no terminal and no clock."""

    sorts: ClassVar[Mapping[str, str]]
    """Keys to press, and the columns that they sort by."""
    help: ClassVar[Sequence[tuple[str, str]]]
    """Keys to press, and what they do, of this table alone."""

    def __init__(self, title: str, *, most_rows: int | None, pace: Pace | None = None) -> None:
        """Start with nothing to show.

        Args:
            title: what the first line begins with.
            most_rows: how many rows to show; None for all.
            pace: of the recording that is played; None where it is shown what happens.

        """
        self._title = title
        self._most_rows = most_rows
        self.pace = pace
        self._first = 0
        """How many rows are above the window."""
        self.rows: list[Key] = []
        """The rows that are shown, in their order."""
        self.selected: Key | None = None
        self.sorted_by = ""
        """The key of a column; empty for the busiest first."""
        self.is_reversed = False
        self.needle = ""
        """What the text of rows must hold."""
        self.is_paused = False
        self.shows_run = False
        """Whether a narrow screen has the figures of the whole run, where a table has such."""

    # --- what tables differ in

    @abc.abstractmethod
    def update(self, frame: Any) -> None:
        """Take a frame."""

    @abc.abstractmethod
    def head(self, width: int) -> list[Line]:
        """Return the lines above the table."""

    @abc.abstractmethod
    def title_of(self, row: Key) -> str:
        """Return what a row is called."""

    @abc.abstractmethod
    def behind(self, row: Key, width: int) -> list[Line]:
        """Return what is behind a row."""

    @abc.abstractmethod
    def _wanted(self) -> list[Key]:
        """Return the rows that there are, as far as they are to be shown."""

    @abc.abstractmethod
    def _in_order(self, wanted: list[Key]) -> list[Key]:
        """Return rows in the order of `sorted_by`."""

    @abc.abstractmethod
    def _columns(self, width: int) -> Columns:
        """Return the columns that have room; those that stand to the left come first."""

    @abc.abstractmethod
    def _heading(self, key: str) -> str:
        """Return a column's heading."""

    @abc.abstractmethod
    def _is_left(self, key: str) -> bool:
        """Tell whether a column stands to the left, as texts do."""

    @abc.abstractmethod
    def _cells(self, row: Key, shown: Columns) -> list[Cell]:
        """Return the cells of a row, each as wide as its column."""

    def _measure(self) -> None:
        """Look how wide the rows are; called before they are shown."""

    # --- the order

    def arrange(self) -> None:
        """Order and filter the rows anew."""
        rows = self._in_order(self._wanted())
        self.rows = (rows[::-1] if self.is_reversed else rows)[: self._most_rows]
        if self.selected not in self.rows:
            self.selected = None

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
        """Show the rows whose text has this in it."""
        self.needle = needle
        self.arrange()

    def pause(self) -> None:
        """Stand still, or go on with the next frame; a recording stands still itself."""
        if self.pace:
            self.pace.pause()
        else:
            self.is_paused = not self.is_paused

    def _waiting(self, width: int) -> list[Line]:
        """Return the line above the table before there is one."""
        text = "  ".join([self._title, "waiting for the first interval", *self._states()])
        return [[Cell(fitted(text, width), "heading")]]

    def _states(self) -> Iterator[str]:
        """Yield what is not as usual, of what the user has done."""
        if self.is_paused or (self.pace and self.pace.is_paused):
            yield "PAUSED"
        if self.pace and self.pace.has_ended():
            yield "END"
        if self.pace and self.pace.speed != 1:
            yield f"speed {speed(self.pace.speed)}"
        if self.needle:
            yield f"filter: {self.needle}"

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

    def table(self, width: int, height: int) -> list[Line]:
        """Return the header and the rows that have room."""
        self._measure()
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
        for key, wide in shown:
            is_sorted = key == self.sorted_by
            mark = ("▲" if self.is_reversed else "▼") if is_sorted else ""
            text = (self._heading(key) + mark)[:wide]
            text = fitted(text, wide) if self._is_left(key) else text.rjust(wide)
            line += [Cell(text, "sorted" if is_sorted else "header"), Cell(" ", "header")]
        return filled(line, width, "header")

    def _line(self, row: Key, shown: Columns, width: int) -> Line:
        line = [part for cell in self._cells(row, shown) for part in (cell, Cell(" "))]
        line = filled(line, width)
        if row == self.selected:
            return [Cell(cell.text, "selected") for cell in line]
        return line
