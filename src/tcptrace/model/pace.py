"""How fast a recording is played, and where it is: `Pace`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

AT_ONCE = math.inf
"""A speed: as fast as it can be read."""
SLOWEST, FASTEST = 1 / 64, 4096.0
NS = 1_000_000_000


class Pace:
    """The clock of a recording; times are its own, CLOCK_MONOTONIC in nanoseconds."""

    def __init__(
        self, speed: float, *, lasts: bool = False, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Stand before the beginning.

        Args:
            speed: how many seconds of the recording pass in one; `AT_ONCE` waits for nothing.
            lasts: whether to stand at the end, and to be moved from there, when all was played.
            now: a clock in seconds.

        """
        self.speed = speed
        self.lasts = lasts
        self.is_paused = False
        self.begin_ns: int | None = None
        """The recording's first moment, when it is known."""
        self.end_ns: int | None = None
        """Its last, when it is known."""
        self.told_ns = 0
        """Up to when all was told, for those who tell to say."""
        self.rounds = 0
        """How often it was begun anew, which going back takes."""
        self._now = now
        self._at_ns = 0.0
        self._since = 0.0

    def begin(self, begin_ns: int) -> None:
        """Let time begin to pass at the recording's first moment."""
        self.begin_ns = self.told_ns = begin_ns
        self._at_ns, self._since = begin_ns, self._now()

    def begin_anew(self) -> None:
        """Have told nothing; where to go to stays."""
        self.told_ns = self.begin_ns or 0
        self.rounds += 1

    def until_ns(self) -> float:
        """Return up to when the recording is to be told now."""
        if self.is_paused or self.begin_ns is None:
            return self._at_ns
        passed_ns = (self._now() - self._since) * NS
        return self._in_range(self._at_ns + (passed_ns and passed_ns * self.speed))

    def is_long_past(self, ns: int, most_ns: int) -> bool:
        """Tell whether a time lies so far before the place that was gone to that none looks."""
        until_ns = self.until_ns()
        return self.lasts and until_ns != math.inf and ns < until_ns - most_ns

    def has_ended(self) -> bool:
        """Tell whether all was told."""
        return self.end_ns is not None and self.told_ns >= self.end_ns

    def pause(self) -> None:
        """Stand still, or go on."""
        self._stay()
        self.is_paused = not self.is_paused

    def change(self, factor: float) -> None:
        """Play faster, or slower if `factor` is below 1."""
        self._stay()
        self.speed = min(max(min(self.speed, FASTEST) * factor, SLOWEST), FASTEST)

    def move(self, seconds: float) -> None:
        """Go to another place of the recording, back if `seconds` is negative."""
        self._stay()
        self._at_ns = self._in_range(max(self._at_ns + seconds * NS, self.begin_ns or 0))

    def _in_range(self, ns: float) -> float:
        return ns if self.end_ns is None else min(ns, self.end_ns)

    def _stay(self) -> None:
        """Count time from the present place on."""
        at_ns = self.until_ns()
        self._at_ns = self.told_ns if at_ns == math.inf else at_ns
        self._since = self._now()
