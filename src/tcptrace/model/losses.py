"""What may be missing of what happened: `Losses`."""

from __future__ import annotations

from typing import NamedTuple


class Losses(NamedTuple):
    """How many events may be missing, by reason."""

    no_room: int = 0
    """Events that found no room in the buffer."""
    skipped: int = 0
    """How often the kernel did not run a probe; each time may have been an event."""
    given_up: int = 0
    """What a command did not follow to its end, for more was under way than it keeps."""
    untracked: int = 0
    """What found no room in a probe's own table; not all that was to be shown of it is missing."""
    unread: int = 0
    """Events that were still in the buffer when there was no more time to read."""
    unwritten: int = 0
    """Events whose rows could not be written: their reader stood still, or writing failed."""

    @property
    def total(self) -> int:
        """How many events may be missing, beside those of what was not tracked."""
        return sum(self) - self.untracked

    def since(self, before: Losses) -> Losses:
        """Return those that `before` has not."""
        return Losses(*(now - then for now, then in zip(self, before, strict=True)))

    def __str__(self) -> str:
        """Say what was lost, and what to do."""
        reasons = []
        if self.no_room:
            reasons.append(f"{_lost(self.no_room)}; try a larger --buffer-mb")
        if self.skipped:
            reasons.append(f"{_lost(self.skipped)}: the kernel skipped the probe")
        if self.given_up:
            reasons.append(f"{_lost(self.given_up)}: more was under way than is kept")
        if self.untracked:
            reasons.append(f"a table is full: {self.untracked} found no room in it")
        if self.unread:
            reasons.append(f"{_lost(self.unread)}: too many waited at the end to be read")
        if self.unwritten:
            reasons.append(
                f"{_lost(self.unwritten)}: nobody took their rows, or they could not be written"
            )
        return "; ".join(reasons)


def _lost(count: int) -> str:
    return "1 event was lost" if count == 1 else f"{count} events were lost"


def losses_from(values: object) -> Losses:
    """Return what a recording says was lost; what it does not say, or not in numbers, is 0."""
    known = values if isinstance(values, dict) else {}
    counts = {name: known.get(name) for name in Losses._fields}
    return Losses(**{name: count for name, count in counts.items() if isinstance(count, int)})


NOTHING_LOST = Losses()
