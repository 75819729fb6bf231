"""One run of a tracing command: attach, pump, sum up."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, TextIO

import click

from tcptrace.errors import LossError, TcptraceError
from tcptrace.model.events import NewTable
from tcptrace.model.losses import NOTHING_LOST
from tcptrace.shell.follow import Child, Following, FollowingStop, Tree, user_of
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
    following = output.following
    user = user_of(following.user, os.environ) if following.command else None
    stream = _stream(output)
    require_open(stream)
    stop = Stop()
    stop.take_signals()
    with closing(Attaching(plan)) as attaching:
        sink = _sink(output, stream)
        source = attaching.session(stop.is_asked)
    if source is None:
        end_line(stop)
        say("stopped before the probes were attached")
        return
    with closing(source):
        source.notes.append(f"attached {time.monotonic() - started:.3f} s after the start")
        tree = Tree(source)
        child = Child(following.command, user) if following.command else None
        if following:
            stop = FollowingStop(lambda: _is_over(following, tree, child))
            stop.take_signals()
            tree.add_with_descendants([child.pid] if child else following.pids)
        _introduce(source, verbose=output.verbose, is_for_command=child is not None)
        if child:
            child.start(stop)
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
    if child:
        raise click.exceptions.Exit(child.wait())


def _is_over(following: Following, tree: Tree, child: Child | None) -> bool:
    """Tell whether those who are followed have ended."""
    if child and not child.has_ended():
        return False
    return bool(child and not following.waits) or tree.is_over()


def _stream(output: Output) -> TextIO:
    """Return where rows go: beside a command, standard output is the command's."""
    if output.to is None:
        return sys.stderr if output.following.command else sys.stdout
    if output.to == "-":
        return sys.stdout
    try:
        return Path(output.to).open("w", encoding="utf-8", newline="")
    except OSError as error:
        raise TcptraceError(f"cannot write to {output.to}: {error.strerror}") from None


def _sink(output: Output, stream: TextIO) -> Sink:
    """Return what writes rows to a stream."""
    if output.sink:
        return output.sink(palette(output.color, sys.stdout))
    from tcptrace.sinks.choose import make_sink  # noqa: PLC0415 - while the loader works

    return make_sink(
        output.form,
        output.columns,
        stream,
        tables=output.tables,
        color=output.color,
        wide=output.wide,
    )


def _introduce(source: Source, *, verbose: bool, is_for_command: bool) -> None:
    """Say what is traced, and how."""
    if source.warning:
        say(source.warning)
    if verbose:
        for note in source.notes:
            say(note)
    how = "" if is_for_command else " Hit Ctrl-C to end."
    tell(f"Tracing {source.meta.probe} ({source.meta.backend}).{how}")


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
