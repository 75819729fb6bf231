"""Shapes and programs: what is compiled for a plan, and values and maps put into instructions."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tcptrace.kernel.bpf import MapSpec
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.shell.host import Host
from tcptrace.sources.bpf.programs import Programs, make_kernel_calls
from tcptrace.sources.plan import (
    FIRST_OF_PLAN,
    KERNEL_FUNCTION,
    VALUE_MARK,
    Plan,
    Shape,
    listing,
    shape_of,
)

RETURN = struct.pack("=BBhi", 0x95, 0, 0, 0)
REGISTER_3 = 3
SOURCE_SHIFT = 4 if struct.pack("=H", 1)[0] else 0
U64 = st.integers(0, (1 << 64) - 1)
MAPS = (MapSpec("events", 27, 0, 0, 4096, 0), MapSpec("counters", 2, 4, 8, 4, 1024))


def load(constant: int, source: int = 0) -> bytes:
    """Return the instruction that loads a 64-bit constant."""
    registers = source << SOURCE_SHIFT | REGISTER_3 << (4 - SOURCE_SHIFT)
    return struct.pack("=BBhI", 0x18, registers, 0, constant & 0xFFFF_FFFF) + struct.pack(
        "=BBhI", 0, 0, 0, constant >> 32
    )


def load_map(place: int) -> bytes:
    """Return the instruction that loads a map."""
    return load(place, 1)


def programs(*parts: bytes) -> Programs:
    """Return programs of one function."""
    return Programs(MAPS, {"f": b"".join((*parts, RETURN))})


def shape(plan: Plan) -> Shape:
    """Return what is compiled of a plan for the backend that comes first."""
    return shape_of(plan, plan.variants()[0])


def filtered(**texts: Any) -> Filters:
    """Return parsed filters."""
    return Filters(
        {
            name: BY_NAME[name].parse([text] if BY_NAME[name].multiple else text, Host())
            for name, text in texts.items()
        }
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"port": "181"}, {"port": "4711"}),
        ({"port": "1-2,80"}, {"port": "8000-8100,9"}),
        ({"port": "!22"}, {"port": "!443"}),
        ({"pid": "4294967294"}, {"pid": "4294967295"}),
        ({"uid": "0"}, {"uid": "1000"}),
        ({"comm": "nginx"}, {"comm": "a-longer-name"}),
        ({"netns": "4026531840"}, {"netns": "1"}),
    ],
)
def test_values_do_not_change_what_is_compiled(one: dict[str, str], other: dict[str, str]) -> None:
    """Plans that differ in their values alone share source and flags, not values."""
    first, second = (shape(Plan(ACCEPT, filtered(**texts))) for texts in (one, other))
    assert (first.source, first.flags) == (second.source, second.flags)
    assert first.values.keys() == second.values.keys()
    assert first.values != second.values


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"port": "80"}, {}),
        ({"port": "80"}, {"port": "80,81"}),
        ({"port": "80"}, {"port": "!80"}),
        ({"port": "80"}, {"port": "80-81"}),
        ({"port": "80"}, {"pid": "80"}),
        ({"family": 4}, {"family": 6}),
    ],
)
def test_other_filters_are_compiled_anew(one: dict[str, str], other: dict[str, str]) -> None:
    """Which filters there are, and how many ranges each has, is compiled."""
    first, second = (shape(Plan(ACCEPT, filtered(**texts))) for texts in (one, other))
    assert first.source != second.source


def test_values_are_in_the_order_of_their_numbers() -> None:
    """Each number in the source has its value: an exclusion, a range and a name as two words."""
    made = shape(Plan(ACCEPT, filtered(port="8000-8100,!22", comm="nginx")))
    numbers = range(FIRST_OF_PLAN, FIRST_OF_PLAN + 5)
    assert [*made.values] == [*numbers]
    assert [*made.values.values()] == [8000, 8100, 22, int.from_bytes(b"nginx", "little"), 0]
    keep, drop, comm = (f"VALUE({number})" for number in (16, 18, 19))
    assert f"#define KEEP_PORT X({keep},VALUE(17))\n" in made.source
    assert f"#define DROP_PORT E({drop})\n" in made.source
    assert f"#define KEEP_COMM Y({comm},VALUE(20))\n" in made.source


def test_switches_with_a_number_share_programs() -> None:
    """What --slower takes is a value, and --max-connections and --buffer-mb are maps' sizes."""
    slow = [
        shape(Plan(CONNECT, Filters(), {"CONNECT_OUTCOME": ns, "CONNECT_SLOWER_NS": ns}))
        for ns in ("1000000", "2000000")
    ]
    assert slow[0].flags == slow[1].flags
    assert [2_000_000] == [*slow[1].values.values()]
    many = [
        shape(Plan(TRACER, Filters(), {"MOST_CONNECTIONS": most}, buffer_mb=8)) for most in "12"
    ]
    assert many[0].flags == many[1].flags == shape(Plan(TRACER, Filters())).flags
    assert {"connections": 2, "events": 8 << 20} == many[1].entries


def test_listing_tells_the_values() -> None:
    """--dump-c prints what is put into the instructions besides what is compiled."""
    plan = Plan(ACCEPT, filtered(port="4711"), backend="tracepoint")
    text = listing(plan, plan.variants()[0])
    assert "#define KEEP_PORT E(VALUE(16))\n" in text
    assert "VALUE(16): 4711" in text


@given(value=U64, other=U64)
def test_marked_constants_become_values(value: int, other: int) -> None:
    """A marked constant becomes its value, as often as it is there; others stay."""
    assume(other & 0xFFFF_FFFF != 16)
    code = programs(load(VALUE_MARK + 16), load(other), load(VALUE_MARK + 16)).linked(
        "f", [], {16: value, other & 0xFFFF_FFFF: other}
    )
    assert code == load(value) + load(other) + load(value) + RETURN


def test_maps_become_descriptors() -> None:
    """A map's place becomes its descriptor, also where it looks like a value's number."""
    code = programs(load_map(1), load(1), load_map(0)).linked("f", [7, 9], {1: 5})
    assert code == load_map(9) + load(1) + load_map(7) + RETURN


def test_second_slots_are_no_instructions() -> None:
    """What looks like an instruction within a constant is not taken for one."""
    inner = int.from_bytes(load(VALUE_MARK)[:4], "little")
    code = load(inner << 32 | inner) + RETURN
    assert programs(load(inner << 32 | inner)).linked("f", [], {0: 1}) == code


def call(function: int, source: int = 0) -> bytes:
    """Return the instruction that calls a helper, or with source 2 a function of the kernel."""
    return struct.pack("=BBhI", 0x85, source << SOURCE_SHIFT, 0, function)


def test_marked_calls_are_of_kernel_functions() -> None:
    """A call of a marked number becomes one of the kernel's function; helpers' calls stay."""
    code = bytearray(call(14) + call(KERNEL_FUNCTION + 65477) + load(KERNEL_FUNCTION + 1) + RETURN)
    make_kernel_calls(code)
    assert code == call(14) + call(65477, source=2) + load(KERNEL_FUNCTION + 1) + RETURN


@pytest.mark.parametrize("part", [load_map(2), load(VALUE_MARK + 99)])
def test_what_is_not_there_is_refused(part: bytes) -> None:
    """A program that names a map or a value that there is not is not loaded."""
    with pytest.raises(ValueError, match="that there is not"):
        programs(part).linked("f", [7, 9], {16: 1})
