"""The screen of `tcptrace top` as a textual application: keys, mouse, and what they change.

Colours are the terminal's own, or of its 256 and legible on light and on dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.geometry import Region
from textual.message import Message
from textual.screen import ModalScreen, Screen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input, Static

from tcptrace.sinks.layout import Cell
from tcptrace.sinks.screen.driver import ScreenDriver
from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.text import Line, filled

_STYLES = {
    "heading": "bold",
    "header": "reverse",
    "sorted": "reverse bold underline",
    "selected": "reverse",
    "bold": "bold",
    "dim": "dim",
    "failure": "bold color(160)",
    "slow": "color(166)",
    "unusual": "color(32)",
    "good": "color(29)",
}
STYLES = {look: Style.parse(text) for look, text in _STYLES.items()}
PLAIN = Style()
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
_PLAYING_HINT = "?Help  /Filter  <>Sort  ⏎Behind  SpacePause  []Seek  +-Speed  qQuit"
_HINT = "?Help  /Filter  <>Sort  RReverse  ⏎Behind  SpacePause  qQuit"


def as_text(lines: Sequence[Line]) -> Text:
    """Return lines as rich has them."""
    text = Text(no_wrap=True, end="")
    for at, line in enumerate(lines):
        if at:
            text.append("\n")
        for cell in line:
            text.append(cell.text, STYLES.get(cell.look or "", PLAIN))
    return text


class Lines(Widget):
    """Lines of text; those that have changed are drawn."""

    DEFAULT_CSS = "Lines { height: auto; }"

    def __init__(self) -> None:
        """Start empty."""
        super().__init__()
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
            [Segment(cell.text, STYLES.get(cell.look or "", PLAIN)) for cell in self._lines[y]]
        )


class Head(Lines):
    """What is above the table."""

    def __init__(self, picture: Grid[Any]) -> None:
        """Show `picture`."""
        super().__init__()
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

    def __init__(self, hint: str) -> None:
        """Show which keys there are, until something is said."""
        super().__init__()
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

    def __init__(self, picture: Grid[Any]) -> None:
        """Show `picture`."""
        super().__init__()
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


class Help(ModalScreen[None]):
    """The keys."""

    CSS = """
    Help { align: center middle; }
    Help Static { width: auto; height: auto; border: solid; padding: 0 1; }
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

    def __init__(self, picture: Grid[Any], row: Any) -> None:
        """Show what is behind `row`."""
        super().__init__()
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
        self.query_one("#behind", Static).update(as_text(lines))

    def action_back(self) -> None:
        """Go back to the table, once, however often it is asked for."""
        if not self._is_leaving:
            self._is_leaving = True
            self.dismiss()

    def action_scroll(self, where: str) -> None:
        """Scroll a line."""
        scroll = self.query_one(VerticalScroll)
        (scroll.scroll_down if where == "down" else scroll.scroll_up)(animate=False)


class TopApp(App[None]):
    """The whole screen."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #filter.typing { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,f10,ctrl+c,ctrl+q", "quit", priority=False),
        Binding("ctrl+z", "suspend_process"),
        Binding("question_mark,h,f1", "help"),
        Binding("up,k", "move(-1)"),
        Binding("down,j", "move(1)"),
        Binding("pageup", "page(-1)"),
        Binding("pagedown", "page(1)"),
        Binding("home,g", "move(-1000000)"),
        Binding("end,G", "move(1000000)"),
        Binding("enter,right", "behind"),
        Binding("escape,left,backspace", "unfilter"),
        Binding("slash,backslash,f3,f4", "filter"),
        Binding("less_than_sign,comma", "beside(-1)"),
        Binding("greater_than_sign,full_stop,f6", "beside(1)"),
        Binding("R,I", "reverse"),
        Binding("S", "whole_run"),
        Binding("space,p,Z", "pause"),
        Binding("left_square_bracket", "seek(-10)"),
        Binding("right_square_bracket", "seek(10)"),
        Binding("left_curly_bracket", "seek(-60)"),
        Binding("right_curly_bracket", "seek(60)"),
        Binding("plus,equals_sign", "speed(2)"),
        Binding("minus,underscore", "speed(0.5)"),
        *(Binding(key, f"sort('{key}')") for key in "afocbBltwdPn"),
    ]

    def __init__(self, picture: Grid[Any]) -> None:
        """Show `picture`, and what is to come of it."""
        super().__init__(driver_class=ScreenDriver, ansi_color=True)
        self.picture = picture
        self.is_awake = True
        """Whether something came that may take several turns of the event loop; for others to
        reset."""

    async def on_event(self, event: events.Event) -> None:
        """Notice that there is something to do."""
        self.is_awake = True
        await super().on_event(event)

    def compose(self) -> ComposeResult:
        """Make head, table and foot."""
        yield Head(self.picture)
        yield Table(self.picture)
        yield Input(id="filter", placeholder="filter", select_on_focus=False)
        yield Foot(_PLAYING_HINT if self.picture.pace else _HINT)

    def on_mount(self) -> None:
        """Begin with the keys at the table."""
        self.begin_capture_print(self)
        self.table.focus()
        self.draw()

    @property
    def table(self) -> Table:
        """The table."""
        table: Table = self.screen_stack[0].query_one(Table)
        return table

    def push(self) -> bool:
        """Write to the terminal what it has room for; tell whether that is all."""
        driver = self._driver
        return driver.push() if isinstance(driver, ScreenDriver) else True

    def is_gone(self) -> bool:
        """Tell whether there is no terminal any more."""
        return isinstance(self._driver, ScreenDriver) and self._driver.is_gone()

    def show(self, frame: Any) -> None:
        """Take a frame."""
        self.picture.update(frame)
        self.draw()

    def draw(self) -> None:
        """Show everything as it is now."""
        main = self.screen_stack[0]
        main.query_one(Head).draw()
        self.table.draw()
        if isinstance(self.screen, BehindRow):
            self.screen.draw()

    def on_print(self, event: events.Print) -> None:
        """Show in the foot what tcptrace has to say, such as of losses."""
        if event.text.strip():
            self.screen_stack[0].query_one(Foot).say(event.text.strip())

    def on_table_behind(self) -> None:
        """Show what is behind the selected row."""
        self.action_behind()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as one types."""
        self.picture.filter_by(event.value)
        self.draw()

    def on_input_submitted(self) -> None:
        """Keep the filter, and go back to the table."""
        self._end_typing()

    def _end_typing(self) -> None:
        self.query_one("#filter", Input).remove_class("typing")
        self.table.focus()
        self.draw()

    def action_filter(self) -> None:
        """Begin to type a filter."""
        typed = self.query_one("#filter", Input)
        typed.add_class("typing")
        typed.focus()

    def action_unfilter(self) -> None:
        """Drop the filter."""
        self.query_one("#filter", Input).value = ""
        self._end_typing()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Help(self.picture))

    def action_move(self, step: int) -> None:
        """Select another row."""
        self.picture.move(step)
        self.draw()

    def action_page(self, step: int) -> None:
        """Select a row a screenful away."""
        self.action_move(step * max(self.table.size.height - 1, 1))

    def action_behind(self) -> None:
        """Show what is behind the selected row."""
        if isinstance(self.screen, BehindRow):
            return
        if self.picture.selected is None:
            self.picture.move(0)
        if self.picture.selected is not None:
            self.push_screen(BehindRow(self.picture, self.picture.selected))

    def action_beside(self, step: int) -> None:
        """Sort by the column beside the present one."""
        self.picture.sort_beside(step, self.size.width)
        self.draw()

    def action_sort(self, key: str) -> None:
        """Sort by the column that a key is for, if there is one."""
        if key in self.picture.sorts:
            self.picture.sort_by(self.picture.sorts[key])
            self.draw()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.picture.reverse()
        self.draw()

    def action_whole_run(self) -> None:
        """Show the figures of the whole run first, or those of the last interval."""
        self.picture.shows_run = not self.picture.shows_run
        self.draw()

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self.picture.pause()
        self.draw()

    def action_seek(self, seconds: int) -> None:
        """Go to another place of a recording."""
        if self.picture.pace:
            self.picture.pace.move(seconds)

    def action_speed(self, factor: float) -> None:
        """Play a recording faster or slower."""
        if self.picture.pace:
            self.picture.pace.change(factor)
            self.draw()
