"""What the screen is made of: lines above the table, the table, and the line below."""

from __future__ import annotations

from typing import Any

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from tcptrace.sinks.layout import Cell
from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.looks import PLAIN, Styles
from tcptrace.sinks.screen.text import Line, filled


class Lines(Widget):
    """Lines of text; those that have changed are drawn."""

    DEFAULT_CSS = "Lines { height: auto; }"

    def __init__(self, styles: Styles) -> None:
        """Start empty; looks are painted in these styles."""
        super().__init__()
        self._styles = styles
        self._lines: list[Line] = []

    def show(self, lines: list[Line]) -> None:
        """Show lines in place of those before."""
        before, self._lines = self._lines, lines
        if len(before) != len(lines) and self.styles.is_auto_height:
            self.refresh(layout=True)
        changed = [
            at
            for at in range(max(len(before), len(lines)))
            if before[at : at + 1] != lines[at : at + 1]
        ]
        if changed:
            self.refresh(*(Region(0, at, self.size.width, 1) for at in changed))

    def get_content_height(self, *_: Any) -> int:
        """Return how many lines there are."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """Return one line."""
        if y >= len(self._lines):
            return Strip.blank(self.size.width)
        return Strip(
            [Segment(cell.text, self._styles.get(cell.look, PLAIN)) for cell in self._lines[y]]
        )


class Head(Lines):
    """What is above the table."""

    def __init__(self, picture: Grid[Any], styles: Styles) -> None:
        """Show `picture`."""
        super().__init__(styles)
        self.picture = picture

    def draw(self) -> None:
        """Show the picture as it is now."""
        self.show(self.picture.head(max(self.size.width, 1)))

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.draw()


class Foot(Lines):
    """The line below the table."""

    DEFAULT_CSS = "Foot { height: 1; }"

    def __init__(self, hint: str, styles: Styles) -> None:
        """Show which keys there are, until something is said."""
        super().__init__(styles)
        self._line = [Cell(hint, "dim")]

    def say(self, text: str) -> None:
        """Show what tcptrace has to say."""
        self._line = [Cell(text, "bold")]
        self.on_resize()

    def on_resize(self) -> None:
        """Show the line in the new width."""
        self.show([filled(self._line, self.size.width)])


class Table(Lines):
    """The rows, with a header that can be clicked."""

    DEFAULT_CSS = "Table { height: 1fr; }"
    can_focus = True

    class Behind(Message):
        """Asks for what is behind the selected row."""

    def __init__(self, picture: Grid[Any], styles: Styles) -> None:
        """Show `picture`."""
        super().__init__(styles)
        self.picture = picture

    def draw(self) -> None:
        """Show the picture as it is now."""
        self.show(self.picture.table(self.size.width, self.size.height))

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.draw()

    def on_click(self, event: events.Click) -> None:
        """Sort by the column, or select the row; twice shows what is behind it."""
        if event.y == 0:
            key = self.picture.column_at(event.x, self.size.width)
            if key is not None:
                self.picture.sort_by(key)
        else:
            self.picture.select_at(event.y - 1)
            if event.chain == 2:
                self.post_message(self.Behind())
        self.draw()

    def on_mouse_scroll_down(self) -> None:
        """Select further down."""
        self._move(1)

    def on_mouse_scroll_up(self) -> None:
        """Select further up."""
        self._move(-1)

    def _move(self, step: int) -> None:
        self.picture.move(step)
        self.draw()
