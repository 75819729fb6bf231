"""``tcptrace tracer``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tcptrace.commands.base import TRACING, command, option
from tcptrace.events import Event
from tcptrace.probes.tracer import STATS, TRACER, VERBOSE


@command(TRACER)
@option(
    "--stats",
    is_flag=True,
    adds=tuple(column.key for column in STATS),
    help="Add MS, TX, RX, RETR to X rows: duration, payload bytes, segments sent again.",
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
def tracer(events: Iterator[Event]) -> Iterable[Event]:
    """Trace connections from connect (C) or accept (A) to close (X).

    \b
    Examples:
      tcptrace tracer                      all that are established
      tcptrace tracer -t --stats           with time stamps, durations and bytes
    """  # noqa: D301 - click's own mark for lines that stay as they are
    return events
