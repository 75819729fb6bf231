"""From events and samples of sockets to figures by key: `Aggregator`.

It is pure: it asks neither the kernel nor the clock. Time is that of the events, CLOCK_MONOTONIC in
nanoseconds.

A connection's bytes are those of its last sample so far, and in the end those of its close. What a
sample or the close adds to the figures is the difference to the sample before: no byte counts
twice, and none is dropped between two intervals.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from tcptrace.kernel.sampler import Sample
from tcptrace.kernel.sockets import Ends
from tcptrace.model.events import Event
from tcptrace.top.figures import ERROR, FAILURES, Distribution, Figures
from tcptrace.top.keys import Dimension, Key, Side, is_about, key_of

FAILED, SAMPLES = "failed attempts", "samples of sockets"
"""What a source of events can lack."""
MOST_ROWS = 4096
MOST_CONNECTIONS = 1 << 17
_ROOM = MOST_ROWS // 8
"""How many rows fall out at once."""
_PROCESSES, _FAILURES = 64, 20
"""What a row remembers."""
_NOTHING = Figures()


class Failure(NamedTuple):
    """An attempt that failed."""

    event: Any
    kind: str
    """One of `FAILURES`."""
    name: str | None


@dataclasses.dataclass(slots=True, eq=False)
class Row:
    """What is known under one key."""

    key: Key | None
    """None for the row of what has fallen out."""
    now: Figures = dataclasses.field(default_factory=Figures)
    """Of the interval that is under way."""
    last: Figures = dataclasses.field(default_factory=Figures)
    """Of the interval before."""
    run: Figures = dataclasses.field(default_factory=Figures)
    """Of all intervals that have ended."""
    open: int = 0
    """Connections."""
    rtt_us: Distribution = dataclasses.field(default_factory=Distribution)
    """Of the open connections, as last sampled."""
    used: int = 0
    """Grows with each use: the row with the lowest falls out first."""
    processes: dict[int, str] = dataclasses.field(default_factory=dict)
    """The latest processes, by id, with their names."""
    failed: deque[Failure] = dataclasses.field(default_factory=lambda: deque(maxlen=_FAILURES))
    """The latest."""
    into: Row | None = None
    """Where it has gone since it fell out."""


@dataclasses.dataclass(slots=True, eq=False)
class Connection:
    """An open connection."""

    event: Any
    """What it began with."""
    row: Row | None
    """None where it is not to be added up."""
    name: str | None
    counted: tuple[int, int, int] | None
    """Bytes sent and received and segments sent again that have been counted; None for one that is
    older than the trace and has not been sampled."""
    rtt_us: int = 0


class Interval(NamedTuple):
    """What an interval came to."""

    begin_ns: int
    end_ns: int
    rows: list[Row]
    """All that are kept, in the order in which they came."""
    total: Row
    others: Row
    """What has fallen out, which `total` holds, too."""
    fallen_out: int
    """How many rows have."""
    untracked: int
    """Connections that were too many to be followed."""
    lacking: Collection[str] = ()
    """What the events are without: `FAILED`, `SAMPLES`."""

    def knows_bytes(self, figures: Figures, count: int) -> bool:
        """Tell whether the bytes of some figures, with so many connections open, are known."""
        has_ended = figures.told > 0 or not (count or figures.closes)
        return SAMPLES not in self.lacking or has_ended

    @property
    def seconds(self) -> float:
        """Its length."""
        return (self.end_ns - self.begin_ns) / 1e9


def failure_of(event: Any) -> str | None:
    """Return why an attempt failed, one of `FAILURES`; None where it did not."""
    outcome: str | None = event.outcome
    if outcome == "established":
        return None
    return outcome if outcome in FAILURES else ERROR


class Aggregator:
    """Adds up what happens by some dimensions."""

    def __init__(
        self,
        dimensions: Sequence[Dimension],
        begin_ns: int,
        *,
        directions: Collection[str] = ("in", "out"),
        lacking: Collection[str] = (),
        most_rows: int = MOST_ROWS,
        most_connections: int = MOST_CONNECTIONS,
    ) -> None:
        """Begin the first interval.

        Args:
            dimensions: what to add up by.
            begin_ns: the time.
            directions: whether to add up what was accepted here ("in"), made from here ("out"), or
                both.
            lacking: what the events are without: `FAILED`, `SAMPLES`. Without samples, they are
                those of a recording.
            most_rows: how many keys are kept.
            most_connections: how many open connections are followed.

        """
        self._dimensions = dimensions
        self._begin_ns = begin_ns
        self._directions = directions
        self._lacking = lacking
        self.listening: set[tuple[int | None, int | None]] = set()
        """Namespaces and ports with a listener: tells which of the connections that were open at
        the start had been accepted."""
        self._most_rows = most_rows
        self._most_connections = most_connections
        self._rows: dict[Key, Row] = {}
        self._total = Row(None)
        self._others = Row(None)
        self._connections: dict[Ends, Connection] = {}
        self._uses = 0
        self._fallen_out = 0
        self._untracked = 0

    def take(self, event: Any, name: str | None = None) -> None:
        """Take an event; `name` is what its remote end was asked for by."""
        kind = event.type
        if kind == "close":
            self._close(event)
        elif kind == "accept":
            self.listening.add((event.netns, event.lport))
            self._begin(Side(event, is_in=True, name=None))
        elif kind == "open":
            self._begin(Side(event, self._was_accepted(event), name), is_new=False)
        elif (failure := failure_of(event)) is None:
            self._begin(Side(event, is_in=False, name=name))
        else:
            self._fail(Side(event, is_in=False, name=name), failure)

    def _was_accepted(self, event: Event) -> bool:
        """Tell it by the listeners; a recording has none, so that servers have the lower port."""
        is_listening = (event.netns, event.lport) in self.listening
        return is_listening or (SAMPLES in self._lacking and _has_lower_port(event))

    def _is_older(self, event: Any) -> bool:
        """Tell whether a connection that has ended is older than the trace."""
        return bool(event.older or (SAMPLES in self._lacking and event.duration_ms is None))

    def _row(self, side: Side) -> Row | None:
        """Return the row that a connection belongs to; None where it has none."""
        wanted = ("out", "in")[side.is_in] in self._directions
        if not wanted or not is_about(self._dimensions, side):
            return None
        key = key_of(self._dimensions, side)
        row = self._rows.get(key)
        if row is None:
            if len(self._rows) >= self._most_rows:
                self._make_room()
            row = self._rows[key] = Row(key)
        self._uses += 1
        row.used = self._uses
        event = side.event
        if event.pid is not None and event.pid not in row.processes:
            row.processes[event.pid] = event.comm
            if len(row.processes) > _PROCESSES:
                del row.processes[next(iter(row.processes))]
        return row

    def _make_room(self) -> None:
        """Let rows fall out: those that were not used for longest, with open connections last."""
        rows = sorted(self._rows.values(), key=lambda row: (row.open > 0, row.used))
        for row in rows[: min(_ROOM, self._most_rows // 2 or 1)]:
            del self._rows[row.key or ()]
            self._others.open += row.open
            self._others.now.merge(row.now)
            self._others.run.merge(row.run)
            row.into = self._others
            self._fallen_out += 1

    def _begin(self, side: Side, *, is_new: bool = True) -> None:
        """Begin to follow a connection; one that is older than the trace is no attempt."""
        row = self._row(side)
        for counted in self._both(row):
            counted.open += 1
            if not is_new:
                continue
            if side.is_in:
                counted.now.accepts += 1
            else:
                counted.now.attempts += 1
                if side.event.latency_ms is not None:
                    counted.now.latency_ms.add(side.event.latency_ms)
        self._follow(side, row, is_new=is_new)

    def _both(self, row: Row | None) -> tuple[Row, ...]:
        """Return the row that something is added up in, and the total; neither for None."""
        return (_live(row), self._total) if row else ()

    def _follow(self, side: Side, row: Row | None, *, is_new: bool) -> None:
        ends = _ends(side.event)
        before = self._connections.pop(ends, None)
        if before:  # its close was lost
            self._forget(before.row)
        if len(self._connections) >= self._most_connections:
            self._untracked += 1
            self._forget(row)
            return
        counted = (0, 0, 0) if is_new else None
        self._connections[ends] = Connection(side.event, row, side.name, counted)

    def forget(self, before_ns: int) -> None:
        """Take those from the open connections that began before a time: their ends were missed."""
        known = self._connections.items()
        gone = [ends for ends, connection in known if connection.event.ts_ns < before_ns]
        for ends in gone:
            self._forget(self._connections.pop(ends).row)

    def _known(self, ends: Ends) -> Ends:
        """Return how a connection is known that may have begun without a word on its link."""
        return ends if not ends.link or ends in self._connections else ends._replace(link=0)

    def _forget(self, row: Row | None) -> None:
        """Take one from the open connections."""
        for counted in self._both(row):
            counted.open -= 1

    def _fail(self, side: Side, kind: str) -> None:
        for counted in self._both(self._row(side)):
            counted.now.attempts += 1
            counted.now.failures[kind] += 1
            counted.failed.append(Failure(side.event, kind, side.name))

    def _close(self, event: Any) -> None:
        """Count what a connection has come to since it was last sampled."""
        final = (event.tx_bytes, event.rx_bytes, event.retransmits)
        found = self._connections.pop(self._known(_ends(event)), None)
        if found:
            self._forget(found.row)
        elif not self._is_older(event):  # its beginning was lost, or was too much
            row = self._row(Side(event, self._was_accepted(event), None))
            found = Connection(event, row, None, (0, 0, 0))
        if found:
            is_told = found.counted is not None
            self._count(found, final)
            for counted in self._both(found.row):
                counted.now.closes += 1
                counted.now.told += is_told

    def _count(self, connection: Connection, counters: tuple[int, int, int]) -> None:
        """Add what has come since the last time; the first tells what an older one had before."""
        before, connection.counted = connection.counted, counters
        if before is None or before == counters:
            return
        for row in self._both(connection.row):
            row.now.tx_bytes += counters[0] - before[0]
            row.now.rx_bytes += counters[1] - before[1]
            row.now.retransmits += counters[2] - before[2]

    def sample(self, sample: Sample) -> None:
        """Take the sockets' counters; all events until the sample's end must have been taken.

        A connection that has begun since the sample's begin is left out: the socket may be an
        earlier one between the same ends.
        """
        for row in (*self._rows.values(), self._others, self._total):
            row.rtt_us = Distribution()
        for netns, sampled in sample.sockets:
            ends = Ends(
                netns, sampled.laddr, sampled.lport, sampled.raddr, sampled.rport, sampled.link
            )
            found = self._connections.get(self._known(ends))
            if found and found.event.ts_ns <= sample.begin_ns:
                self._count(found, (sampled.tx_bytes, sampled.rx_bytes, sampled.retransmits))
                found.rtt_us = sampled.rtt_us
                for row in self._both(found.row) if sampled.rtt_us else ():
                    row.rtt_us.add(sampled.rtt_us)

    def namespaces(self) -> set[int]:
        """Return the network namespaces of the open connections that are added up."""
        known = self._connections.items()
        return {
            ends.netns for ends, connection in known if connection.row and ends.netns is not None
        }

    def end(self, end_ns: int) -> Interval:
        """End the interval and begin the next."""
        for row in (*self._rows.values(), self._others, self._total):
            row.last = _NOTHING
            if not row.now.is_quiet:
                row.last, row.now = row.now, Figures()
                row.run.merge(row.last)
        interval = Interval(
            begin_ns=self._begin_ns,
            end_ns=end_ns,
            rows=list(self._rows.values()),
            total=self._total,
            others=self._others,
            fallen_out=self._fallen_out,
            untracked=self._untracked,
            lacking=self._lacking,
        )
        self._begin_ns = end_ns
        return interval

    def connections(self, rows: Iterable[Row]) -> Iterator[Connection]:
        """Yield the open connections of some rows."""
        wanted = set(map(id, rows))
        known = self._connections.values()
        return (
            connection
            for connection in known
            if connection.row and id(_live(connection.row)) in wanted
        )


def _ends(event: Any) -> Ends:
    """Return what names an event's connection; not all know the link."""
    link = getattr(event, "link", 0)
    return Ends(event.netns, event.laddr, event.lport, event.raddr, event.rport, link)


def _has_lower_port(event: Event) -> bool:
    return (event.lport or 0) < (event.rport or 0)


def _live(row: Row) -> Row:
    """Return the row, or the one that it has gone into."""
    return row.into or row
