"""Text on a terminal: colour by meaning, and columns that fit its width.

A column grows with what it shows. Where a row would be wider than the terminal, names and addresses
are cut and end in an ellipsis, so that an event stays one line; a file or pipe gets everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from tcptrace.model.columns import Column
from tcptrace.model.events import Clock, Event
from tcptrace.sinks.text import cells

COLORS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
}
ELLIPSIS = "…"
HEADING = "bold"


def fit(widths: Sequence[int], may_cut: Sequence[bool], space: int) -> list[int]:
    """Return `widths`, those that may be cut cut to one measure, to fill at most `space`.

    Where that is not enough, all are cut; a column has one cell at the least.
    """
    for cuts in (may_cut, [True] * len(widths)):
        pairs = list(zip(widths, cuts, strict=True))
        for most in range(max(widths, default=0), 0, -1):
            fitted = [min(width, most) if cut else width for width, cut in pairs]
            if sum(fitted) <= space:
                return fitted
    return [1] * len(widths)


def _cut(text: str, width: int) -> str:
    """Return `text` padded, or cut with an ellipsis, to `width` terminal cells."""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + ELLIPSIS


class TerminalRenderer:
    """Writes to a terminal through a rich console, which knows its colours and width."""

    def __init__(self, stream: TextIO, clock: Clock, columns: Sequence[Column]) -> None:
        """Write to `stream`."""
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._colors = COLORS.get(self._console.color_system or "")
        self._clock = clock
        self._columns = columns
        self._styles = [Style.parse(column.style) for column in columns]
        self._needed = [len(column.heading) for column in columns]
        self._lines: list[str] = []
        self._headed = False

    def start(self, _backend: str) -> None:
        """Do nothing: text does not tell."""

    def header(self) -> None:
        """Write the header, where a table was before on an empty screen."""
        if self._headed:
            self._console.clear()
        self._headed = True
        heading = Style.parse(HEADING)
        self._write([column.heading for column in self._columns], [heading] * len(self._columns))

    def row(self, event: Event) -> None:
        """Write one row."""
        self._write(cells(event, self._clock, self._columns), self._styles)

    def _widths(self) -> list[int]:
        """Return the columns' widths: as declared and needed so far, or what the terminal has."""
        space = self._console.width - (len(self._columns) - 1)
        pairs = zip(self._columns, self._needed, strict=True)
        roomy = [max(column.width, needed) for column, needed in pairs]
        if sum(roomy) <= space:
            return roomy
        return fit(self._needed, [column.cut for column in self._columns], space)

    def _write(self, texts: list[str], styles: Sequence[Style]) -> None:
        self._needed = [max(pair) for pair in zip(self._needed, map(cell_len, texts), strict=True)]
        self._lines.append(
            " ".join(
                style.render(_cut(text, width), color_system=self._colors)
                for text, width, style in zip(texts, self._widths(), styles, strict=True)
            )
        )

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._lines:
            self._console.file.write("\n".join(self._lines) + "\n")
            self._lines.clear()
        self._console.file.flush()
