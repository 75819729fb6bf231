"""`tcptrace top`: figures by key, on lists of events and of sockets."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.unit.records import to_json
from tests.unit.test_schema import VALIDATOR

from tcptrace.errors import TcptraceError
from tcptrace.kernel import sampler
from tcptrace.kernel.clock import now_ns
from tcptrace.kernel.sampler import Sample, Sampler
from tcptrace.kernel.sock_diag import ESTABLISHED, Socket
from tcptrace.probes.accept.probe import Accept
from tcptrace.probes.connect.records import Connect
from tcptrace.probes.tracer.records import OLDER, Closed, Connected, Open
from tcptrace.top import keys
from tcptrace.top.aggregator import Aggregator, Interval, Row
from tcptrace.top.figures import MEDIAN, P95, Distribution
from tcptrace.top.live import Live
from tcptrace.top.measures import WHY, figure_columns, key_columns
from tcptrace.top.order import CalmOrder
from tcptrace.top.traffic import Traffic, is_alive, table

HOST, PEER, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.3"
NETNS = 4026531840
SECOND = 1_000_000_000


def made(record: type[Any], **values: Any) -> Any:
    """Return a record of curl, or what `values` say, to a peer's port 443."""
    known = {
        "ts_ns": SECOND,
        "pid": 181,
        "tid": 181,
        "uid": 0,
        "netns": NETNS,
        "laddr": HOST,
        "raddr": PEER,
        "lport": 40000,
        "rport": 443,
        "family": 4,
        "comm": "curl",
        "_link": 0,
        **values,
    }
    fields = [field for field in dataclasses.fields(record) if field.init]
    required = [field.name for field in fields if field.default is dataclasses.MISSING]
    names = {field.name for field in fields}
    given = {name: value for name, value in known.items() if name in names}
    return record(**{**dict.fromkeys(required), **given})


def connected(*, ms: float | None = 2.0, **changes: Any) -> Any:
    """Return an attempt that was established."""
    return made(Connected, latency_ms=ms, **changes)


def failed(error: str | None = "ECONNREFUSED", end: str | None = "closed", **changes: Any) -> Any:
    """Return an attempt that failed."""
    return made(Connect, error=error, _end=end, **changes)


def accepted(**changes: Any) -> Any:
    """Return what nginx accepted on port 80."""
    return made(Accept, **{"pid": 7, "comm": "nginx", "lport": 80, "rport": 50000, **changes})


def opened(**changes: Any) -> Any:
    """Return a connection that was open at the start."""
    return made(Open, holders=[181], **changes)


def closed(tx: int = 0, rx: int = 0, *, again: int = 0, flags: int = 0, **changes: Any) -> Any:
    """Return a connection's end."""
    figures = {"tx_bytes": tx, "rx_bytes": rx, "retransmits": again}
    return made(Closed, **figures, _flags=flags, **changes)


def listed(tx: int, rx: int, *, again: int = 0, rtt_us: int = 500, **changes: Any) -> Socket:
    """Return a socket of the host's."""
    end = {"laddr": HOST, "lport": 40000, "raddr": PEER, "rport": 443, **changes}
    return Socket(
        state=ESTABLISHED,
        uid=0,
        inode=1,
        tx_bytes=tx,
        rx_bytes=rx,
        retransmits=again,
        rtt_us=rtt_us,
        queue=0,
        queue_max=0,
        **end,
    )


def sample(*sockets: Socket, at_s: float = 2) -> Sample:
    """Return a sample that was taken at once."""
    ns = int(at_s * SECOND)
    return Sample(ns, ns, [(NETNS, sock) for sock in sockets])


def by(text: str = "program", **options: Any) -> Aggregator:
    """Return an aggregator that began a second before the events."""
    return Aggregator(keys.parse(text), 0, **options)


def fed(aggregator: Aggregator, *events: Any) -> Interval:
    """Return what the events come to."""
    for event in events:
        aggregator.take(event)
    return aggregator.end(2 * SECOND)


def only(interval: Interval) -> Row:
    """Return the only row."""
    (row,) = interval.rows
    return row


def test_what_happens_is_counted_by_program() -> None:
    """Attempts, those that failed among them, and accepts have their own rows and a total."""
    interval = fed(by(), connected(), connected(lport=2), failed(), failed("ETIMEDOUT"), accepted())
    curl, nginx = interval.rows
    assert (("curl",), ("nginx",)) == (curl.key, nginx.key)
    assert (4, 0, 2, 2) == (curl.last.attempts, curl.last.accepts, curl.last.failed, curl.open)
    assert {"refused": 1, "timeout": 1} == curl.last.failures
    assert (0, 1, 1) == (nginx.last.attempts, nginx.last.accepts, nginx.open)
    total = interval.total
    assert (4, 1, 2, 3) == (total.last.attempts, total.last.accepts, total.last.failed, total.open)
    assert 2 == interval.seconds


@pytest.mark.parametrize(
    ("error", "end", "kind"),
    [
        ("ECONNREFUSED", "closed", "refused"),
        ("ETIMEDOUT", "closed", "timeout"),
        ("EHOSTUNREACH", "closed", "unreachable"),
        (None, "closed", "aborted"),
        ("EADDRNOTAVAIL", None, "error"),
        ("EPROTO", "closed", "error"),
    ],
)
def test_kinds_of_failures(error: str | None, end: str | None, kind: str) -> None:
    """Failures are told apart; what fails inside the host is an error."""
    row = only(fed(by(), failed(error, end)))
    assert {kind: 1} == row.last.failures
    assert [kind] == [failure.kind for failure in row.failed]


def test_intervals_and_the_run() -> None:
    """An interval has what happened in it, the run what happened in all."""
    aggregator = by()
    fed(aggregator, connected(), failed())
    row = only(fed(aggregator, connected(lport=2)))
    assert (1, 0) == (row.last.attempts, row.last.failed)
    assert (3, 1) == (row.run.attempts, row.run.failed)
    assert (0, 3, 2) == ((row := only(fed(aggregator))).last.attempts, row.run.attempts, row.open)


def test_the_bytes_of_a_close() -> None:
    """A connection that was never sampled has its bytes all the same."""
    row = only(fed(by(), connected(), closed(1000, 50, again=1)))
    assert (1000, 50, 1, 0) == (
        row.last.tx_bytes,
        row.last.rx_bytes,
        row.last.retransmits,
        row.open,
    )


def test_no_byte_counts_twice() -> None:
    """Samples and the close add the difference to what was counted."""
    aggregator = by()
    aggregator.take(connected())
    sent = []
    for tx in (100, 100, 250):
        aggregator.sample(sample(listed(tx, 0, again=tx // 100)))
        sent.append(only(fed(aggregator)).last.tx_bytes)
    row = only(fed(aggregator, closed(1000, 0, again=7)))
    assert ([100, 0, 150], 750, 1000) == (sent, row.last.tx_bytes, row.run.tx_bytes)
    assert (5, 7) == (row.last.retransmits, row.run.retransmits)


def test_a_socket_of_before_is_not_taken_for_a_new_one() -> None:
    """The same ends can be used again at once: what began since the sample is not in it."""
    aggregator = by()
    aggregator.take(connected(ts_ns=3 * SECOND))
    aggregator.sample(sample(listed(5000, 5000), at_s=2.9))
    assert 0 == only(fed(aggregator)).last.tx_bytes
    aggregator.sample(sample(listed(10, 0), at_s=3.1))
    assert 10 == only(fed(aggregator)).last.tx_bytes


def test_what_was_open_at_the_start_counts_from_its_first_sample() -> None:
    """What it had transferred before is not of the run; it is no attempt either."""
    aggregator = by()
    aggregator.take(opened())
    aggregator.sample(sample(listed(1_000_000, 5)))
    row = only(fed(aggregator))
    assert (0, 0, 1) == (row.last.tx_bytes, row.last.attempts, row.open)
    row = only(fed(aggregator, closed(1_000_300, 5, flags=OLDER)))
    assert (300, 0, 0) == (row.last.tx_bytes, row.last.rx_bytes, row.open)
    assert (1, True) == (row.last.closes, is_alive(row))
    assert not is_alive(only(fed(aggregator)))


def test_connections_on_two_links() -> None:
    """The same ends are two connections there; one that was found at the start knows no link."""
    aggregator = by("port")
    for link in (2, 3):
        aggregator.take(connected(_link=link))
    aggregator.take(opened(rport=80))
    aggregator.sample(
        sample(listed(1, 0, link=2), listed(10, 0, link=3), listed(5, 0, rport=80, link=2))
    )
    aggregator.take(closed(11, 0, _link=3))
    https, http = fed(aggregator, closed(9, 0, rport=80, _link=2, flags=OLDER)).rows
    assert (12, 1, 4, 0) == (https.last.tx_bytes, https.open, http.last.tx_bytes, http.open)


def test_what_was_open_and_never_sampled_has_no_bytes() -> None:
    """Of its bytes, nobody knows which are of the run."""
    row = only(fed(by(), opened(), closed(1000, 5, flags=OLDER)))
    assert (0, 0) == (row.last.tx_bytes, row.open)
    assert [] == fed(by(), closed(1000, 5, flags=OLDER)).rows


def test_a_close_without_beginning_counts() -> None:
    """The beginning was lost; the bytes are not."""
    row = only(fed(by(), closed(1000, 5)))
    assert (1000, 0, 0) == (row.last.tx_bytes, row.last.attempts, row.open)


def test_a_beginning_whose_close_was_lost() -> None:
    """The same ends begin again: one connection is open."""
    interval = fed(by(), connected(), connected())
    assert (2, 1, 1) == (only(interval).last.attempts, only(interval).open, interval.total.open)


def test_latency_is_of_what_was_established() -> None:
    """Median and 95th percentile are within 1.1 %."""
    events = [connected(ms=float(ms), lport=ms) for ms in range(1, 101)]
    latency = only(fed(by(), *events, failed(), connected(ms=None))).last.latency_ms
    assert 100 == latency.count
    assert pytest.approx(50, rel=0.011) == latency.quantile(MEDIAN)
    assert pytest.approx(95, rel=0.011) == latency.quantile(P95)


@pytest.mark.parametrize("value", [1e-12, 0.0004, 1, 3, 17.25, 1e9])
def test_one_value_is_its_own_quantile(value: float) -> None:
    """A distribution's classes are fine; nothing has none."""
    distribution = Distribution()
    assert distribution.quantile(MEDIAN) is None
    distribution.add(value)
    assert (
        pytest.approx(value, rel=0.011, abs=1e-8)
        == distribution.quantile(MEDIAN)
        == distribution.quantile(P95)
    )


def test_round_trip_times_are_those_of_the_last_sample() -> None:
    """Each open connection counts once."""
    aggregator = by()
    aggregator.take(connected())
    aggregator.take(connected(lport=2))
    aggregator.sample(sample(listed(0, 0, rtt_us=9000)))
    aggregator.sample(sample(listed(0, 0, rtt_us=100), listed(0, 0, rtt_us=0, lport=2)))
    rtt = only(fed(aggregator)).rtt_us
    assert 1 == rtt.count
    assert pytest.approx(100, rel=0.011) == rtt.quantile(MEDIAN)


def test_dimensions() -> None:
    """A destination is where a connection was made to, seen from either side."""
    out, taken = connected(), accepted()
    expected = {
        "process": [(181, "curl"), (7, "nginx")],
        "destination": [(f"{PEER}:443",), (f"{HOST}:80",)],
        "name": [(PEER,), (HOST,)],
        "port": [(443,), (80,)],
        "peer": [(PEER,)],
        "user": [(0,)],
        "namespace": [(NETNS,)],
        "listener": [(f"{HOST}:80",)],
        "port,program": [(443, "curl"), (80, "nginx")],
        "container,unit": [(None, None, None)],
    }
    actual = {text: [row.key for row in fed(by(text), out, taken).rows] for text in expected}
    assert expected == actual


def test_names() -> None:
    """A name that was asked for stands for the address."""
    aggregator = by("name")
    aggregator.take(connected(), "example.org")
    aggregator.take(failed(), "example.org")
    aggregator.take(closed(10, 0))
    row = only(aggregator.end(SECOND))
    assert (("example.org",), 2, 10) == (row.key, row.last.attempts, row.last.tx_bytes)
    assert ["example.org"] == [failure.name for failure in row.failed]


def test_cells_of_keys() -> None:
    """Keys are shown as people write them; what is not known has no text."""
    dimensions = keys.parse("process,destination,user,container")
    key = (181, "curl", keys.endpoint("fd00::1", 80), 0, "0123456789abcdef" * 4, None)
    assert ["curl[181]", "[fd00::1]:80", "root", "0123456789ab"] == keys.cells(dimensions, key)
    assert [None] * 4 == keys.cells(dimensions, (None,) * 6)
    names = ("pid", "comm", "destination", "uid", "container", "container_name")
    assert names == keys.json_keys(dimensions)
    more = keys.parse("container,pod")
    assert ["web", "default/web-0"] == keys.cells(more, ("0123", "web", "default", "web-0"))
    assert "4294967294" == keys.user_name(4294967294)


@pytest.mark.parametrize("text", ["", "programme", "program,", "name,name"])
def test_bad_dimensions_are_refused(text: str) -> None:
    """What is no dimension, or is named twice, has a message."""
    with pytest.raises(ValueError, match=r"nothing to add up by|named twice"):
        keys.parse(text)


def test_directions() -> None:
    """What was accepted here and what was made from here can be had apart, ends included."""
    events = connected(), accepted(), failed(), closed(5, 0), closed(7, 0, lport=80, rport=50000)
    assert [("curl",)] == [row.key for row in fed(by(directions=["out"]), *events).rows]
    row = only(fed(by(directions=["in"]), *events))
    assert (("nginx",), 7) == (row.key, row.last.tx_bytes)
    aggregator = by(directions=["out"])
    fed(aggregator, accepted())
    aggregator.listening.clear()
    assert [] == fed(aggregator, closed(7, 0, lport=80, rport=50000)).rows


def test_what_was_accepted_before_the_start_is_told_by_its_listener() -> None:
    """The kernel does not say which end of an open connection began it."""
    aggregator = by("listener")
    aggregator.listening = {(NETNS, 80)}
    assert [(f"{HOST}:80",)] == [
        row.key for row in fed(aggregator, opened(), opened(lport=80, rport=3)).rows
    ]


def test_rows_are_bounded() -> None:
    """The least used fall out, those with open connections last, and are counted together."""
    aggregator = by("port", most_rows=10)
    aggregator.take(connected(rport=1))
    interval = fed(aggregator, *(failed(rport=port) for port in range(2, 100)))
    assert 9 == len(interval.rows)
    assert (1,) == interval.rows[0].key
    assert (90, 90) == (interval.fallen_out, interval.others.last.attempts)
    assert 99 == interval.total.last.attempts


def test_connections_of_rows_that_fell_out_still_count() -> None:
    """Their bytes and their ends come to the row of the others."""
    aggregator = by("port", most_rows=4)
    fed(aggregator, *(connected(rport=port) for port in range(1, 9)))
    interval = fed(aggregator, *(closed(10, 0, rport=port) for port in range(1, 9)))
    sent = sum(row.last.tx_bytes for row in interval.rows)
    assert 80 == interval.total.last.tx_bytes == sent + interval.others.last.tx_bytes
    assert 0 == interval.total.open == interval.others.open
    assert interval.others.last.tx_bytes


def test_connections_are_bounded() -> None:
    """One too many is counted, and its bytes are when it ends."""
    aggregator = by(most_connections=1)
    interval = fed(aggregator, connected(), connected(lport=2), closed(10, 0, lport=2))
    assert (1, 1) == (interval.untracked, interval.total.open)
    assert (2, 10) == (only(interval).last.attempts, only(interval).last.tx_bytes)


def test_what_is_behind_a_row() -> None:
    """A row knows its latest processes, its connections and its latest failures."""
    aggregator = by("port")
    events = [failed(pid=pid, comm=f"p{pid}") for pid in range(1, 101)]
    row = only(fed(aggregator, *events, connected()))
    assert (64, 20) == (len(row.processes), len(row.failed))
    assert ("p100", "curl") == (row.processes[100], row.processes[181])
    assert [181] == [connection.event.pid for connection in aggregator.connections([row])]
    assert {NETNS} == aggregator.namespaces()


def test_the_order_is_calm() -> None:
    """Figures that flicker do not make rows jump; figures that grow do."""
    rates = {"a": 100.0, "b": 99.0, "c": 0.0}
    rows = {name: Row((name,)) for name in rates}
    names = {row: name for name, row in rows.items()}
    order = CalmOrder[Row]()

    def arranged(**changes: float) -> str:
        rates.update(changes)
        figures = {row: (rates[name], 0.0) for name, row in rows.items()}
        return "".join(names[row] for row in order.arrange(figures))

    assert "abc" == arranged()
    assert "abc" == arranged(b=110)
    assert "abc" == arranged(a=95, b=105)
    assert "cab" == arranged(c=1000)
    assert "cab" == arranged(c=900, a=90, b=0)
    assert ["cab"] * 9 == [arranged(a=90 - n) for n in range(9)]
    assert "acb" == arranged(a=1e6)


class Lists:
    """What lists sockets, in a test: it answers when it is told to."""

    def __init__(self) -> None:
        """Start idle."""
        self.asked: list[set[int]] = []
        self.is_busy = False
        self.ready: Sample | None = None

    def ask(self, wanted: Collection[int] | None, *, listeners: bool = False) -> None:
        """Remember what is asked."""
        assert not self.is_busy
        self.asked.append(set(wanted or ()))
        self.is_busy = True

    def answer(self) -> Sample | None:
        """Return what is ready."""
        ready, self.ready = self.ready, None
        self.is_busy = self.is_busy and ready is None
        return ready

    def close(self) -> None:
        """Do nothing."""


def begun(lists: Lists) -> Live:
    """Return what has its first list of sockets, an empty one."""
    live = Live(by(), lists, SECOND, 0)
    live.step([], 1)
    lists.ready = sample(at_s=0)
    live.step([], 2)
    assert [set()] == lists.asked
    lists.asked.clear()
    return live


def test_older_connections_are_listed_at_once() -> None:
    """What they send in the first interval counts."""
    lists = Lists()
    live = Live(by(), lists, SECOND, 0)
    live.step([opened(ts_ns=0)], 1)
    lists.ready = sample(listed(1000, 0), at_s=0.1)
    assert live.step([], SECOND // 2) is None
    assert live.step([], SECOND) is None
    lists.ready = sample(listed(1500, 0), at_s=1)
    interval = live.step([], SECOND)
    assert interval
    assert ([{NETNS}, {NETNS}], 500) == (lists.asked, only(interval).last.tx_bytes)


def test_an_interval_ends_when_sockets_have_been_listed() -> None:
    """All that was sent until its end is in it."""
    lists = Lists()
    live = begun(lists)
    assert live.step([connected(ts_ns=1)], SECOND // 2) is None
    assert [] == lists.asked
    assert live.step([], SECOND) is None
    lists.ready = sample(listed(100, 0), at_s=1.05)
    assert live.step([], SECOND + 40_000_000) is None
    interval = live.step([], SECOND + 70_000_000)
    assert interval
    assert ([{NETNS}], 100) == (lists.asked, only(interval).last.tx_bytes)
    assert live.step([], 2 * SECOND - 1) is None
    assert live.step([], 2 * SECOND) is None
    assert 2 == len(lists.asked)


def test_a_slow_list_is_not_waited_for() -> None:
    """The interval ends; what is listed late counts in the next."""
    lists = Lists()
    live = begun(lists)
    live.step([connected(ts_ns=1)], SECOND)
    interval = live.step([], int(1.25 * SECOND))
    assert interval
    assert 0 == only(interval).last.tx_bytes
    lists.ready = sample(listed(100, 0), at_s=1.5)._replace(begin_ns=SECOND)
    assert live.step([], int(1.6 * SECOND)) is None
    interval = live.step([], 2 * SECOND)
    assert interval
    assert (100, 3, 1) == (only(interval).last.tx_bytes, live.every, len(lists.asked))
    assert live.step([], 3 * SECOND)
    assert live.step([], 4 * SECOND) is None
    assert 2 == len(lists.asked)


def test_without_lists_intervals_end_in_time() -> None:
    """A recording has no sockets to list; an interval that was slept through is one."""
    live = Live(by(), None, SECOND, 0, lambda event: event.comm)
    assert [None, 1, None, 3.5] == [
        interval and interval.seconds
        for interval in (live.step([], int(s * SECOND)) for s in (0.5, 1, 1.5, 4.5))
    ]


def test_a_child_lists_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers with what the namespaces have, again and again, and ends when it is closed."""
    here = Path("/proc/self/ns/net").stat().st_ino
    monkeypatch.setattr(sampler, "enter", lambda _: None)
    with (
        closing(Sampler()) as one,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        port = server.getsockname()[1]
        for listeners, expected in ((True, 1), (False, 2), (True, 1)):
            one.ask({here, 1}, listeners=listeners)
            answer = asked = None
            deadline = time.monotonic() + 30
            while answer is None and time.monotonic() < deadline:
                asked = asked or now_ns()
                answer = one.answer()
            assert answer
            assert "" == answer.refused
            assert asked
            assert answer.begin_ns <= answer.end_ns <= now_ns()
            found = [at for at, two in answer.sockets if port in (two.lport, two.rport)]
            assert [here] * expected == found


def test_a_child_that_has_died_is_an_error() -> None:
    """Nobody waits for its answer."""
    with closing(Sampler()) as one:
        one._child.kill()
        with pytest.raises(TcptraceError, match="lists sockets"):
            one.answer()
        with pytest.raises(TcptraceError, match="lists sockets"):
            one.ask({1})


def shown(traffic: Traffic, *names: str) -> list[Any]:
    """Return the cells of a row under some columns."""
    text, more = figure_columns()
    known = {
        column.key: column
        for column in (*key_columns(keys.parse("program,name")), WHY, *text, *more)
    }
    return [known[name].value(traffic, None) for name in names]  # type: ignore[arg-type]


def test_rows_of_an_interval() -> None:
    """A row has the interval's figures and those of the run; rates are by its length."""
    aggregator = by("program,name")
    fed(aggregator, failed(), failed("ETIMEDOUT"), failed("ETIMEDOUT"))
    interval = fed(
        aggregator, connected(lport=2), failed("EHOSTUNREACH"), closed(3000, 500, lport=2)
    )
    interval = interval._replace(begin_ns=0)
    traffic, total = table(interval, keys.parse("program,name"), interval.rows)
    assert ("key", "curl", PEER, 2.0) == (
        traffic.scope,
        traffic.comm,
        traffic.name,
        traffic.interval_s,
    )
    assert (2, 1, 1, 0) == (
        traffic.attempts,
        traffic.failed,
        traffic.unreachable,
        traffic.timed_out,
    )
    assert (2.0, 2.0, 0) == (traffic.latency_p50_ms, traffic.latency_p95_ms, traffic.open)
    assert traffic.run
    assert (5, 4, 2, 1) == tuple(
        traffic.run[key] for key in ("attempts", "failed", "timed_out", "refused")
    )
    assert ["curl", PEER, "1.0", "1", "unreachable", "0", "1.5", "2.000", None] == shown(
        traffic, "program", "name", "conn", "fail", "why", "open", "tx", "lat", "rtt"
    )
    assert ["(total)", None, "5", "4", "3.0"] == shown(
        total, "program", "name", "conns", "fails", "txall"
    )


def test_what_fell_out_has_a_row() -> None:
    """The rows, it, and the total are all there is."""
    interval = fed(by("port", most_rows=2), *(failed(rport=port) for port in range(1, 6)))
    rows = list(table(interval, keys.parse("port"), interval.rows))
    assert ["key", "key", "others", "total"] == [row.scope for row in rows]
    for row in rows:
        VALIDATOR.validate(json.loads(json.dumps(to_json(row, "tracepoint"))))
    assert 5 == sum(row.attempts for row in rows[:-1]) == rows[-1].attempts


def test_what_deserves_a_look() -> None:
    """Failures, what is slow, and what was sent again are marked."""
    interval = fed(by(), connected(ms=500.0, lport=2), failed(), closed(0, 0, again=2, lport=2))
    text, more = figure_columns()
    (row,) = (
        traffic
        for traffic in table(interval, keys.parse("program"), interval.rows[:1])
        if traffic.comm
    )
    marks = {column.key: column.concern(row) for column in (*text, *more)}
    assert {
        "fail": "failure",
        "why": "failure",
        "fails": "failure",
        "lat": "slow",
        "p95": "slow",
        "retr": "unusual",
    } == {key: mark for key, mark in marks.items() if mark}
