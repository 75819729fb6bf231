"""How a stream of rows is laid out on a terminal: every cell below its heading, none cut.

A column is as wide as its values usually are, or as the widest that was seen. Where a row is wider
than the terminal,

1. columns shrink to the widest value that was seen;
2. columns that tell what others tell (`Column.is_spare`) are left out;
3. rows, and the header, take two lines or more.

The header comes with the first rows, whose widths it needs, and again when the layout changes,
after each screenful, and after a resize. With each screenful, widths that only rows before the last
screenful needed are forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TextIO

from tcptrace.model.columns import Column
from tcptrace.sinks.color import HEADING, Palette

INDENT = 4
"""Spaces in front of a row's second line and those that follow."""
LEAST_ROWS = 5
"""The least number of rows between two headers, however low the terminal is."""
MOST_CELLS = 1000
"""The largest width and height that is believed: a screen keeps something for each cell."""


class Size(NamedTuple):
    """A terminal's size, in cells."""

    width: int
    height: int


class Cell(NamedTuple):
    """A cell's text and its look, see `Palette`."""

    text: str
    look: str | None = None


class Layout(NamedTuple):
    """Where columns stand: for each line of a row, their places in the list and their widths."""

    lines: tuple[tuple[tuple[int, int], ...], ...]


NO_LAYOUT = Layout(())


def terminal_size(stream: TextIO, environ: Mapping[str, str] = os.environ) -> Size:
    """Return the size of the terminal that `stream` is; COLUMNS and LINES, where set, come first.

    A variable that asks for more than `MOST_CELLS` is left aside. A terminal that does not tell,
    and none at all, has 80 columns and 24 lines.
    """
    try:
        told = os.get_terminal_size(stream.fileno())
    except (OSError, ValueError):
        told = os.terminal_size((0, 0))

    def first(name: str, told: int, usual: int) -> int:
        text = environ.get(name, "")
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MOST_CELLS))
        asked = int(text) if is_number else 0
        return (asked if asked <= MOST_CELLS else 0) or min(told, MOST_CELLS) or usual

    return Size(first("COLUMNS", told.columns, 80), first("LINES", told.lines, 24))


def has_lines(stream: TextIO) -> bool:
    """Tell whether a stream's encoding has what lines and bars are drawn of."""
    try:
        "\u2500\u2588".encode(getattr(stream, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


@lru_cache(maxsize=4096)
def _char_width(char: str) -> int:
    import unicodedata  # noqa: PLC0415 - seldom needed

    if unicodedata.category(char) in {"Mn", "Me"}:
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cell_len(text: str) -> int:
    """Return how many of a terminal's cells a printable text takes."""
    return len(text) if text.isascii() else sum(map(_char_width, text))


def padded(cell: Cell, width: int, palette: Palette) -> str:
    """Return the painted cell with spaces behind it."""
    return palette.paint(cell.text, cell.look) + " " * (width - cell_len(cell.text))


def _total(line: Iterable[int], widths: Sequence[int]) -> int:
    """Return the width of a line of columns, with a space between two."""
    return sum(widths[at] + 1 for at in line) - 1


def _widened(
    line: Sequence[int], columns: Sequence[Column], needed: Sequence[int], space: float
) -> tuple[tuple[int, int], ...]:
    """Return a line's columns with their widths: the first get room for more, as far as it goes.

    The last needs none: its width is 0.
    """
    left = space - _total(line, needed)
    widths = []
    for at in line[:-1]:
        roomy = columns[at].roomy(needed[at])
        if roomy - needed[at] > left:
            roomy = needed[at]
        left -= roomy - needed[at]
        widths.append((at, roomy))
    return (*widths, (line[-1], 0))


def _groups(columns: Sequence[Column]) -> list[list[int]]:
    """Return the columns' places, those that join another in one list with it."""
    groups: list[list[int]] = []
    for at, column in enumerate(columns):
        if column.joins and groups:
            groups[-1].append(at)
        else:
            groups.append([at])
    return groups


def _lines(
    columns: Sequence[Column], needed: Sequence[int], space: int
) -> Iterator[tuple[list[int], int]]:
    """Yield the columns of each line, as many as it takes, and the line's room."""
    line: list[int] = []
    room = space
    for group in _groups(columns):
        stays_whole = _total(group, needed) <= space - INDENT
        for part in [group] if stays_whole else [[at] for at in group]:
            if line and _total([*line, *part], needed) > room:
                yield line, room
                line, room = [], space - INDENT
            line += part
    yield line, room


def arrange(columns: Sequence[Column], needed: Sequence[int], space: float) -> Layout:
    """Return the layout for cells as wide as `needed` on a terminal as wide as `space`."""
    every = list(range(len(columns)))
    essential = [at for at in every if not columns[at].is_spare]
    for chosen in (every, essential):
        if chosen and _total(chosen, needed) <= space:
            return Layout((_widened(chosen, columns, needed, space),))
    lines = _lines(columns, needed, int(space))
    return Layout(tuple(_widened(line, columns, needed, room) for line, room in lines))


class Screen:
    """Lays out a stream of rows, batch by batch, for a terminal that may change its size."""

    def __init__(
        self,
        columns: Sequence[Column],
        size: Callable[[], Size],
        palette: Palette,
        *,
        wide: bool = False,
    ) -> None:
        """Show `columns`; `size` is asked for each batch; `wide` puts all on one line."""
        self._columns = columns
        self._size = size
        self._palette = palette
        self._wide = wide
        self._headings = [Cell(column.heading, HEADING) for column in columns]
        self._needed = self._recent = [0] * len(columns)
        """Widths: of the cells since the header before the last, and since the last."""
        self._layout = NO_LAYOUT
        self._sized = size()
        self._left = 0
        """How many lines may come before the next header."""

    def begin(self) -> None:
        """Let a header come with the next rows."""
        self._left = 0

    def lines(self, rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
        """Yield the lines of a batch of rows, with headers where they are due."""
        rest = rows
        while rest:
            fitted = rest[: self._room()]
            yield from self._begin(fitted)
            fitted = fitted[: self._room()]
            for row in fitted:
                yield from self._row(row)
            rest = rest[len(fitted) :]

    def _is_full(self) -> bool:
        return self._left < max(1, len(self._layout.lines))

    def _room(self) -> int:
        """Return how many rows may come now, or behind the header that is due."""
        left = self._sized.height if self._is_full() else self._left
        return max(1, left // max(1, len(self._layout.lines)))

    def _begin(self, rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
        """Choose a layout that `rows` fit into; yield the header if it is due."""
        size = self._size()
        is_due = self._is_full()
        if is_due:
            self._needed, self._recent = self._recent, [0] * len(self._columns)
        for row in (self._headings, *rows):
            widths = [cell_len(cell.text) for cell in row]
            self._needed = [*map(max, self._needed, widths)]
            self._recent = [*map(max, self._recent, widths)]
        space = float("inf") if self._wide else size.width
        layout = arrange(self._columns, self._needed, space)
        if is_due or (layout, size) != (self._layout, self._sized):
            self._layout, self._sized = layout, size
            self._left = size.height - 1
            yield from self._row(self._headings)
            self._left = max(self._left, LEAST_ROWS * len(layout.lines))

    def _row(self, row: Sequence[Cell]) -> Iterator[str]:
        """Yield a row's lines; the terminal itself folds what is longer than it is wide."""
        for at, line in enumerate(self._layout.lines):
            indent = INDENT if at else 0
            used = (
                indent + sum(width + 1 for _, width in line) - 1 + cell_len(row[line[-1][0]].text)
            )
            self._left -= max(1, -(-used // max(1, self._sized.width)))
            cells = (padded(row[place], width, self._palette) for place, width in line)
            yield " " * indent + " ".join(cells)
