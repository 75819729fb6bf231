"""Ranges of numbers to keep and to drop: how they are typed, and what they say of a number."""

from __future__ import annotations

import dataclasses
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import pairwise

Pairs = tuple[tuple[int, int], ...]

U32_MAX = 0xFFFFFFFF
KEEP, DROP = 1, 2
"""The bits of a verdict; both can be set, and then the number is dropped."""
_RANGE = re.compile("(!?)([0-9]{1,20})(?:-([0-9]{1,20}))?")  # int() refuses 4,300 digits


@dataclasses.dataclass(frozen=True, slots=True)
class Ranges:
    """Inclusive ranges of numbers to keep and to drop; with nothing to keep, all but `drop`."""

    keep: Pairs
    drop: Pairs
    began: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Of single numbers that processes have: when they began, in clock ticks since boot. Such a
    number stands for that process alone, not for another that is given the number later."""

    def verdicts(self) -> Iterator[tuple[int, int]]:
        """Yield numbers, ascending from 0, and the verdict on all from there to the next."""
        keep, drop = _depths(self.keep), _depths(self.drop)
        kept, dropped, before = int(not self.keep), 0, None
        for number in sorted({0, *keep, *drop}):
            kept += keep[number]
            dropped += drop[number]
            verdict = (KEEP if kept else 0) | (DROP if dropped else 0)
            if verdict != before:
                yield number, verdict
            before = verdict

    def singles(self) -> set[int]:
        """Return the numbers that stand alone, and in no longer range."""
        pairs = (*self.keep, *self.drop)
        long = Ranges(tuple(pair for pair in pairs if pair[0] < pair[1]), ())
        is_in_long = long.test() if long.keep else lambda _: False
        return {low for low, high in pairs if low == high and not is_in_long(low)}

    def verdict(self) -> Callable[[int], int]:
        """Return what gives the verdict on a number."""
        from_, verdicts = zip(*self.verdicts(), strict=True)
        return lambda number: int(verdicts[bisect_right(from_, number) - 1])

    def test(self) -> Callable[[int], bool]:
        """Return what tells whether a number is to be kept."""
        from_, verdicts = zip(*self.verdicts(), strict=True)
        return lambda number: verdicts[bisect_right(from_, number) - 1] == KEEP

    def table(self, end: int) -> bytes:
        """Return the verdicts on all numbers below `end`."""
        steps = [*self.verdicts(), (end, 0)]
        parts = (bytes([verdict]) * (after - low) for (low, verdict), (after, _) in pairwise(steps))
        return b"".join(parts)[:end]


def _depths(pairs: Pairs) -> Counter[int]:
    """Return how many more ranges there are from each number on."""
    depths: Counter[int] = Counter()
    for low, high in pairs:
        depths[low] += 1
        depths[high + 1] -= 1
    return depths


def parse_ranges(specs: Iterable[str], what: str, most: int) -> Ranges:
    """Read ``80,443,8000-8100`` and ``!22`` as inclusive ranges from 0 to `most`.

    Args:
        specs: each a comma list; all are taken together.
        what: the name of such a number in an error, such as "port".
        most: the largest number that is allowed.

    Raises:
        ValueError: with a message for the user.

    """
    keep: list[tuple[int, int]] = []
    drop: list[tuple[int, int]] = []
    for item in items_of(specs):
        match = _RANGE.fullmatch(item)
        if not match:
            msg = f"{item!r} is not a {what}; give numbers, ranges (1-9) or exclusions (!5)"
            raise ValueError(msg)
        exclusion, low, high = match.groups()
        first, last = int(low), int(high or low)
        if last > most:
            msg = f"{item!r} is not a {what}: the largest is {most}"
            raise ValueError(msg)
        if first > last:
            msg = f"{item!r} is not a {what}: a range goes from low to high"
            raise ValueError(msg)
        (drop if exclusion else keep).append((first, last))
    ranges = Ranges(tuple(keep), tuple(drop))
    if not any(verdict == KEEP and low <= most for low, verdict in ranges.verdicts()):
        msg = f"no {what} is left: each is excluded"
        raise ValueError(msg)
    return ranges


def items_of(specs: Iterable[str]) -> list[str]:
    """Return the items of comma lists."""
    return [item.strip() for spec in specs for item in spec.split(",")]
