"""The connections that were open when the trace began: `OpenConnections`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from typing import Any, NamedTuple

from tcptrace.kernel import clock, sockets
from tcptrace.kernel.sockets import NOBODY, Connection, Ends, Process
from tcptrace.model.batch import Batch
from tcptrace.model.events import Event, decode_text
from tcptrace.model.filters import Filters
from tcptrace.model.identity import Identity
from tcptrace.probes.connect.records import Connect
from tcptrace.probes.identities import identity_of
from tcptrace.probes.tracer.records import Closed, Open

MOST_EARLY = 50_000
"""So many events are kept until the open connections are known; others wait in the buffer."""
NOT_FOUND = "stopped before the connections that were open had been found"


def _ends(event: Any) -> Ends:
    return Ends(event.netns, event.laddr, event.lport, event.raddr, event.rport, event.link)


def _family(ends: Ends) -> int:
    return 6 if ":" in (ends.laddr or "") else 4


def _row(
    connection: Connection, process: Process, holders: list[int], ts_ns: int, wall_ns: int
) -> Open:
    ends = connection.ends
    known = process is not NOBODY
    cgroup_id = next(iter(process.cgroups), None)
    return Open(
        ts_ns=ts_ns,
        wall_ns=wall_ns,
        cgroup_id=cgroup_id,
        identity=identity_of(cgroup_id),
        pid=process.pid or None,
        tid=None,
        uid=connection.uid if known else None,
        netns=ends.netns,
        mntns=process.mntns or None,
        laddr=ends.laddr,
        raddr=ends.raddr,
        lport=ends.lport,
        rport=ends.rport,
        family=_family(ends),
        comm=decode_text(process.comm) if known else None,
        who=0,
        holders=holders or None,
    )


class _Held(NamedTuple):
    """A connection that a process has, as the filters look at it."""

    pid: int
    uid: int
    comm: str
    netns: int | None
    mntns: int
    family: int
    lport: int | None
    rport: int | None
    cgroup_id: int | None
    cgroups: tuple[int, ...]

    @property
    def identity(self) -> Identity:
        return identity_of(self.cgroup_id)


def held(connection: Connection, process: Process) -> _Held:
    """Return what the filters look at of a socket that a process has."""
    ends = connection.ends
    return _Held(
        pid=process.pid,
        uid=connection.uid,
        comm=decode_text(process.comm),
        netns=ends.netns,
        mntns=process.mntns,
        family=_family(ends),
        lport=ends.lport,
        rport=ends.rport,
        cgroup_id=next(iter(process.cgroups), None),
        cgroups=process.cgroups,
    )


class OpenConnections:
    """Joins the connections that are open with the events since the probes were attached."""

    def __init__(self, filters: Filters) -> None:
        """Begin to look which connections are open, now that the probes are attached."""
        self._keeps = filters.predicate()
        self._since_ns = clock.now_ns()
        self._offset_ns = time.time_ns() - self._since_ns
        self._survey = sockets.Survey(filters.values.get("netns"))
        self.is_complete = self._survey.is_complete
        """Tells whether all have been found, without waiting. Raises HungError."""
        self.close = self._survey.close
        """Ends the search, if it still goes on."""
        self._rows: dict[Ends, Open] = {}

    def rows(self, early: Iterable[Event]) -> Iterator[Event]:
        """Yield the open connections, then the events that came until they had been found.

        They have the time of the trace's beginning, which is before all that follows.

        A connection that the events tell of has its beginning there, unless it was connecting
        before the trace began: then its process is known only here. One that has ended before it
        could be found was open, too; who had it is not known.
        After `close`, only the latter are known to have been open.

        Raises:
            TcptraceError: the kernel does not tell what is open.

        """
        found, holders, known = self._survey.result()
        early = list(early)
        self._since_ns = min([self._since_ns, *(event.ts_ns for event in early)])
        first: dict[Ends, Event] = {}
        for event in early:  # the same ends can be used again at once
            if not isinstance(event, Connect):
                first.setdefault(_ends(event), event)
        # Their holders were looked for by the numbers of sockets, which may be others' by then.
        ended = {_ends(event) for event in early if isinstance(event, Closed)}
        for connection in found:
            begin = first.get(connection.ends)
            if connection.ends not in ended and (begin is None or not begin.pid):
                self._add(connection, holders.get(connection.inode, []), known)
        for ends, event in first.items():
            if isinstance(event, Closed) and event.older and event.passed:
                self._rows[ends] = self._row(Connection(ends, 0, 0), NOBODY, [])
        yield from list(self._rows.values())
        yield from self.follow(early)

    def _row(self, connection: Connection, process: Process, holders: list[int]) -> Open:
        wall_ns = self._since_ns + self._offset_ns
        return _row(connection, process, holders, self._since_ns, wall_ns)

    def _add(
        self, connection: Connection, holders: list[int], known: Mapping[int, Process]
    ) -> None:
        """Add a row for a connection, if there is a process that passes the filters."""
        processes = [known[pid] for pid in holders if pid in known] or [NOBODY]
        kept = next(
            (process for process in processes if self._keeps(held(connection, process))), None
        )
        if kept:
            self._rows[connection.ends] = self._row(connection, kept, holders)

    def follow(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield events; name the owner where one of the open connections ends.

        The kernel has sent the ends of all connections older than the trace: it does not know which
        have passed the filters. What is shown as open is not shown to begin: its connect was under
        way when the trace began, or a task was about to return from accept when it was found.
        """
        for event in events:
            if isinstance(event, Connect):  # an attempt that failed
                yield event
                continue
            ends = _ends(event)
            if not isinstance(event, Closed):
                if ends not in self._rows:
                    yield event
                continue
            begin = self._rows.pop(ends, None)
            if event.older and begin:
                _name_owner(event, begin)
            if begin or event.passed:
                yield event


def _name_owner(event: Closed, begin: Open) -> None:
    """Fill what the kernel could not know."""
    if event.pid is None and begin.pid:
        event.pid, event.uid, event.comm = begin.pid, begin.uid, begin.comm
        event.cgroup_id, event.closer = begin.cgroup_id, "owner"
        event.identity = begin.identity
    event.mntns = event.mntns or begin.mntns


def with_open(
    batches: Iterator[Batch], filters: Filters, tell: Callable[[str], None]
) -> Iterator[Batch]:
    """Yield batches, the first with the connections that are open; see `OpenConnections`.

    `tell` is told where not all are found: for want of rights, or as the trace stops before.

    Raises:
        TcptraceError: the kernel does not tell what is open.

    """
    early: list[Event] = []
    batch: Batch | None = None
    if missing := sockets.out_of_reach():
        tell(missing)
    with closing(OpenConnections(filters)) as found:
        for batch in batches:  # the buffer would fill up if nobody read it meanwhile
            if len(early) < MOST_EARLY:
                early += batch.events
            if found.is_complete():
                early += batch.events
                break
        else:
            tell(NOT_FOUND)
            found.close()
        batch = next(batches, batch)
        if batch:
            yield batch._replace(events=found.rows(chain(early, batch.events)))
    for batch in batches:
        yield batch._replace(events=found.follow(batch.events))
