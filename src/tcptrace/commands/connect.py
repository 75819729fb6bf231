"""``tcptrace connect``."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Iterator

import click

from tcptrace.kernel import clock
from tcptrace.model.events import Event, NewTable
from tcptrace.probes.connect.probe import CONNECT, COUNT_TABLE, Connect, Count, read_counts
from tcptrace.probes.dns.probe import ANSWERS, Message
from tcptrace.shell.command import command
from tcptrace.shell.options import option, parse_seconds
from tcptrace.shell.say import say
from tcptrace.sources.bpf.session import Session

Row = Event | Count | NewTable
Batches = Iterator[Iterator[Event]]


def _nanoseconds(_context: click.Context, _parameter: click.Parameter, value: float | None) -> int:
    return int((value or 0) * 1e6)


@command(CONNECT)
@option(
    "-L",
    "--lport",
    is_flag=True,
    excludes=("count",),
    adds=("lport",),
    help="Add LPORT, the local port.",
)
@option("-U", "--print-uid", is_flag=True, excludes=("count",), adds=("uid",), help="Add UID.")
@option(
    "--errors",
    is_flag=True,
    excludes=("count",),
    adds=("err",),
    help="Add ERR: why an attempt failed in this host.",
)
@option(
    "--outcome",
    is_flag=True,
    excludes=("count",),
    adds=("result", "lat", "retr"),
    switches=("OUTCOME",),
    help="Show attempts when they have ended: RESULT, LAT(ms), RETR (SYNs sent again).",
)
@option(
    "--slower",
    metavar="MS",
    type=click.FloatRange(min=0, min_open=True),
    callback=_nanoseconds,
    excludes=("count",),
    adds=("result", "lat", "retr"),
    switches=("OUTCOME", "SLOWER_NS"),
    help="As --outcome, for attempts that took at least so many milliseconds.",
)
@option(
    "-c",
    "--count",
    is_flag=True,
    switches=("COUNTS",),
    table=COUNT_TABLE,
    help="Count attempts by source address, destination address and port; printed at the end.",
)
@option(
    "-s",
    "--source-port",
    is_flag=True,
    needs=("count",),
    adds=("lport",),
    switches=("COUNT_LPORT",),
    help="With -c: count by source port, too.",
)
@option(
    "--interval",
    metavar="TIME",
    callback=parse_seconds,
    needs=("count",),
    adds_to_csv=("time",),
    help="With -c: print the counts so far each 5, 0.5s or 1m; a terminal shows the last.",
)
@option(
    "-d",
    "--dns",
    is_flag=True,
    excludes=("count",),
    adds=("query",),
    probes=(ANSWERS,),
    help="Add QUERY: the name that the address was asked for by, where its answer was seen.",
)
@option(
    "--dns-ttl",
    is_flag=True,
    needs=("dns",),
    help="With -d: answers end with their own time to live, not after 24 hours.",
)
def connect(
    events: Iterator[Event],
    session: Session,
    batches: Batches,
    *,
    count: bool,
    interval: float | None,
    dns: bool,
    dns_ttl: bool,
) -> Iterable[Row]:
    """Trace attempts to connect (active opens), failed ones as well.

    An attempt is shown when its SYN is sent, or when it fails inside the host.

    \b
    Examples:
      tcptrace connect                     all
      tcptrace connect -t -L -U            with time stamps, local ports and users
      tcptrace connect -P 80,443 -u www    one user's, to these ports
      tcptrace connect --outcome           how they ended, and after how long
      tcptrace connect --slower 100        those that took 100 ms or more
      tcptrace connect -c --interval 5     counts by destination
      tcptrace connect -d --uid 1000       with the names that a user's processes asked for
    """  # noqa: D301 - click's own mark for lines that stay as they are
    if count:
        return _tables(session, batches, interval)
    return _named(session, events, own_ttl=dns_ttl) if dns else events


def _named(session: Session, events: Iterator[Event], *, own_ttl: bool) -> Iterator[Event]:
    """Yield the attempts, named by the answers that come among them."""
    from tcptrace.probes.dns.names import Names  # noqa: PLC0415 - for few runs

    names = Names(own_ttl=own_ttl)
    for event in events:
        if isinstance(event, Message):
            names.learn(event)
            session.given_up = names.given_up
        elif isinstance(event, Connect):
            found = names.find(event)
            if found:
                event.query, event.query_age_ms = found[0], found[1] / 1e6
            yield event
    if names.malformed:
        say(f"malformed DNS messages: {names.malformed}")


def _tables(session: Session, batches: Batches, interval_s: float | None) -> Iterator[Row]:
    """Yield the counts every `interval_s`, and at the end."""
    due = time.monotonic() + (interval_s or float("inf"))
    for batch in batches:
        collections.deque(batch, maxlen=0)  # attempts are counted in the kernel: it is empty
        if time.monotonic() >= due:
            due += interval_s or 0
            yield from _table(session, timed=True)
    yield from _table(session, timed=interval_s is not None)


def _table(session: Session, *, timed: bool) -> Iterator[Count | NewTable]:
    yield NewTable(clock.now_ns() if timed else None)
    rows = read_counts(session.table("counts", 40, 8))
    yield from sorted(rows, key=lambda row: row.connects, reverse=True)
