"""The screen of `tcptrace top` as a textual application: keys, and what they change."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from tcptrace.sinks.color import Palette
from tcptrace.sinks.screen.driver import ScreenDriver
from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.looks import styles
from tcptrace.sinks.screen.views import BehindRow, Help
from tcptrace.sinks.screen.widgets import Foot, Head, Table

_PLAYING_HINT = "?Help  /Filter  <>Sort  ⏎Behind  SpacePause  []Seek  +-Speed  qQuit"
_HINT = "?Help  /Filter  <>Sort  RReverse  ⏎Behind  SpacePause  qQuit"


class TopApp(App[None]):
    """The whole screen."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { background: ansi_default; }
    #filter { height: 1; border: none; padding: 0; display: none; }
    #filter.typing { display: block; }
    #filter > .input--cursor {
        background: ansi_default; color: ansi_default; text-style: reverse;
    }
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

    def __init__(self, picture: Grid[Any], palette: Palette) -> None:
        """Show `picture`, and what is to come of it, in the colours of `palette`."""
        super().__init__(driver_class=ScreenDriver, ansi_color=True)
        self.picture = picture
        self._styles = styles(palette)
        self.is_awake = True
        """Whether something came that may take several turns of the event loop; for others to
        reset."""

    async def on_event(self, event: events.Event) -> None:
        """Notice that there is something to do."""
        self.is_awake = True
        await super().on_event(event)

    def compose(self) -> ComposeResult:
        """Make head, table and foot."""
        yield Head(self.picture, self._styles)
        yield Table(self.picture, self._styles)
        yield Input(id="filter", placeholder="filter", select_on_focus=False)
        yield Foot(_PLAYING_HINT if self.picture.pace else _HINT, self._styles)

    def on_mount(self) -> None:
        """Begin with the keys at the table."""
        self.begin_capture_print(self)
        self.app_resume_signal.subscribe(self, self._draw_anew)
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

    def _draw_anew(self, _app: App[Any]) -> None:
        """Draw all of the screen, of which the terminal has nothing after a suspension."""
        self.refresh(layout=True)

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
            self.push_screen(BehindRow(self.picture, self.picture.selected, self._styles))

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
