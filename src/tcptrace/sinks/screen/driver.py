"""How the screen is written to its terminal: `ScreenDriver`."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

from textual.drivers.linux_driver import LinuxDriver

from tcptrace.sinks.layout import terminal_size
from tcptrace.sinks.output import Output
from tcptrace.sinks.screen.text import PATIENCE_S

if TYPE_CHECKING:
    from textual.app import App


class ScreenDriver(LinuxDriver):
    """textual's driver, but for its writes, which wait for nobody, and for the size.

    textual's own writes wait for a terminal that stands still: when many are pending, and at the
    end. No signal would end the run then. textual also believes any size, and would draw screens
    that are millions of cells wide.
    """

    def __init__(self, app: App[Any], **options: Any) -> None:
        """Write to standard error, as textual does."""
        super().__init__(app, **options)
        self._output = Output(sys.__stderr__ or sys.stderr)
        self._size = self._size or self._get_terminal_size()

    def _get_terminal_size(self) -> tuple[int, int]:
        """Return the terminal's width and height, which are bounded."""
        return terminal_size(sys.__stderr__ or sys.stderr)

    def _sigtstp_application(self, *_: Any) -> None:
        """Suspend when it is the screen's turn: outside of it, nothing of textual's runs."""
        self._loop.call_soon_threadsafe(super()._sigtstp_application)

    def _sigcont_application(self, *_: Any) -> None:
        """Go on when it is the screen's turn."""
        self._loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        """Take the terminal back if it was given back; else draw over what others left there."""
        if self._must_signal_resume:
            super()._sigcont_application()
        else:
            self._app.post_message(self.SignalResume())

    def write(self, data: str) -> None:
        """Take what is to be written at the next `flush`; it can come from any thread."""
        self._output.put(data)

    def flush(self) -> None:
        """Write what there is room for."""
        self.push()

    def push(self) -> bool:
        """Write what there is room for; tell whether that is all."""
        try:
            return self._output.push()
        except OSError:  # there is no terminal any more
            self._output.drop()
            return True

    def is_gone(self) -> bool:
        """Tell whether there is no terminal any more."""
        is_gone = not self._output.has_reader()
        if is_gone:  # textual's thread would read the end of its input again and again
            self.exit_event.set()
        return is_gone

    def close(self) -> None:
        """Write the rest, if the terminal takes it in time."""
        super().close()  # ends a thread of textual's, which has written nothing
        with contextlib.suppress(OSError):
            self._output.push_within(PATIENCE_S)
        self._output.drop()
