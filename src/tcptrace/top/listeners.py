"""Who listens, and whether it accepts fast enough: rows of `tcptrace top --listen`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, ClassVar, NamedTuple

from tcptrace.kernel.sampler import Sample
from tcptrace.kernel.sock_diag import Socket
from tcptrace.kernel.sockets import NOBODY, Connection, Ends, Process
from tcptrace.model.batch import Batch
from tcptrace.model.columns import Column, Mark, field
from tcptrace.model.events import Row, decode_text
from tcptrace.probes.identities import identity_of
from tcptrace.probes.tracer.open_connections import held
from tcptrace.top.feed import Batches, awaited
from tcptrace.top.live import Sampling

ANY = frozenset(("0.0.0.0", "::"))  # noqa: S104 - nothing is bound here
NEARLY_FULL = 0.8


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Listener(Row):
    """A socket that listens, at the end of an interval."""

    type: ClassVar[str] = "listener"

    ts_ns: int
    """The interval's end, CLOCK_MONOTONIC, nanoseconds."""
    interval_s: float
    pid: int | None
    comm: str | None
    uid: int
    """The socket's owner."""
    netns: int
    unit: str | None
    container: str | None
    container_name: str | None
    laddr: str
    lport: int
    accepts: int
    """In the interval."""
    backlog: int
    """Connections that wait to be accepted."""
    backlog_max: int
    drops: int
    """Connections that it has dropped in the interval, such as for want of room."""
    run_accepts: int
    run_drops: int
    """Since the start."""
    _inode: int

    @property
    def inode(self) -> int:
        """The socket's number, which no other has at the same time."""
        return self._inode


class Table(NamedTuple):
    """The rows of an interval."""

    begin_ns: int
    """CLOCK_MONOTONIC, nanoseconds."""
    end_ns: int
    wall_ns: int
    """Its end by the wall clock."""
    rows: list[Listener]
    note: str = ""
    """Why listeners are missing."""

    @property
    def weight(self) -> int:
        """How many listeners it has."""
        return len(self.rows)


def _rate(row: Any, _: object) -> str:
    return f"{row.accepts / row.interval_s:.1f}"


def full(row: Any) -> Mark | None:
    """Find a listener whose queue is full, or nearly so."""
    return "slow" if row.backlog and row.backlog >= row.backlog_max * NEARLY_FULL else None


def dropping(row: Any) -> Mark | None:
    """Find a listener that has dropped connections in the interval."""
    return "failure" if row.drops else None


COLUMNS = (
    field("pid", "PID", 7, meaning="the process that listens"),
    field("comm", "COMM", 12, "bold", meaning="its name"),
    field("laddr", "LADDR", 15, meaning="the address"),
    field("lport", "LPORT", 5, meaning="the port"),
    Column("acc", "ACC/s", 6, _rate, meaning="connections accepted, a second"),
    field("backlog", "BL", 5, concern=full, meaning="connections that wait to be accepted"),
    field("backlog_max", "BLMAX", 5, meaning="how many may wait"),
    field(
        "drops",
        "DROPS",
        5,
        concern=dropping,
        meaning="connections dropped in the interval, such as for want of room",
    ),
    field("unit", "UNIT", 20, meaning="the process's systemd unit"),
)
MORE_COLUMNS = (
    field("run_accepts", "ACCS", 7, meaning="connections accepted since the start"),
    field("run_drops", "ALLDROPS", 8, meaning="connections dropped since the start"),
    field("uid", "UID", 5, meaning="user id of the socket's owner"),
    field("netns", "NETNS", 10, meaning="inode number of the network namespace"),
    field("container", "CONTAINER", 12, meaning="id of the process's container"),
    field("container_name", "CNAME", 12, meaning="name of the process's container"),
)


class _Counts:
    """What is known of listeners since the start."""

    def __init__(self) -> None:
        """Start empty."""
        self._accepts: Counter[tuple[int | None, str | None, int | None, int | None]] = Counter()
        self._run_accepts: Counter[int] = Counter()
        self._drops: dict[int, tuple[int, int]] = {}
        """By the sockets' inode numbers: at the start, and last."""

    def take(self, event: Any) -> None:
        """Count an accept."""
        if event.type == "accept":
            self._accepts[event.netns, event.laddr, event.lport, event.pid] += 1

    def begin(self, sample: Sample | None) -> None:
        """Learn what was dropped before the start."""
        for _, listener in sample.sockets if sample else ():
            self._drops[listener.inode] = listener.drops, listener.drops

    def table(
        self, sample: Sample, keeps: Callable[[Any], bool], begin_ns: int, batch: Batch
    ) -> Table:
        """Return a row for each listener, and begin the next interval."""
        wall_ns = batch.wall_ns(batch.until_ns)
        seconds = (batch.until_ns - begin_ns) / 1e9
        of = {"ts_ns": batch.until_ns, "wall_ns": wall_ns, "interval_s": seconds}
        places = Counter(
            (netns, listener.laddr, listener.lport) for netns, listener in sample.sockets
        )
        rows = []
        # Those at one address first: what came to them is not of those at any address.
        for netns, listener in sorted(sample.sockets, key=lambda pair: pair[1].laddr in ANY):
            process = sample.holders.get(listener.inode, NOBODY)
            ends = Ends(netns, listener.laddr, listener.lport, None, 0, 0)
            if keeps(held(Connection(ends, listener.uid, listener.inode), process)):
                is_shared = places[netns, listener.laddr, listener.lport] > 1
                accepts = self._accepted(netns, listener, process, is_shared=is_shared)
                rows.append(self._row(netns, listener, process, accepts, **of))
        self._accepts.clear()
        alive = {listener.inode for _, listener in sample.sockets}
        self._drops = {inode: self._drops[inode] for inode in alive & self._drops.keys()}
        self._run_accepts = Counter({inode: self._run_accepts[inode] for inode in alive})
        rows.sort(key=lambda row: (-row.drops, -row.backlog, -row.accepts, row.lport))
        note = sample.refused and f"some listeners are missing: {sample.refused.splitlines()[0]}"
        return Table(begin_ns, batch.until_ns, wall_ns, rows, note)

    def _row(
        self, netns: int, listener: Socket, process: Process, accepts: int, **of: Any
    ) -> Listener:
        """Return the row of a listener; `of` is what all rows of an interval have."""
        self._run_accepts[listener.inode] += accepts
        first, last = self._drops.get(listener.inode, (listener.drops, listener.drops))
        self._drops[listener.inode] = first, listener.drops
        identity = identity_of(next(iter(process.cgroups), None))
        return Listener(
            **of,
            pid=process.pid or None,
            comm=decode_text(process.comm) if process.pid else None,
            uid=listener.uid,
            netns=netns,
            unit=identity.unit,
            container=identity.container,
            container_name=identity.container_name,
            laddr=listener.laddr,
            lport=listener.lport,
            accepts=accepts,
            backlog=listener.queue,
            backlog_max=listener.queue_max,
            drops=listener.drops - last,
            run_accepts=self._run_accepts[listener.inode],
            run_drops=listener.drops - first,
            _inode=listener.inode,
        )

    def _accepted(self, netns: int, listener: Socket, process: Process, *, is_shared: bool) -> int:
        """Take the accepts that came to a listener; of several at one place, by its process."""
        found = [
            key
            for key in self._accepts
            if key[0] == netns
            and key[2] == listener.lport
            and (listener.laddr in ANY or key[1] == listener.laddr)
        ]
        own = [key for key in found if key[3] == process.pid] if is_shared else []
        return sum(self._accepts.pop(key) for key in own or found)


def tables(trace: Batches, interval_s: float, sampler: Sampling) -> Iterator[Table]:
    """Yield a table for each interval; `sampler` lists sockets, and is closed in the end.

    Raises:
        TcptraceError: what lists sockets has died.

    """
    counts, keeps = _Counts(), trace.filters.predicate()
    wanted: Sequence[int] | None = trace.filters.values.get("netns")
    interval_ns = int(interval_s * 1e9)
    begin_ns: int | None = None
    batch: Batch | None = None
    with closing(sampler):

        def listed() -> Sample | None:
            if not sampler.is_busy:
                sampler.ask(wanted, listeners=True)
            return awaited(sampler)

        for batch in trace.batches:
            for event in batch.events:
                counts.take(event)
            if begin_ns is None:
                counts.begin(listed())
                begin_ns = batch.until_ns
            elif batch.until_ns >= begin_ns + interval_ns and (sample := listed()):
                yield counts.table(sample, keeps, begin_ns, batch)
                begin_ns = batch.until_ns
        if batch and begin_ns is not None and batch.until_ns > begin_ns and (sample := listed()):
            yield counts.table(sample, keeps, begin_ns, batch)
