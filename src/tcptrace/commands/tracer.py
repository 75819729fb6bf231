"""``tcptrace tracer``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

import click

from tcptrace.errors import RefusedError
from tcptrace.kernel.processes import is_in_initial
from tcptrace.model.batch import Batch
from tcptrace.model.events import Event
from tcptrace.model.summary import OF_CONNECTIONS
from tcptrace.probes.connect.probe import FAILED
from tcptrace.probes.connect.under_way import with_under_way
from tcptrace.probes.dns.probe import ANSWERS
from tcptrace.probes.tracer.probe import STATS, TRACER, VERBOSE, is_failure
from tcptrace.probes.tracer.records import Open
from tcptrace.shell.command import command
from tcptrace.shell.destinations import destination_options
from tcptrace.shell.options import TRACING, option
from tcptrace.shell.say import say
from tcptrace.shell.trace import Trace

if TYPE_CHECKING:
    from tcptrace.model.destinations import Destinations


def _refuse_inside(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuse ``--existing`` where process ids are others than the kernel's events have."""
    if value and not is_in_initial("pid"):
        raise RefusedError(
            "--existing needs the process ids of the initial PID namespace, which the kernel's "
            "events have.\nRun it on the host, or leave --existing out"
        )
    return value


def _is_connection(row: Any) -> bool:
    return not is_failure(row)


@command(TRACER)
@option(
    "--stats",
    is_flag=True,
    adds=tuple(column.key for column in STATS),
    help="Add MS, TX, RX, RETR to X rows: duration, payload bytes, segments sent again.",
)
@option(
    "--failed",
    is_flag=True,
    adds=("result", "lat"),
    probes=(FAILED,),
    keeps=lambda failed: None if failed else _is_connection,
    help="Also attempts that never became connections, as F: RESULT, LAT(ms).",
)
@option(
    "-d",
    "--dns",
    is_flag=True,
    adds=("query",),
    probes=(ANSWERS,),
    help="Add QUERY: the name that the far end was asked for by, where its answer was seen.",
)
@option(
    "--dns-ttl",
    is_flag=True,
    needs=("dns",),
    help="With -d: answers end with their own time to live, not after 24 hours.",
)
@destination_options(OF_CONNECTIONS, prefers=("failed",), implies=("failed",), excludes=())
@option("-U", "--print-uid", is_flag=True, adds=("uid",), help="Add UID.")
@option(
    "--existing",
    is_flag=True,
    switches=("TRACER_EXISTING",),
    needs_kernel=True,
    callback=_refuse_inside,
    help="Show the connections that are open at the start first, as O.",
)
@option(
    "--max-connections",
    is_rare=True,
    metavar="N",
    type=click.IntRange(1, 1 << 24),
    switches=("MOST_CONNECTIONS",),
    needs_kernel=True,
    help="Follow at most so many at a time. Default: 65536.",
)
@option(
    "-v",
    "--verbose",
    is_flag=True,
    section=TRACING,
    adds=("netns",),
    replaces=VERBOSE,
    help="Add NETNS, spell TYPE out, time in ns; and say which backend was taken, and why.",
)
def tracer(
    trace: Trace,
    *,
    existing: bool,
    dns: bool,
    dns_ttl: bool,
    summary: bool,
    only: Destinations | None,
    fail_on_connect: bool,
) -> Iterable[Event]:
    """Trace connections from connect (C) or accept (A) to close (X).

    Only established ones are shown, without --failed. An X is shown when the kernel is done with
    the connection, with the process that closed it.

    \b
    Examples:
      tcptrace tracer                      all
      tcptrace tracer -t --stats           with time stamps, durations and bytes
      tcptrace tracer -P 5432 -u postgres  one user's, this port at either end
      tcptrace tracer --existing -p 181    of one process, those it has first (O)
      tcptrace tracer -d --failed          with names, and failed attempts (F)
      tcptrace tracer --summary -- make check
    """  # noqa: D301 - click's own mark for lines that stay as they are
    if summary or only or fail_on_connect:
        batches = with_under_way(trace.batches, trace.table, trace.filters)
        trace = dataclasses.replace(trace, batches=batches)
    if dns:
        return _named(trace, existing=existing, own_ttl=dns_ttl)
    return _rows(trace, existing=existing)


def _rows(trace: Trace, *, existing: bool) -> Iterator[Event]:
    """Return the events, behind the open connections; one is shown once, in either form."""
    if not existing:
        return trace.events
    from tcptrace.probes.tracer.open_connections import with_open  # noqa: PLC0415 - for few runs

    batches = with_open(trace.batches, trace.filters, say)
    return chain.from_iterable(batch.events for batch in batches)


def _named(trace: Trace, *, existing: bool, own_ttl: bool) -> Iterator[Event]:
    """Yield the rows, named by the answers that come among their events."""
    from tcptrace.probes.dns.names import Names  # noqa: PLC0415 - for few runs

    names = Names(own_ttl=own_ttl)

    def without_answers() -> Iterator[Batch]:
        for batch in trace.batches:
            yield batch._replace(events=names.named(batch.events))
            trace.give_up(names.given_up)

    batches = without_answers()
    for row in _rows(dataclasses.replace(trace, batches=batches), existing=existing):
        if isinstance(row, Open):
            names.name_late(row)
        yield row
    if names.malformed:
        say(f"malformed DNS messages: {names.malformed}")
