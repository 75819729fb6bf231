"""A report: sections of lines, for `tcptrace doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TextIO

from tcptrace.model.text import printable
from tcptrace.sinks.color import HEADING, PLAIN, Palette
from tcptrace.sinks.layout import Cell, cell_len, padded
from tcptrace.sinks.table import rich_console

MARKS = {True: ("ok", "good"), False: ("no", "failure"), None: ("-", "dim")}


class Line(NamedTuple):
    """One line: a label, what is to be said, and whether that is good."""

    label: str
    text: str
    good: bool | None


def write_report(
    sections: Mapping[str, Sequence[Line]], stream: TextIO, palette: Palette = PLAIN
) -> None:
    """Write `sections` by heading as one table; rich folds long lines on a terminal."""
    width = max((cell_len(line.label) for lines in sections.values() for line in lines), default=0)
    if stream.isatty():
        _write_rich(sections, stream, palette, width)
        return
    for heading, lines in sections.items():
        stream.write(palette.paint(heading, HEADING) + "\n")
        for line in lines:
            mark, label, text = _cells(line)
            parts = (padded(mark, 2, palette), padded(label, width, palette), text.text)
            stream.write("  " + " ".join(parts).rstrip() + "\n")


def _cells(line: Line) -> tuple[Cell, Cell, Cell]:
    """Return a line's mark, label and text."""
    mark, look = MARKS[line.good]
    text = printable(line.text)
    if not line.label:
        return Cell(""), Cell(""), Cell(text, "dim")
    return Cell(mark, look), Cell(line.label), Cell(text)


def _write_rich(
    sections: Mapping[str, Sequence[Line]], stream: TextIO, palette: Palette, width: int
) -> None:
    from rich.table import Table  # noqa: PLC0415 - rich is slow to import
    from rich.text import Text  # noqa: PLC0415

    console = rich_console(stream, palette)
    for heading, lines in sections.items():
        table = Table.grid(padding=(0, 1))
        table.add_column(width=3, justify="right", no_wrap=True)
        table.add_column(width=min(width, console.width // 3))
        table.add_column(overflow="fold")
        for line in lines:
            table.add_row(*(Text.from_ansi(palette.paint(*cell)) for cell in _cells(line)))
        console.print(Text(heading, style="bold"))
        console.print(table)
