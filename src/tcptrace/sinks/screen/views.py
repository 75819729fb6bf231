"""What comes in front of the table: the list of keys, and what is behind a row."""

from __future__ import annotations

from typing import Any, ClassVar

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import Static

from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.looks import Styles, as_text

KEYS = (
    ("↑ ↓ k j", "select a row"),
    ("PgUp PgDn Home End", "a screenful, the first, the last"),
    ("Esc ← Backspace", "back; at the table, drop the filter"),
    ("/ F3 \\ F4", "filter rows by their text, as you type"),
    ("< > F6", "sort by the column to the left, to the right"),
)
"""Those of all tables, in front of their own; see `Grid.help`."""
MORE_KEYS = (
    ("n", "sort by the busiest, as at the start"),
    ("R I", "turn the order round"),
    ("Space p Z", "pause, go on"),
)
PLAYING_KEYS = (
    ("[ ] { }", "back and on by 10 s, by a minute"),
    ("+ -", "play faster, slower"),
)
"""Those of a recording."""
LAST_KEYS = (
    ("? h F1", "this list"),
    ("q F10 Ctrl-C", "end; the last picture stays on the terminal"),
)


class Help(ModalScreen[None]):
    """The keys."""

    CSS = """
    Help { align: center middle; }
    Help Static { width: auto; height: auto; border: solid ansi_default; padding: 0 1; }
    """

    def __init__(self, picture: Grid[Any]) -> None:
        """List those of a table."""
        super().__init__()
        self._is_leaving = False
        playing = PLAYING_KEYS if picture.pace else ()
        self._keys = (*KEYS, *picture.help, *MORE_KEYS, *playing, *LAST_KEYS)

    def compose(self) -> ComposeResult:
        """Make the list."""
        text = Text(no_wrap=True)
        for keys, does in self._keys:
            text.append(f"{keys:<19}", "bold")
            text.append(f" {does}\n")
        text.append("any key goes back", "dim")
        yield Static(text)

    def on_key(self, event: events.Key) -> None:
        """Go back, once: a second key may be here before the screen has gone."""
        event.stop()
        if not self._is_leaving:
            self._is_leaving = True
            self.dismiss()


class BehindRow(Screen[None]):
    """What is behind a row."""

    CSS = "BehindRow Static { height: auto; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,left,backspace", "back"),
        Binding("j", "scroll('down')"),
        Binding("k", "scroll('up')"),
    ]

    def __init__(self, picture: Grid[Any], row: Any, styles: Styles) -> None:
        """Show what is behind `row`."""
        super().__init__()
        self._styles = styles
        self._picture = picture
        self._row = row
        self._is_leaving = False

    def compose(self) -> ComposeResult:
        """Make a title and a place for the rest."""
        yield Static(Text(f"{self._picture.title_of(self._row)}  (Esc: back)", "bold"))
        with VerticalScroll():
            yield Static(id="behind")

    def on_mount(self) -> None:
        """Fill it."""
        self.draw()

    def on_resize(self) -> None:
        """Fill it for the new size."""
        self.draw()

    def draw(self) -> None:
        """Show it as it is now."""
        lines = self._picture.behind(self._row, max(self.size.width - 2, 1))
        self.query_one("#behind", Static).update(as_text(lines, self._styles))

    def action_back(self) -> None:
        """Go back to the table, once, however often it is asked for."""
        if not self._is_leaving:
            self._is_leaving = True
            self.dismiss()

    def action_scroll(self, where: str) -> None:
        """Scroll a line."""
        scroll = self.query_one(VerticalScroll)
        (scroll.scroll_down if where == "down" else scroll.scroll_up)(animate=False)
