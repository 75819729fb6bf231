"""The screen as a sink: `ScreenSink`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from contextlib import closing
from contextvars import Context
from typing import TYPE_CHECKING, Any, TextIO

from tcptrace.errors import TcptraceError
from tcptrace.model.events import NewTable
from tcptrace.sinks.color import Palette
from tcptrace.sinks.layout import terminal_size
from tcptrace.sinks.output import Output
from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.text import PATIENCE_S

if TYPE_CHECKING:
    from tcptrace.sinks.screen.app import TopApp

STEP_S = 0.005
"""How long the screen may work each time that it is its turn, while there is something to do."""
AWAKE = 5
"""So many turns after a key or a frame there may be something to do."""
ASLEEP = 10
"""One in so many turns, then, is for timers that nobody has told of."""


def _import_ahead() -> None:
    """Import what textual does when it shows something; without rights, it may be out of reach."""
    import textual.layouts  # noqa: PLC0415 - it is large, see `ScreenSink.prepare`
    import textual.renderables  # noqa: PLC0415 - the same
    from rich.cells import cell_len  # noqa: PLC0415 - the same

    for package in (textual.layouts, textual.renderables):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    for name in ("drivers.headless_driver", "pilot", "scrollbar"):
        importlib.import_module(f"textual.{name}")
    cell_len("\u540d")  # rich's tables of widths


class _Loop(asyncio.SelectorEventLoop):
    """An event loop that tells whether another thread, or a signal, has something for it."""

    is_woken = False

    def call_soon_threadsafe(  # type: ignore[override] # its arguments are of any types
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Notice that there is something to do; textual's thread reads the keys."""
        self.is_woken = True
        return super().call_soon_threadsafe(callback, *args, context=context)


class ScreenSink:
    """Shows frames on a terminal until the user ends it.

    textual runs on an event loop of its own, which goes on for a moment whenever the pump flushes,
    some 30 times a second: so tracing and screen share one thread.
    """

    def __init__(
        self, picture: Grid[Any], stream: TextIO, palette: Palette, **options: Any
    ) -> None:
        """Show `picture`.

        Args:
            picture: what to show.
            stream: where the last picture stays.
            palette: its colours.
            options: textual's, for `App.run_async`.

        """
        self._picture = picture
        self._stream = stream
        self._palette = palette
        self._options = options
        self._app: TopApp
        self._is_prepared = False
        self._loop = _Loop()
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        self._has_frame = False
        """Whether there is a picture to leave behind."""
        self._is_behind = False
        """Whether the terminal has not taken the last picture, and a newer one waits."""
        self._turns = AWAKE

    def open(self, _meta: Any) -> None:
        """Wait: the screen begins when children have been forked, see `prepare`."""

    def prepare(self) -> None:
        """Import textual and make the application, once; the next `flush` begins it."""
        if self._is_prepared:
            return
        from tcptrace.sinks.screen.app import TopApp  # noqa: PLC0415 - it is large

        _import_ahead()
        self._app = TopApp(self._picture, self._palette)
        self._is_prepared = True

    def write(self, rows: Sequence[Any]) -> None:
        """Show the frames among `rows`."""
        self.prepare()
        self._begin()
        for frame in rows:
            if not isinstance(frame, NewTable):
                self._picture.update(frame)
        self._has_frame = self._is_behind = True
        self._draw()

    def _begin(self) -> None:
        """Begin the screen, which has keys before the first interval is over."""
        if self._task is None:
            self._task = self._loop.create_task(self._app.run_async(**self._options))

    def _draw(self) -> None:
        """Have the picture drawn, unless the terminal has not even taken the last."""
        if self._app.is_running and self._app.push():
            self._is_behind = False
            self._app.is_awake = True
            self._app.call_later(self._app.draw)

    def note(self, _losses: Any) -> None:
        """Do nothing: losses are told when the terminal is as it was."""

    def flush(self, _seconds: float = 0) -> bool:
        """Let the screen work: keys, and what is to be drawn."""
        if self._is_prepared:
            self._begin()
        if self._task and not self._is_over:
            self._turn()
            if self._is_behind:
                self._draw()
            if self._task.done():
                self._leave()
        return True

    def _turn(self) -> None:
        """Let the event loop work for a moment, if there is something to do."""
        if self._app.is_awake or self._loop.is_woken:
            self._app.is_awake = self._loop.is_woken = False
            self._turns = AWAKE
        self._turns -= 1
        if self._turns >= 0:
            self._loop.run_until_complete(asyncio.sleep(STEP_S))
        elif self._turns % ASLEEP == 0:
            self._loop.call_soon(self._loop.stop)
            self._loop.run_forever()

    def drop(self) -> int:
        """Forget nothing: a frame holds all that those before it did."""
        return 0

    def is_closed(self) -> bool:
        """Tell whether the user has ended it, or the terminal has gone."""
        return self._is_over or (self._is_prepared and self._app.is_gone())

    def close(self, _losses: Any) -> None:
        """Give the terminal back, and leave the last picture there."""
        if self._task and not self._is_over:
            self._app.exit()
            self._loop.run_until_complete(self._task)
            self._leave()
        self._loop.close()

    def _leave(self) -> None:
        """Write the picture where it stays, now that the terminal is as it was.

        Raises:
            TcptraceError: the screen came to a bad end.

        """
        self._is_over = True
        if self._app.return_code:
            raise TcptraceError("the screen has failed, as told above; please report it.\nTry -b")
        if not self._has_frame:
            return
        size = terminal_size(self._stream)
        head = self._picture.head(size.width)
        room = max(size.height - len(head) - 2, 2)
        with contextlib.suppress(OSError), closing(Output(self._stream)) as output:
            for line in (*head, *self._picture.table(size.width, room)):
                text = "".join(self._palette.paint(cell.text, cell.look) for cell in line)
                output.put(text.rstrip() + "\n")
            output.push_within(PATIENCE_S)
