"""One run of a tracing command: attach, render what comes, sum up."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

from tcptrace.errors import LossError
from tcptrace.model.events import Event, NewTable
from tcptrace.shell.plan import Output
from tcptrace.shell.say import say, tell
from tcptrace.sinks import Renderer, make_renderer
from tcptrace.sinks.output import require_open
from tcptrace.sources.bpf.attach import Attaching
from tcptrace.sources.bpf.session import NOTHING_LOST, Session
from tcptrace.sources.plan import Plan

LOSS_REPORT_S = 1.0

Rows = Callable[[Session, Iterator[Iterator[Event]]], Iterable[Any]]
"""A command's own work: from the session and its batches of events to rows."""


class Stop:
    """Whether to stop: after SIGINT, SIGTERM or SIGHUP, or at a deadline."""

    def __init__(self) -> None:
        """Take over the signals, for the rest of the process's life; one that is ignored stays so.

        `nohup` has a hang-up ignored, a shell without job control Ctrl-C for what it puts behind.
        """
        self._signalled = False
        self._echoed = False
        self._deadline = float("inf")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._signal)

    def _signal(self, number: int, _frame: object) -> None:
        self._signalled = True
        self._echoed |= number == signal.SIGINT

    def end_line(self) -> None:
        """End the line in which a terminal has echoed ^C, if nothing has ended it."""
        if not self._echoed:
            return
        self._echoed = False
        if sys.stderr.isatty():
            tell("")
        elif sys.stdout.isatty():
            sys.stdout.write("\n")
            sys.stdout.flush()

    def after(self, seconds: float) -> None:
        """Stop in `seconds`."""
        self._deadline = time.monotonic() + seconds

    def __call__(self) -> bool:
        """Tell whether to stop now."""
        return self._signalled or time.monotonic() >= self._deadline


class LossReport:
    """Reports losses while tracing, at most once a second, and those of the end."""

    def __init__(self, session: Session) -> None:
        """Watch `session`."""
        self._session = session
        self._reported = NOTHING_LOST
        self._next = 0.0

    def check(self) -> None:
        """Report what was lost since the last report, unless that was just now."""
        if time.monotonic() >= self._next:
            self.report()

    def report(self) -> None:
        """Report events that were lost since the last report."""
        self._next = time.monotonic() + LOSS_REPORT_S
        lost = self._session.lost()
        if lost != self._reported:
            say(str(lost.since(self._reported)))
            self._reported = lost


def run(plan: Plan, rows: Rows, output: Output) -> None:
    """Trace as planned until it is time to stop.

    Raises:
        TcptraceError: tracing is not possible, or events were lost and that is to be an error.
        BrokenPipeError: the reader of standard output is gone.

    """
    started = time.monotonic()
    require_open(sys.stdout)
    stop = Stop()
    with closing(Attaching(plan)) as attaching:
        renderer = make_renderer(
            output.form,
            output.columns,
            sys.stdout,
            tables=output.tables,
            color=output.color,
            wide=output.wide,
        )
        attached = attaching.session(stop)
    if attached is None:
        stop.end_line()
        say("stopped before the probes were attached")
        return
    with closing(attached) as session:
        if session.warning:
            say(session.warning)
        if output.verbose:
            session.notes.append(f"attached {time.monotonic() - started:.3f} s after the start")
            for note in session.notes:
                say(note)
        if output.duration_s is not None:
            stop.after(output.duration_s)
        tell(f"Tracing {plan.probe.name} ({session.backend}). Hit Ctrl-C to end.")
        renderer.start(session.backend)
        _trace(session, LossReport(session), rows, renderer, output, stop)
        if output.fail_on_loss and session.lost() != NOTHING_LOST:
            raise LossError(str(session.lost()))


def _trace(
    session: Session,
    losses: LossReport,
    rows: Rows,
    renderer: Renderer,
    output: Output,
    stop: Stop,
) -> None:
    """Write rows until it is time to stop, then the summary."""
    started = time.monotonic()
    shown = rows_shown = 0

    def before_wait() -> None:
        stop.end_line()
        renderer.flush()
        losses.check()

    try:
        if not output.tables:
            renderer.header()
        for row in rows(session, session.batches(stop, before_wait)):
            if isinstance(row, NewTable):
                renderer.header(row.ts_ns)
                shown = 0  # a table holds all that the one before it did
                continue
            renderer.row(row)
            shown += getattr(row, "weight", 1)
            rows_shown += 1
            if rows_shown == output.count:
                break
        stop.end_line()
        renderer.flush()
    finally:
        seconds = time.monotonic() - started
        stop.end_line()
        losses.report()
        what = output.of if shown == 1 else f"{output.of}s"
        lost = session.lost()
        untracked = f", {lost.untracked} not tracked (table full)" if lost.untracked else ""
        say(f"{shown} {what} in {seconds:.1f} s, {lost.total} lost{untracked}")
