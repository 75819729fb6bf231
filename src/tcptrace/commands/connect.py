"""``tcptrace connect``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tcptrace.model.batch import Batch
from tcptrace.model.events import Event, NewTable
from tcptrace.model.summary import OF_ATTEMPTS
from tcptrace.probes.connect.columns import COUNT_TABLE
from tcptrace.probes.connect.counts import Count, Counted, merged, read_counts
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.connect.under_way import with_under_way
from tcptrace.probes.dns.probe import ANSWERS
from tcptrace.shell.command import command
from tcptrace.shell.destinations import destination_options
from tcptrace.shell.options import option
from tcptrace.shell.say import say
from tcptrace.shell.times import parse_nanoseconds, parse_seconds
from tcptrace.shell.trace import Trace

if TYPE_CHECKING:
    from tcptrace.model.destinations import Destinations

Row = Event | Count | NewTable


def _took(ms: float) -> Callable[[Any], bool]:
    """Return what tells whether an attempt took so many milliseconds or more."""
    return lambda row: row.latency_ms is not None and row.latency_ms >= ms


@command(CONNECT)
@option(
    "-L",
    "--lport",
    is_flag=True,
    idle_with=("count",),
    adds=("lport",),
    help="Add LPORT, the local port; no effect with -c, see -s.",
)
@option(
    "-U",
    "--print-uid",
    is_flag=True,
    idle_with=("count",),
    adds=("uid",),
    help="Add UID; no effect with -c.",
)
@option(
    "--errors",
    is_flag=True,
    excludes=("count",),
    adds=("err",),
    help="Add ERR: why an attempt failed in this host (no route, no free port, denied).",
)
@option(
    "--outcome",
    is_flag=True,
    excludes=("count",),
    adds=("result", "lat", "retr"),
    switches=("CONNECT_OUTCOME",),
    help="Show attempts when they have ended: RESULT, LAT(ms), RETR (SYNs sent again).",
)
@option(
    "--slower",
    metavar="TIME",
    callback=parse_nanoseconds,
    excludes=("count",),
    adds=("result", "lat", "retr"),
    switches=("CONNECT_OUTCOME", "CONNECT_SLOWER_NS"),
    narrows=("CONNECT_SLOWER_NS",),
    keeps=lambda ns: _took(ns / 1e6) if ns else None,
    help="As --outcome, for attempts that took this long or longer: 100 (ms), 1.5s.",
)
@option(
    "-c",
    "--count",
    is_flag=True,
    switches=("CONNECT_COUNTS",),
    is_for_rows=True,
    table=COUNT_TABLE,
    help="Count attempts by source address, destination address and port; printed at the end.",
)
@option(
    "-s",
    "--source-port",
    is_flag=True,
    needs=("count",),
    adds=("lport",),
    switches=("CONNECT_COUNT_LPORT",),
    is_for_rows=True,
    help="With -c: count by source port, too.",
)
@option(
    "--interval",
    metavar="TIME",
    callback=parse_seconds,
    needs=("count",),
    adds_to_csv=("time",),
    help="With -c: print the counts so far each 5, 500ms or 1m; a terminal shows the last.",
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
@destination_options(
    OF_ATTEMPTS, prefers=("outcome",), implies=("outcome",), excludes=("count", "slower")
)
@option(
    "--new-since",
    metavar="BASE",
    is_rare=True,
    is_for_rows=True,
    excludes=("count",),
    type=click.Path(path_type=Path),
    help="Only what is not in BASE, a recording or what `diff --save` has kept.",
)
@option(
    "--ignore",
    metavar="FILE",
    is_rare=True,
    is_for_rows=True,
    needs=("new_since",),
    type=click.Path(path_type=Path),
    help="With --new-since: leave out what patterns in a file match, see diff.",
)
@option(
    "--fail",
    is_flag=True,
    is_rare=True,
    needs=("new_since",),
    excludes=("slower",),
    implies=lambda _: ("outcome",),
    help="With --new-since: exit with 3 after any attempt that is new.",
)
def connect(
    trace: Trace,
    *,
    count: bool,
    source_port: bool,
    interval: float | None,
    dns: bool,
    dns_ttl: bool,
    summary: bool,
    only: Destinations | None,
    fail_on_connect: bool,
    new_since: Path | None,
    ignore: Path | None,
    fail: bool,
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
      tcptrace connect -d --uid 1000       with the names that a user asked for
      tcptrace connect --summary -- make check
      tcptrace connect --only 'localhost,*.example.org:443' -- make check
      tcptrace connect -d --new-since base  what was not in this baseline
    """  # noqa: D301 - click's own mark for lines that stay as they are
    if summary or only or fail_on_connect or fail:
        batches = with_under_way(trace.batches, trace.table, trace.filters)
        trace = dataclasses.replace(trace, batches=batches)
    if count:
        return _tables(trace, interval, by_lport=source_port)
    rows = _named(trace, own_ttl=dns_ttl) if dns else trace.events
    return _new(rows, new_since, ignore) if new_since else rows


def _new(rows: Iterable[Event], base: Path, ignore: Path | None) -> Iterable[Event]:
    """Return the attempts that a baseline does not have. Raises TcptraceError."""
    from tcptrace.diff.baseline import Attempt, edge_of, network_of  # noqa: PLC0415 - for few runs
    from tcptrace.diff.ignore import read_ignored  # noqa: PLC0415
    from tcptrace.diff.read import read_baseline  # noqa: PLC0415

    baseline, is_ignored = read_baseline([base], say, say), read_ignored(ignore)

    def is_new(row: Any) -> bool:
        name = getattr(row, "query", None)
        attempt = Attempt(row.comm, name, network_of(row.raddr), row.rport)
        return not baseline.knows(attempt) and not is_ignored(edge_of(attempt, by_name=True))

    return filter(is_new, rows)


def _named(trace: Trace, *, own_ttl: bool) -> Iterator[Event]:
    """Yield the attempts, named by the answers that come among them."""
    from tcptrace.probes.dns.names import Names  # noqa: PLC0415 - for few runs

    names = Names(own_ttl=own_ttl)
    for event in names.named(trace.events):
        trace.give_up(names.given_up)
        yield event
    trace.give_up(names.given_up)
    if names.malformed:
        say(f"malformed DNS messages: {names.malformed}")


def _tables(trace: Trace, interval_s: float | None, *, by_lport: bool) -> Iterator[Row]:
    """Yield the counts every `interval_s`, and at the end.

    Attempts are counted in the kernel, and none comes. Of a recording, they are counted here, and
    so are those that filters by unit, container and pod had not judged when they happened.
    """
    interval_ns = int((interval_s or 0) * 1e9)
    due_ns: int | None = None
    counted = Counted(by_lport=by_lport)
    for batch in trace.batches:
        counted.add(batch.events)
        due_ns = batch.until_ns + interval_ns if due_ns is None else due_ns
        if interval_ns and batch.until_ns >= due_ns:
            due_ns += interval_ns
            yield from _table(trace, counted, batch, timed=True)
    if due_ns is not None:
        yield from _table(trace, counted, batch, timed=bool(interval_ns))


def _table(
    trace: Trace, counted: Counted, batch: Batch, *, timed: bool
) -> Iterator[Count | NewTable]:
    yield NewTable(batch.wall_ns(batch.until_ns) if timed else None)
    rows = [*read_counts(trace.table("counts", 40, 8), batch), *counted.rows(batch)]
    yield from sorted(merged(rows), key=lambda row: row.connects, reverse=True)
