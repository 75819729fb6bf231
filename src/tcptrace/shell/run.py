"""One run of a tracing command: attach, pump, sum up."""

from __future__ import annotations

import gc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from tcptrace.errors import LossError, TcptraceError
from tcptrace.kernel import apart
from tcptrace.model.batch import Batch
from tcptrace.model.events import NewTable, time_text
from tcptrace.model.filters import Filters
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.pace import Pace
from tcptrace.probes.probe import Probe
from tcptrace.shell.follow import Child, Following, FollowingStop, Tree, user_of
from tcptrace.shell.host import absent
from tcptrace.shell.keeping import Keeping
from tcptrace.shell.parting import Parting
from tcptrace.shell.plan import Output
from tcptrace.shell.printing import printing, stream_for
from tcptrace.shell.pump import Pump, RowsOf
from tcptrace.shell.say import say, tell
from tcptrace.shell.stop import Stop, Why
from tcptrace.shell.trace import Trace
from tcptrace.sinks.sink import Sink
from tcptrace.sinks.stream import StreamSink
from tcptrace.sources.attach import Attaching
from tcptrace.sources.live import LiveSource
from tcptrace.sources.plan import Plan
from tcptrace.sources.recording.kept import KeptSource
from tcptrace.sources.source import Source

if TYPE_CHECKING:
    from tcptrace.shell.gate import Gate

SEARCHED_AFTER = 50_000
"""After how many new objects Python looks for cycles of garbage. Rows are in no cycle, and to look
after every 700 objects, as is usual, takes a tenth of the time of a run."""
MOST_ABSENT = 5
"""How many process ids are named that nobody has."""
STOPPED = "stopped before the probes were attached"

Function = Callable[[Trace], Iterable[Any]]
"""A command's own work: from a trace to rows."""


def run(plan: Plan, function: Function, output: Output, kept: Keeping | None = None) -> None:
    """Trace as planned until it is time to stop.

    Raises:
        TcptraceError: tracing is not possible, or events were lost and that is to be an error.

    """
    started = time.monotonic()
    given = apart.given()
    following = output.following
    user = user_of(following.user, os.environ) if following.command else None
    who = None if output.keeps_privileges else apart.person_for(os.environ)
    apart.set_person(who)
    with apart.one_thread():
        stream = stream_for(output, kept)
    stop = Stop()
    stop.take_signals()
    _say_who_is_absent(plan.filters)
    with closing(Attaching(plan)) as attaching:
        sinks = printing(output, kept, stream)
        source = attaching.session(stop.is_asked)
    gate = _gate(output)
    if source is None:
        end_line(stop)
        if following.command:
            raise TcptraceError(f"{STOPPED}: the command was not run")
        _judge(output, gate, NOTHING_LOST, STOPPED, 0)
        say(STOPPED)
        return
    with ExitStack() as at_end, closing(source):
        source.notes.append(f"attached {time.monotonic() - started:.3f} s after the start")
        sinks += _keeping(plan.probe, kept)
        tree = Tree(source)
        child = Child(following.command, user) if following.command else None
        place = kept.place if kept else None
        parting = Parting(source, who, child, place, given, verbose=output.verbose) if who else None
        if following:
            before, stop = stop, FollowingStop(lambda: _is_over(following, tree, child))
            stop.take_over(before)
            tree.add_with_descendants([child.pid] if child else following.pids)
        meta = source.meta
        how = "" if child else " Hit Ctrl-C to end."
        _introduce(source, f"Tracing {meta.probe} ({meta.backend}).{how}", output)
        if child:
            _start(child, source, stop, at_end)
        if output.duration_s is not None:
            stop.after(output.duration_s)
        all_sinks = [*sinks, *gate]
        losses = _pass_on(
            source,
            plan.filters,
            function,
            all_sinks,
            stop,
            output,
            rest=_rest_of(source, output),
            shorten=_shortcut(source, plan, all_sinks, output),
            parting=parting,
        )
        if child:
            source.let_go()
    status = child.wait() if child else 0
    _judge(output, gate, losses, _doubt(stop, following), status)
    if child:
        raise click.exceptions.Exit(status)


def _start(child: Child, source: LiveSource, stop: Stop, at_end: ExitStack) -> None:
    """Let a command run, and wait for it `at_end`. Raises TcptraceError after a signal."""
    source.wake_at(child.descriptor)
    at_end.callback(child.wait)
    if not child.start(stop):
        raise TcptraceError("stopped before tracing has begun: the command was not run")


def _rest_of(source: LiveSource, output: Output) -> Callable[[], None]:
    """Return what lets a source rest, unless the run ends by the clock or with a process."""
    is_timed = output.duration_s is not None or output.following
    return (lambda: None) if is_timed else source.rest_long


def _shortcut(
    source: LiveSource, plan: Plan, sinks: Sequence[Sink], output: Output
) -> Callable[[], None]:
    """Return what lets a source write lines itself, unless somebody looks at each row."""
    is_counted = output.count is not None
    are_rows = set(plan.records) <= set(plan.probe.row_classes)
    if is_counted or not are_rows or len(sinks) > 1 or not isinstance(sinks[0], StreamSink):
        return lambda: None
    return partial(source.write_for, sinks[0])


def replay(
    recording: KeptSource,
    filters: Filters,
    function: Function,
    output: Output,
    probe: Probe,
    kept: Keeping | None,
) -> None:
    """Show a recording.

    Raises:
        TcptraceError: it cannot be read, or events were lost and that is to be an error.

    """
    stream = stream_for(output, kept)
    stop = Stop()
    stop.take_signals()
    with closing(recording):
        if output.duration_s is not None:
            recording.last(int(output.duration_s * 1e9))
        source = _paced(recording, output.pace)
        sinks = [*printing(output, kept, stream), *_keeping(probe, kept)]
        meta = source.meta
        of = f" of {meta.host}, {time_text(meta.start_ns)}" if meta.host else ""
        _introduce(source, f"Reading {meta.probe} ({meta.backend}){of}.", output)
        gate = _gate(output)
        losses = _pass_on(source, filters, function, [*sinks, *gate], stop, output)
        if recording.is_whole is False and stop.why is None:
            say(f"{recording.name} was not ended by its writer: these are all of its whole rows")
        _judge(output, gate, losses, _doubt_of_kept(stop, recording), 0)


def _paced(recording: KeptSource, pace: Pace | None) -> Source:
    """Return what plays a recording at a pace, where one is given."""
    if pace is None:
        return recording
    from tcptrace.sources.recording.paced import Paced  # noqa: PLC0415 - for few runs

    return Paced(recording, pace)


def _keeping(probe: Probe, kept: Keeping | None) -> list[Sink]:
    """Return the sink that keeps a recording, if one is asked for."""
    return [kept.open(probe)] if kept else []


def _pass_on(
    source: Source,
    filters: Filters,
    function: Function,
    sinks: Sequence[Sink],
    stop: Stop,
    output: Output,
    *,
    rest: Callable[[], None] = lambda: None,
    shorten: Callable[[], None] = lambda: None,
    parting: Parting | None = None,
) -> Losses:
    """Pass on what comes until it is time to stop; return what may be missing.

    `rest` is called where batches may come seldom while nothing happens, `shorten` where rows are
    the events as they are; `parting` gives up rights.
    """
    for sink in sinks:
        sink.open(source.meta)
    prepare = [sink.prepare for sink in sinks if hasattr(sink, "prepare")]
    if parting:
        parting.settle(prepare)
    for each in () if parting else prepare:
        each()
    then = parting.then if parting else iter

    def rows_of(batches: Iterator[Batch]) -> Iterable[Any]:
        trace = Trace(then(batches), filters, source, rest)
        rows = function(trace)
        if trace.are_its_events(rows):
            shorten()
        return rows

    pump = Pump(source, sinks, stop, say, count=output.count, before_output=lambda: end_line(stop))
    _pump(pump, rows_of, output)
    if pump.error:
        raise pump.error
    return pump.losses()


def _gate(output: Output) -> list[Gate]:
    """Return the gate for attempts to connect, if one is asked for."""
    if output.permitted is None:
        return []
    from tcptrace.shell.gate import FORBIDDEN, NEW, Gate  # noqa: PLC0415 - for few runs

    return [Gate(output.permitted, NEW if output.is_about_base else FORBIDDEN)]


def _judge(
    output: Output, gates: Sequence[Gate], losses: Losses, doubt: str | None, status: int
) -> None:
    """Raise TcptraceError where something was not permitted, or where losses are errors."""
    for gate in gates:
        gate.judge(losses, doubt, status)
    if output.fail_on_loss and losses != NOTHING_LOST:
        raise LossError(str(losses))


def _doubt(stop: Stop, following: Following) -> str | None:
    """Return why attempts may not have been seen."""
    if following.command and stop.why is not Why.ENDED:
        return f"tracing stopped before those who are followed had ended: {_reason(stop)}"
    return f"tracing stopped: {_reason(stop)}" if stop.why is Why.CLOSED else None


def _doubt_of_kept(stop: Stop, source: KeptSource) -> str | None:
    """Return why attempts may not be in a recording, or were not read."""
    if stop.why not in {None, Why.COUNT}:
        return f"{source.name} was not read to its end: {_reason(stop)}"
    if not source.meta.boot_id:
        return f"{source.name} does not tell what was lost; record with -w"
    if source.warning:
        return source.warning
    is_whole = source.is_whole or stop.why is Why.COUNT
    return None if is_whole else f"{source.name} was not ended by its writer"


def _reason(stop: Stop) -> str:
    return stop.why.value if stop.why else ""


def _is_over(following: Following, tree: Tree, child: Child | None) -> bool:
    """Tell whether those who are followed have ended."""
    if child and not child.has_ended():
        return False
    return bool(child and not following.waits) or tree.is_over()


def _say_who_is_absent(filters: Filters) -> None:
    """Say which process ids of ``-p`` nobody has, lest a mistyped one be taken for a quiet one."""
    missing = absent(filters.values["pid"]) if "pid" in filters.values else []
    if missing:
        numbers = ", ".join(map(str, missing[:MOST_ABSENT])) + (
            " and others" if len(missing) > MOST_ABSENT else ""
        )
        say(f"there is no process {numbers} now; one that gets such an id later is traced")


def _introduce(source: Source, what: str, output: Output) -> None:
    """Say what is shown, after warnings and, if asked for, how the backend was chosen."""
    for line in source.warning.splitlines():
        say(line)
    if output.verbose:
        for note in source.notes:
            say(note)
    tell(what)


def _pump(pump: Pump, rows_of: RowsOf, output: Output) -> None:
    """Pass rows on until it is time to stop, then sum up."""
    gc.set_threshold(SEARCHED_AFTER)
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
