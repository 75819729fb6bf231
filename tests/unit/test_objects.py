"""Rows as JSON: the text that is made for a class is what json would write."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.records import accept_bytes, accepted, json_line

from tcptrace.model.events import InCgroup, json_keys
from tcptrace.model.identity import Identity, Program

NS = 1_000_000_000
BACKEND = 'a "backend"'
# Surrogates come from bytes that are not UTF-8; json escapes them.
TEXTS = st.text() | st.text(st.characters(categories=["Cs", "Cc"]))
VALUES: st.SearchStrategy[Any] = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.lists(TEXTS, max_size=2)
)
IDENTITIES = st.builds(Identity, *[st.none() | TEXTS for _ in Identity._fields])
PROGRAMS = st.builds(Program, st.none() | st.integers(), TEXTS, TEXTS, st.lists(TEXTS).map(tuple))


@dataclasses.dataclass(slots=True, eq=False)
class Odd(InCgroup):
    """A row with values that the kernel's records do not have."""

    type = 'an "odd" one'
    nullable = frozenset({"maybe"})

    ts_ns: int
    pid: Any
    comm: Any
    maybe: Any
    _hidden: Any
    extra: Any = None

    @property
    def cgroup_id(self) -> int | None:
        """None: nobody knows."""
        return None


class Renamed(Odd):
    """A row that knows its container otherwise."""

    container = "its own"


def expected(row: Any) -> str:
    """Return the row's line as json writes it."""
    members = {"type": row.type, "time": "1970-01-01T00:00:01.000000005Z", "ts_ns": row.ts_ns}
    record: Any = type(row)
    for key in json_keys(record):
        value = getattr(row, key)
        if value is not None or key in row.nullable:
            members[key] = value
    members["backend"] = BACKEND
    return json.dumps(members, separators=(",", ":")) + "\n"


@given(
    st.sampled_from([Odd, Renamed]), st.lists(VALUES, min_size=5, max_size=5), IDENTITIES, PROGRAMS
)
def test_a_line_is_what_json_would_write(
    record: type[Odd], values: list[Any], identity: Identity, program: Program
) -> None:
    """Whatever a row holds, names with hostile characters among it."""
    row = record(7, *values, identity=identity, program=program, wall_ns=NS + 5)
    assert expected(row) == json_line(row, BACKEND)


@given(st.binary(min_size=1, max_size=15), st.integers(0, 0xFFFFFFFF))
def test_a_line_of_a_record_is_one_line(comm: bytes, pid: int) -> None:
    """Nothing in a process name ends a line or a string."""
    event = accepted(accept_bytes(comm=comm, pid=pid))
    event.wall_ns = NS + 5
    assert expected(event) == json_line(event, BACKEND)
    assert 1 == len(expected(event).splitlines())
