"""Text on a terminal: colour by meaning, and columns that fit its width.

A column grows with what it shows. When a row is wider than the terminal, its longest cells are cut
and end in an ellipsis, so that an event stays one line; a file or pipe gets everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from tcptrace.columns import Column
from tcptrace.events import Clock, Event
from tcptrace.render.text import cells

COLORS = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
}
ELLIPSIS = "…"
HEADING = "bold"


def fit(widths: Sequence[int], space: int) -> list[int]:
    """Return `widths` with the widest cut to one measure, so that all fill at most `space`."""
    most = max(widths, default=1)
    while most > 1 and sum(min(width, most) for width in widths) > space:
        most -= 1
    return [min(width, most) for width in widths]


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
        self._widths = [max(column.width, len(column.heading)) for column in columns]
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

    def _write(self, texts: list[str], styles: Sequence[Style]) -> None:
        space = self._console.width - (len(texts) - 1)
        if sum(self._widths) <= space:
            self._widths = [
                max(*pair) for pair in zip(self._widths, map(cell_len, texts), strict=True)
            ]
        widths = fit(self._widths, space)
        self._lines.append(
            " ".join(
                style.render(_cut(text, width), color_system=self._colors)
                for text, width, style in zip(texts, widths, styles, strict=True)
            )
        )

    def flush(self) -> None:
        """Write the rows that wait."""
        if self._lines:
            self._console.file.write("\n".join(self._lines) + "\n")
            self._lines.clear()
        self._console.file.flush()
