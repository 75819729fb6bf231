"""``tcptrace tracer``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import chain, islice
from typing import Any

import click

from tcptrace.errors import RefusedError
from tcptrace.kernel.processes import is_in_initial
from tcptrace.model.events import Event
from tcptrace.probes.tracer.probe import STATS, TRACER, VERBOSE
from tcptrace.shell.command import command
from tcptrace.shell.options import TRACING, option
from tcptrace.shell.say import say
from tcptrace.shell.trace import Trace

MOST_EARLY = 50_000
"""So many events are kept until the open connections are known; others wait in the buffer."""


def _refuse_inside(_context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuse ``--existing`` where process ids are others than the kernel's events have."""
    if value and not is_in_initial("pid"):
        raise RefusedError(
            "--existing needs the process ids of the initial PID namespace, which the kernel's "
            "events have.\nRun it on the host, or leave --existing out"
        )
    return value


@command(TRACER)
@option(
    "--stats",
    is_flag=True,
    adds=tuple(column.key for column in STATS),
    help="Add MS, TX, RX, RETR to X rows: duration, payload bytes, segments sent again.",
)
@option("-U", "--print-uid", is_flag=True, adds=("uid",), help="Add UID.")
@option(
    "--existing",
    is_flag=True,
    switches=("TRACER_EXISTING",),
    callback=_refuse_inside,
    help="Show the connections that are open at the start first, as O.",
)
@option(
    "--max-connections",
    metavar="N",
    type=click.IntRange(1, 1 << 24),
    switches=("MOST_CONNECTIONS",),
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
) -> Iterable[Event]:
    """Trace connections from connect (C) or accept (A) to close (X).

    Only established ones are shown. An X is shown when the kernel is done with the connection, with
    the process that closed it.

    \b
    Examples:
      tcptrace tracer                      all
      tcptrace tracer -t --stats           with time stamps, durations and bytes
      tcptrace tracer -P 5432 -u postgres  of one user, with this port at either end
      tcptrace tracer --existing -p 181    of one process, those it has first (O)
    """  # noqa: D301 - click's own mark for lines that stay as they are
    return _with_existing(trace) if existing else trace.events


def _with_existing(trace: Trace) -> Iterator[Event]:
    """Yield the open connections before the events; a connection once, in either form."""
    from tcptrace.probes.tracer.existing import Existing  # noqa: PLC0415 - for few runs

    found = Existing(trace.filters)
    early: list[Event] = []
    latest: Iterator[Event] = iter(())
    with closing(found):
        for batch in trace.batches:  # the buffer would fill up if nobody read it meanwhile
            latest = batch.events
            if len(early) < MOST_EARLY:
                early += latest
            if found.is_complete():
                break
        else:
            say("stopped before the connections that were open had been found")
            found.close()
        one_more = (batch.events for batch in islice(trace.batches, 1))
        yield from found.rows(chain(early, latest, chain.from_iterable(one_more)))
    yield from found.follow(trace.events)
