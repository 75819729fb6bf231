"""Long lists of values as tables, looked up as the kernel does."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.model.filters import BY_NAME, MOST_COMPARED, Filters
from tcptrace.model.ranges import KEEP, U32_MAX, Ranges
from tcptrace.model.systems import Cgroup, Recorded
from tcptrace.model.tables import BEGAN_SHIFT, OTHER_SHIFT, of_ranges

NUMBERS = st.one_of(st.integers(0, 40), st.integers(0, U32_MAX))
PAIRS = st.lists(st.tuples(NUMBERS, NUMBERS).map(sorted).map(tuple), max_size=4).map(tuple)


def looked_up(entries: Sequence[tuple[bytes, bytes]], value: bytes) -> int:
    """Return what a trie of prefixes has for a value: the longest that fits, the last of equals."""
    best, verdict = -1, 0
    for key, stored in entries:
        (bits,) = struct.unpack_from("=I", key)
        shift = 8 * len(value) - bits
        prefixes = [int.from_bytes(data, "big") >> shift for data in (key[4:], value)]
        if prefixes[0] == prefixes[1] and bits >= best:
            best, verdict = bits, int(struct.unpack("=Q", stored)[0])
    return verdict


@given(PAIRS, PAIRS)
def test_a_table_is_what_ranges_say(keep: Any, drop: Any) -> None:
    """At each bound and beside it, the table has the verdict of the ranges."""
    ranges = Ranges(keep, drop)
    entries, verdict = list(of_ranges(ranges)), ranges.verdict()
    bounds = {bound for pair in (*keep, *drop) for bound in pair}
    near = {bound + step for bound in bounds for step in (-1, 0, 1)} | {0, U32_MAX}
    for number in near - {-1, U32_MAX + 1}:
        assert verdict(number) == looked_up(entries, number.to_bytes(4, "big"))


def test_a_range_takes_few_entries() -> None:
    """Thousands of numbers in a row are not thousands of entries."""
    assert 64 > len(list(of_ranges(Ranges(((1, U32_MAX - 1),), ()))))
    assert 1 == len(list(of_ranges(Ranges(((0, U32_MAX),), ()))))


@pytest.mark.parametrize(
    ("ranges", "own", "other"),
    [
        (Ranges(((7, 7),), (), {7: 99}), KEEP, 0),
        (Ranges((), ((7, 7),), {7: 99}), KEEP | 2, KEEP),
        (Ranges(((7, 7),), ((7, 7),), {7: 99}), KEEP | 2, 0),
    ],
)
def test_a_process_id_has_two_verdicts(ranges: Ranges, own: int, other: int) -> None:
    """One is on the process that has it, one on others; with them is when the process began."""
    verdict = looked_up(list(of_ranges(ranges)), (7).to_bytes(4, "big"))
    assert (own, other, 99) == (
        verdict & 3,
        verdict >> OTHER_SHIFT & 3,
        verdict >> BEGAN_SHIFT,
    )


def long(name: str) -> Any:
    """Return a filter's value that is too long to be compared with."""
    count = MOST_COMPARED + 1
    values = {
        "comm": [f"name-{number}" for number in range(count)],
        "netns": [str(number + 1) for number in range(count)],
    }
    typed = values.get(name, [",".join(str(2 * number) for number in range(count))])
    return BY_NAME[name].parse(typed, Recorded())


@pytest.mark.parametrize("name", ["pid", "uid", "port", "comm", "netns"])
def test_a_long_list_is_a_table(name: str) -> None:
    """What is compiled depends neither on the values nor on how many they are."""
    filters = Filters({name: long(name)})
    assert {f"{name.upper()}_TABLE": "1"} == filters.defines()
    assert MOST_COMPARED + 1 == len(filters.tables[name])


def test_a_short_list_is_compared() -> None:
    """A few values are cheaper in the program itself."""
    ranges = Ranges(tuple((2 * number,) * 2 for number in range(MOST_COMPARED)), ())
    filters = Filters({"port": ranges, "family": 4})
    assert {"KEEP_PORT", "KEEP_FAMILY"} == filters.defines().keys()
    assert {} == filters.tables


def test_values_are_found_whole() -> None:
    """Names and cgroups are looked up by all of their bytes."""
    names = Filters({"comm": long("comm")}).tables["comm"]
    assert [KEEP, 0] == [looked_up(names, name.ljust(16, b"\0")) for name in (b"name-3", b"name-")]
    cgroups = tuple(Cgroup(number << 33, None) for number in range(1, MOST_COMPARED + 2))
    ids = Filters({"cgroup": cgroups}).tables["cgroup"]
    assert [KEEP, 0] == [looked_up(ids, number.to_bytes(8, "big")) for number in (1 << 33, 1)]
