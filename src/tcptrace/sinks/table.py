"""Tables whose rows are all known before the first is written, aligned as a whole.

On a terminal they are rich's. Where one is too narrow, columns that can be spared are left out,
those on the right first, then texts are folded. In a pipe tables are plain.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from tcptrace.model.columns import Column, clock_time
from tcptrace.model.events import NewTable, weight
from tcptrace.sinks.color import HEADING, Palette, is_dumb
from tcptrace.sinks.layout import Cell, cell_len, has_lines, padded, terminal_size
from tcptrace.sinks.stream import Piece, StreamSink
from tcptrace.sinks.text import NOTHING, cells

if TYPE_CHECKING:
    from rich.console import Console

Row = Sequence[Cell]
Write = Callable[[Sequence[str], Sequence[Row], TextIO, Palette], None]
CLEAR = "\x1b[H\x1b[2J"


def are_numbers(cells: Sequence[Cell]) -> bool:
    """Tell whether a column is of numbers, of which some may lack: they stand to the right."""
    known = [cell for cell in cells if cell.text != NOTHING]
    return bool(known) and all(cell.text.replace(".", "", 1).isdecimal() for cell in known)


def write_plain(
    headings: Sequence[str], rows: Sequence[Row], stream: TextIO, palette: Palette
) -> None:
    """Write a table of lines, each column as wide as its widest cell."""
    head = [Cell(heading, HEADING) for heading in headings]
    columns = [*zip(head, *rows, strict=True)]
    widths = [max(cell_len(cell.text) for cell in column) for column in columns]
    to_right = [are_numbers(column[1:]) for column in columns]
    for row in (head, *rows):
        parts = []
        for cell, width, right in zip(row, widths, to_right, strict=True):
            space = " " * (width - cell_len(cell.text)) if right else ""
            parts.append(space + padded(cell, 0 if right else width, palette))
        stream.write(" ".join(parts).rstrip() + "\n")


def rich_console(stream: TextIO, palette: Palette) -> Console:
    """Return a console that knows `stream`'s width and has the colours of `palette`."""
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import

    return Console(
        file=stream,
        width=terminal_size(stream).width,
        color_system="256" if palette.has_color else None,
        force_terminal=True,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )


def write_rich(
    headings: Sequence[str], rows: Sequence[Row], stream: TextIO, palette: Palette
) -> None:
    """Write a table of rich's, for a terminal."""
    from rich import box  # noqa: PLC0415 - rich is slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0, header_style="bold")
    for at, heading in enumerate(headings):
        cells = [row[at] for row in rows]
        is_right = are_numbers(cells)
        is_short = all(cell_len(cell.text) <= cell_len(heading) for cell in cells)
        table.add_column(
            Text(heading),
            justify="right" if is_right else "left",
            overflow="fold",
            no_wrap=is_right or is_short,
        )
    for row in rows:
        table.add_row(*(Text.from_ansi(palette.paint(cell.text, cell.look)) for cell in row))
    rich_console(stream, palette).print(table)


def fitting(columns: Sequence[Column], rows: Sequence[Row], width: int) -> list[int]:
    """Return the places of the columns that a terminal so wide has room for, or cannot do without.

    Those that can be spared are left out from the right, as many as it takes.
    """
    shown = list(range(len(columns)))
    needed = [
        max(cell_len(column.heading), *(cell_len(row[at].text) for row in rows), 0)
        for at, column in enumerate(columns)
    ]
    for at in reversed(range(len(columns))):
        if sum(needed[place] + 1 for place in shown) - 1 <= width:
            break
        if columns[at].is_spare:
            shown.remove(at)
    return shown


class TableSink(StreamSink):
    """Writes tables of rows, each when it is whole; a terminal shows nothing but the last."""

    def __init__(
        self, stream: TextIO, columns: Sequence[Column], palette: Palette, *, wide: bool = False
    ) -> None:
        """Write to `stream`; a row is one line if `wide`."""
        super().__init__(stream)
        self._columns = columns
        self._palette = palette
        self._is_terminal = stream.isatty()
        self._fits = self._is_terminal and not wide
        is_drawn = self._fits and has_lines(stream)
        self._write_table: Write = write_rich if is_drawn else write_plain
        self._table: NewTable | None = None
        self._rows: list[Row] = []
        self._weight = 0
        self._written = 0
        # rich imports what it needs when it draws; without rights, its files may be out of reach.
        self._write_table(["-"], [[Cell("\u2500", "dim")]], _Page(stream), palette)

    def write(self, rows: Sequence[Any]) -> None:
        """Add rows to the table; another one ends it."""
        for row in rows:
            if isinstance(row, NewTable):
                self._end()
                self._table = row
            else:
                self._table = self._table or NewTable()
                self._rows.append(cells(row, self._first_ns(row), self._columns))
                self._weight += weight(row)

    def _pieces(self, rows: Sequence[Any]) -> Iterator[Piece]:
        return iter(())

    def flush(self, seconds: float = 0) -> bool:
        """Write the table."""
        self._end()
        return super().flush(seconds)

    def _end(self) -> None:
        """Write the table, with its time if it has one."""
        if self._table is None:
            return
        page = _Page(self._stream)
        if self._written and self._is_terminal and not is_dumb():
            page.write(CLEAR)
        if self._table.wall_ns is not None:
            time = clock_time(self._table.wall_ns)
            page.write(self._palette.paint(time, "dim") + "\n")
        shown = self._shown()
        headings = [self._columns[at].heading for at in shown]
        rows = [[row[at] for at in shown] for row in self._rows]
        self._write_table(headings, rows, page, self._palette)
        self._output.put(page.getvalue(), self._weight)
        self._table, self._rows, self._weight = None, [], 0
        self._written += 1

    def _shown(self) -> Sequence[int]:
        """Return the places of the columns that are shown."""
        if not self._fits:
            return range(len(self._columns))
        return fitting(self._columns, self._rows, terminal_size(self._stream).width)


class _Page(io.StringIO):
    """Takes a table for a stream, whose size it has."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def fileno(self) -> int:
        return self._stream.fileno()
