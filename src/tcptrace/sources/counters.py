"""The places of the counters that the programs keep, in the map ``counters``, and of a flag."""

from __future__ import annotations

import enum


class Counter(enum.IntEnum):
    """What is counted."""

    LOST = 0
    """Events that found no room in the ring buffer."""
    UNTRACKED = 1
    """What found no room in a probe's own map."""
    SELF_TEST = 2
    """Events in the loader's own network namespace."""
    STOOD_IN = 3
    """Runs of a stand-in."""


ASLEEP = len(Counter)
"""Where the reader says that the next event is to wake it."""
PLACES = ASLEEP + 1


def defines() -> dict[str, str]:
    """Return the places as C defines."""
    places = {f"COUNT_{counter.name}": str(counter.value) for counter in Counter}
    return {**places, "ASLEEP": str(ASLEEP), "COUNTERS": str(PLACES)}
