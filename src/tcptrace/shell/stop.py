"""Whether a run is to stop, why and since when: `Stop`."""

from __future__ import annotations

import enum
import signal
import time
from collections.abc import Callable

GRACE_S = 0.5
"""How long a run goes on reading what waits, after it was asked to stop, in seconds."""


class Why(enum.Enum):
    """Why a run stops."""

    SIGNAL = "a signal came"
    DURATION = "its time was over"
    COUNT = "enough rows were shown"
    CLOSED = "nobody reads the rows any more"
    ENDED = "those who are followed have ended"
    FAILED = "rows cannot be written"


class Stop:
    """Says whether a run is to stop. The first reason that comes is kept."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """Go on; `now` is a clock in seconds."""
        self.why: Why | None = None
        self.is_echoed = False
        """Whether a terminal has echoed ^C, in a line that nothing has ended yet."""
        self._now = now
        self._since = float("inf")
        self._deadline = float("inf")

    def take_signals(self) -> None:
        """Stop at SIGINT, SIGTERM or SIGHUP, for the rest of the process's life.

        A signal that is ignored stays ignored: `nohup` ignores SIGHUP, and a shell without job
        control ignores SIGINT for what it runs in the background.
        """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._signal)

    def _signal(self, number: int, _frame: object) -> None:
        self.is_echoed |= number == signal.SIGINT
        self.ask(Why.SIGNAL)

    def after(self, seconds: float) -> None:
        """Stop in `seconds`."""
        self._deadline = self._now() + seconds

    def ask(self, why: Why) -> None:
        """Stop; a second time changes nothing."""
        if self.why is None:
            self._since = self._now()
            self.why = why

    def is_asked(self) -> bool:
        """Tell whether to stop."""
        if self._now() >= self._deadline:
            self.ask(Why.DURATION)
        return self.why is not None

    def is_overdue(self) -> bool:
        """Tell whether to stop even though there is more to be read."""
        return self.is_asked() and self._now() >= self._since + GRACE_S
