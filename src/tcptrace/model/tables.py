"""Long lists of values as tables that the kernel looks a value up in.

Comparing with each of thousands of values takes the compiler and the verifier minutes. A table is a
trie of prefixes (BPF_MAP_TYPE_LPM_TRIE), from a value, most significant byte first, to a verdict: a
range is a few prefixes, and the longest that fits a value counts. probes/c/filters.h has the
other half.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from tcptrace.model.ranges import DROP, KEEP, Ranges

NUMBER_BITS = 32
OTHER_SHIFT, BEGAN_SHIFT = 2, 8
"""Where a number is a process's: behind its verdict, that on others with the number, and when it
began."""
_BITS = struct.Struct("=I")
_VERDICT = struct.Struct("=Q")
NUMBERS = {
    "KEPT": KEEP,
    "DROPPED": DROP,
    "OTHER_SHIFT": OTHER_SHIFT,
    "BEGAN_SHIFT": BEGAN_SHIFT,
}
"""What the C knows of them, by the names of its defines."""


class Entry(NamedTuple):
    """One entry, as the kernel has it."""

    key: bytes
    value: bytes


def _entry(bits: int, value: bytes, verdict: int) -> Entry:
    return Entry(_BITS.pack(bits) + value, _VERDICT.pack(verdict))


def of_ranges(ranges: Ranges) -> Iterator[Entry]:
    """Yield the entries for numbers of 32 bits."""
    otherwise = 0 if ranges.keep else KEEP
    if otherwise:
        yield _entry(0, bytes(NUMBER_BITS // 8), otherwise)
    for (low, verdict), (end, _) in pairwise([*ranges.verdicts(), (1 << NUMBER_BITS, 0)]):
        if verdict != otherwise:
            for number, bits in _prefixes(low, end):
                yield _entry(bits, _bytes(number), verdict)
    verdict_on = ranges.verdict()
    for number, ticks in ranges.began.items():
        verdict = verdict_on(number) | otherwise << OTHER_SHIFT | ticks << BEGAN_SHIFT
        yield _entry(NUMBER_BITS, _bytes(number), verdict)


def of_values(values: Iterable[bytes]) -> Iterator[Entry]:
    """Yield the entries for values to keep."""
    for value in values:
        yield _entry(8 * len(value), value, KEEP)


def _bytes(number: int) -> bytes:
    return number.to_bytes(NUMBER_BITS // 8, "big")


def _prefixes(low: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield numbers and how many leading bits count, which together are the numbers up to `end`."""
    while low < end:
        free = NUMBER_BITS if low == 0 else (low & -low).bit_length() - 1
        free = min(free, (end - low).bit_length() - 1)
        yield low, NUMBER_BITS - free
        low += 1 << free
