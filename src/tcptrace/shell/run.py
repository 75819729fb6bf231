"""One run of a tracing command: attach, pump, sum up."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from tcptrace.errors import LossError
from tcptrace.model.events import NewTable
from tcptrace.model.losses import NOTHING_LOST
from tcptrace.shell.plan import Output
from tcptrace.shell.pump import Pump, RowsOf
from tcptrace.shell.say import say, tell
from tcptrace.shell.stop import Stop
from tcptrace.shell.trace import Trace
from tcptrace.sinks.color import palette
from tcptrace.sinks.output import require_open
from tcptrace.sinks.sink import Sink
from tcptrace.sources.attach import Attaching
from tcptrace.sources.plan import Plan
from tcptrace.sources.source import Source

Function = Callable[[Trace], Iterable[Any]]
"""A command's own work: from a trace to rows."""


def run(plan: Plan, function: Function, output: Output) -> None:
    """Trace as planned until it is time to stop.

    Raises:
        TcptraceError: tracing is not possible, or events were lost and that is to be an error.

    """
    started = time.monotonic()
    require_open(sys.stdout)
    stop = Stop()
    stop.take_signals()
    with closing(Attaching(plan)) as attaching:
        sink = _sink(output)
        source = attaching.session(stop.is_asked)
    if source is None:
        end_line(stop)
        say("stopped before the probes were attached")
        return
    with closing(source):
        source.notes.append(f"attached {time.monotonic() - started:.3f} s after the start")
        _introduce(source, verbose=output.verbose)
        if output.duration_s is not None:
            stop.after(output.duration_s)
        sink.open(source.meta)
        pump = Pump(
            source, [sink], stop, say, count=output.count, before_output=lambda: end_line(stop)
        )
        _pump(pump, lambda batches: function(Trace(batches, plan.filters, source)), output)
        if pump.error:
            raise pump.error
        losses = pump.losses()
        if output.fail_on_loss and losses != NOTHING_LOST:
            raise LossError(str(losses))


def _sink(output: Output) -> Sink:
    """Return what writes rows to standard output."""
    if output.sink:
        return output.sink(palette(output.color, sys.stdout))
    from tcptrace.sinks.choose import make_sink  # noqa: PLC0415 - while the loader works

    return make_sink(
        output.form,
        output.columns,
        sys.stdout,
        tables=output.tables,
        color=output.color,
        wide=output.wide,
    )


def _introduce(source: Source, *, verbose: bool) -> None:
    """Say what is traced, and how."""
    if source.warning:
        say(source.warning)
    if verbose:
        for note in source.notes:
            say(note)
    tell(f"Tracing {source.meta.probe} ({source.meta.backend}). Hit Ctrl-C to end.")


def _pump(pump: Pump, rows_of: RowsOf, output: Output) -> None:
    """Pass rows on until it is time to stop, then sum up."""
    began = time.monotonic()
    try:
        pump.run(rows_of, begin=[] if output.tables else [NewTable()])
    finally:
        seconds = time.monotonic() - began
        pump.close()
        say(pump.summary(output.of, seconds))


def end_line(stop: Stop) -> None:
    """End the line in which a terminal has echoed ^C, if nothing has ended it."""
    if not stop.is_echoed:
        return
    stop.is_echoed = False
    if sys.stderr.isatty():
        tell("")
    elif sys.stdout.isatty():
        sys.stdout.write("\n")
        sys.stdout.flush()
