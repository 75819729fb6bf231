"""``tcptrace connect``."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterable, Iterator

import click

from tcptrace.backends.session import Session
from tcptrace.commands.base import command, option, parse_seconds
from tcptrace.events import Event, NewTable
from tcptrace.probes.connect import CONNECT, COUNT_TABLE, Count, read_counts

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
    help="With -c: print the counts so far each 5, 0.5s or 1m; a terminal shows the last.",
)
def connect(
    events: Iterator[Event],
    session: Session,
    batches: Batches,
    count: bool,  # noqa: FBT001 - click passes options by name
    interval: float | None,
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
    """  # noqa: D301 - click's own mark for lines that stay as they are
    return _tables(session, batches, interval) if count else events


def _tables(session: Session, batches: Batches, interval_s: float | None) -> Iterator[Row]:
    """Yield the counts every `interval_s`, and at the end."""
    due = time.monotonic() + (interval_s or float("inf"))
    for batch in batches:
        collections.deque(batch, maxlen=0)  # attempts are counted in the kernel: it is empty
        if time.monotonic() >= due:
            due += interval_s or 0
            yield from _table(session)
    yield from _table(session)


def _table(session: Session) -> Iterator[Count | NewTable]:
    yield NewTable()
    rows = read_counts(session.table("counts", 40, 8))
    yield from sorted(rows, key=lambda row: row.connects, reverse=True)
