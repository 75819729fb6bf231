"""Lines that are made of records' bytes: they are those that rows would be shown as."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.records import OFFSET_NS, accept_bytes

from tcptrace.errors import TcptraceError
from tcptrace.model import straight
from tcptrace.model.columns import Column, field
from tcptrace.model.events import KIND, U32, Decoder, Event, Layout
from tcptrace.model.identity import Identity
from tcptrace.model.lines import Lines
from tcptrace.model.meta import Meta
from tcptrace.model.straight import MOST_AT_ONCE, line_maker
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.columns import QUERY
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.probe import Probe
from tcptrace.probes.tracer.probe import TRACER, VERBOSE
from tcptrace.sinks.choose import make_sink
from tcptrace.sinks.stream import StreamSink
from tcptrace.sources.arrivals import Arrivals

META = Meta("any", "tracepoint", "host", "boot", "6.1", 0)
RECORDS = {
    "accept": ACCEPT.records,
    "connect": CONNECT.records,
    "tracer": (*TRACER.records, *ACCEPT.records),
}
PROBES = {"accept": ACCEPT, "connect": CONNECT, "tracer": TRACER}


def columns_of(probe: Probe) -> list[Column]:
    """Return all columns that can be shown of what comes in."""
    known = {column.key: column for column in (*probe.extra_columns, *probe.columns)}
    return [column for column in known.values() if column.key != QUERY.key]


def sink_for(form: str, columns: Sequence[Column]) -> StreamSink:
    """Return what writes rows in this form."""
    sink = make_sink(form, columns, io.StringIO(), color="never")
    assert isinstance(sink, StreamSink)
    sink.open(META)
    return sink


def shown(sink: StreamSink, rows: Sequence[Any]) -> list[str]:
    """Return the texts that a sink writes for rows."""
    return [text for text, _ in sink._pieces(rows)]


class Session:
    """Records as they come in."""

    def __init__(self, records: Sequence[type[Event]]) -> None:
        """Hold records of these classes."""
        self.decoder = Decoder(records)
        self.is_settled = True
        self.identity: Identity | None = None
        self.asked = 0

    def complete(self, data: bytes) -> tuple[Event, bool]:
        """Return a row, and whether it would be the same again."""
        self.asked += 1
        (row,) = self.rows([data])
        if self.identity:
            row.identity = self.identity
        return row, self.is_settled

    def rows(self, records: Sequence[bytes]) -> list[Event]:
        """Return records as rows."""
        return [*Arrivals().fill(map(self.decoder.decode, records), OFFSET_NS)]

    def lines(self, sink: StreamSink, records: Sequence[bytes]) -> list[str]:
        """Return records as lines."""
        maker = line_maker(self.decoder, sink, self.complete)
        assert maker
        return [*chain.from_iterable(each.texts for each in maker.lines(iter(records), OFFSET_NS))]


def record(layout: Layout, kind: int, data: bytes) -> bytes:
    """Return bytes as a record whose process is that of its event, not of a `Who`."""
    whole = bytearray(data)
    whole[KIND] = kind.to_bytes(4, sys.byteorder)
    at = [each.name for each in layout.fields].index("who")
    values = [*layout.struct.unpack(whole)]
    values[at] = 0
    again = bytearray(layout.struct.pack(*values))
    again[KIND] = whole[KIND]
    return bytes(again)


def with_fresh(layout: Layout, data: bytes, other: bytes) -> bytes:
    """Return a record with what another has for its own."""
    both = zip(layout.fields, layout.struct.unpack(data), layout.struct.unpack(other), strict=True)
    mixed = bytearray(layout.struct.pack(*(new if of.is_fresh else old for of, old, new in both)))
    mixed[KIND] = data[KIND]
    return bytes(mixed)


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("probe", ["accept", "connect", "tracer"])
@given(data=st.data())
def test_a_line_is_that_of_the_row(probe: str, form: str, data: st.DataObject) -> None:
    """Whatever a record holds, and whoever had some of it in common before."""
    session = Session(RECORDS[probe])
    records = []
    for kind, layout in enumerate(session.decoder.layouts, 1):
        sparse = st.lists(st.sampled_from([0, 0, 0, 1, 4, 255]), min_size=layout.size)
        drawn = st.binary(min_size=layout.size) | sparse.map(bytes)
        first, second = (record(layout, kind, data.draw(drawn)[: layout.size]) for _ in range(2))
        records += [first, second, with_fresh(layout, first, second)]
    columns = columns_of(PROBES[probe])
    made = session.lines(sink_for(form, columns), records)
    assert shown(sink_for(form, columns), session.rows(records)) == made


def test_verbose_lines_are_those_of_rows() -> None:
    """The columns that `tracer -v` shows in place of others are told, too."""
    session = Session(RECORDS["tracer"])
    records = [accept_bytes(kind=3, ts_ns=ts_ns) for ts_ns in (5, 4, 7)]
    made = session.lines(sink_for("text", VERBOSE), records)
    assert shown(sink_for("text", VERBOSE), session.rows(records)) == made
    assert [["accept", ns] for ns in "002"] == [line.split()[:2] for line in made]


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("probe", ["accept", "connect", "tracer"])
def test_what_comes_again_is_asked_for_once(probe: str, form: str) -> None:
    """Who it was is remembered by its bytes, whatever else another record has, shown or not."""
    session = Session(RECORDS[probe])
    layouts = [*enumerate(session.decoder.layouts, 1)]
    firsts = [record(layout, kind, bytes([1]) * layout.size) for kind, layout in layouts]
    others = [record(layout, kind, bytes([2]) * layout.size) for kind, layout in layouts]
    again = map(with_fresh, session.decoder.layouts, firsts, others)
    made = session.lines(sink_for(form, PROBES[probe].columns), [*firsts, *again])
    assert (len({*made}), len(made) / 2) == (len(made), session.asked)


def test_a_name_that_may_yet_come_is_asked_for_again() -> None:
    """A container that is being started has no name at first."""
    session = Session(ACCEPT.records)
    maker = line_maker(session.decoder, sink_for("json", ()), session.complete)
    assert maker

    def line() -> str:
        (made,) = maker.lines(iter([accept_bytes()]), OFFSET_NS)
        return made.texts[0]

    session.is_settled = False
    assert "web-1" not in line()
    session.identity, session.is_settled = Identity(container_name="web-1"), True
    assert "web-1" in line()
    session.identity = None
    assert "web-1" in line()


def test_no_more_than_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes come and go; when memory is full, it is begun anew."""
    monkeypatch.setattr(straight, "MOST_REMEMBERED", 2)
    session = Session(ACCEPT.records)
    sink = sink_for("json", ())
    records = [accept_bytes(pid=pid) for pid in (1, 2, 1, 2, 3, 1)]
    session.lines(sink, records)
    assert 4 == session.asked


def test_lines_come_some_at_a_time() -> None:
    """A full buffer does not become text as a whole."""
    session = Session(ACCEPT.records)
    maker = line_maker(session.decoder, sink_for("json", ()), session.complete)
    assert maker
    taken = 0

    def records() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield accept_bytes()

    first = next(maker.lines(records(), OFFSET_NS))
    assert (MOST_AT_ONCE, MOST_AT_ONCE) == (first.weight, taken)


@pytest.mark.parametrize("data", [b"", accept_bytes()[:-1], accept_bytes(kind=2)])
def test_bytes_of_no_record_are_an_error(data: bytes) -> None:
    """They are refused in the words that a decoder has for them."""
    with pytest.raises(TcptraceError, match="please report it"):
        Session(ACCEPT.records).lines(sink_for("json", ()), [accept_bytes(), data])


def test_who_wants_lines_gets_them() -> None:
    """A sink writes lines as they are, each as one row."""
    for sink in (sink_for("json", ()), sink_for("text", ACCEPT.columns)):
        assert [("a\n", 1), ("b\n", 1)] == [*sink._pieces([Lines(["a\n", "b\n"])])]


@dataclasses.dataclass(slots=True, eq=False)
class Made(Event):
    """A record that makes something of what each has for its own."""

    extra: U32
    odd: bool = False

    def __post_init__(self) -> None:
        """Look at the time."""
        self.odd = self.ts_ns % 2 == 1


@dataclasses.dataclass(slots=True, eq=False)
class Heavy(Event):
    """A record that stands for several."""

    extra: U32

    @property
    def weight(self) -> int:
        """Two."""
        return 2


@pytest.mark.parametrize(
    ("records", "columns"),
    [
        ((Made,), [field("odd", "ODD", 3)]),
        ((Heavy,), [field("pid", "PID", 3)]),
        (ACCEPT.records, [Column("own", "OWN", 3, lambda row, _: row.pid)]),
        (CONNECT.records, [QUERY]),
    ],
)
def test_where_nobody_knows_what_a_line_needs_it_takes_rows(
    records: Sequence[type[Event]], columns: Sequence[Column]
) -> None:
    """A plugin's column may ask for anything, and a class make anything of its fields."""
    session = Session(records)
    assert line_maker(session.decoder, sink_for("text", columns), session.complete) is None


def test_colours_take_rows() -> None:
    """A cell's colour depends on the row."""
    session = Session(ACCEPT.records)
    sink = make_sink("text", ACCEPT.columns, io.StringIO(), color="always")
    assert isinstance(sink, StreamSink)
    assert line_maker(session.decoder, sink, session.complete) is None
