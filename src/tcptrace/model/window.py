"""From when to when: `Window`."""

from __future__ import annotations

from typing import Any, NamedTuple


class Window(NamedTuple):
    """A span of time by the wall clock, in nanoseconds since 1970; None where it is open."""

    since_ns: int | None = None
    until_ns: int | None = None

    def keeps(self, row: Any) -> bool:
        """Tell whether a row happened in it."""
        return self.meets(row.wall_ns, row.wall_ns)

    def meets(self, first_ns: int, last_ns: int) -> bool:
        """Tell whether anything between two moments can be in it."""
        if self.since_ns is not None and last_ns < self.since_ns:
            return False
        return self.until_ns is None or first_ns < self.until_ns


ALWAYS = Window()
