"""The pump: from a source, through a command's function, to sinks, until it is time to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from tcptrace.model.batch import Batch
from tcptrace.model.events import NewTable, weight
from tcptrace.model.lines import Lines
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.shell.stop import Stop, Why
from tcptrace.sinks.sink import Sink
from tcptrace.sources.source import Source

MOST_ROWS = 1024
"""How many rows of a batch are written at once; more of them would fill the memory."""
MOST_EVENTS = 16
"""After how many events to ask whether to give up: one event can be 240 DNS messages."""
LOSS_REPORT_S = 1.0
WAIT_S = 0.03
"""How long to wait for a reader, in seconds, before asking again whether to stop."""
MOST_WAITS = 10
"""A reader that has taken nothing in so many waits, when it is time to stop, gets no more."""

RowsOf = Callable[[Iterator[Batch]], Iterable[Any]]
"""A command's own work: from batches of events to rows, each of them an event or another `Row`, or
a `NewTable` where a table begins."""


class Pump:
    """Passes events to a function and its rows to sinks; knows neither kernel nor terminal."""

    def __init__(
        self,
        source: Source,
        sinks: Sequence[Sink],
        stop: Stop,
        say: Callable[[str], None],
        *,
        count: int | None = None,
        before_output: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect `source` and `sinks`.

        Args:
            source: where events come from; the caller closes it.
            sinks: where each row goes; they are open, and `close` closes them.
            stop: tells when to stop; the pump adds its own reasons.
            say: tells people of losses.
            count: stop after so many rows.
            before_output: is called before anything is written or said.

        """
        self.shown = 0
        """How many events have been shown; with tables, how many in the last one."""
        self._passed = 0
        self._source = source
        self._sinks = list(sinks)
        """The sinks whose output is still read."""
        self._stop = stop
        self._say = say
        self._count = count
        self._before_output = before_output
        self._rows: list[Any] = []
        self._waiting = 0
        """How many rows there are; `Lines` stand for several."""
        self._unwritten = 0
        self._has_given_up = False
        self._reported = NOTHING_LOST
        self._next_report = 0.0
        self.error: OSError | None = None
        """Why rows could not be written; the pump has stopped then."""

    def run(self, rows_of: RowsOf, begin: Sequence[Any] = ()) -> None:
        """Pass rows on until it is time to stop, `begin` before all others.

        Rows that came before an error are passed on, too.
        """
        self._rows.extend(begin)
        try:
            for row in rows_of(self._batches()):
                self._take(row)
                if self._stop.why is Why.COUNT:
                    break
        finally:
            self._pass_on()

    def close(self) -> None:
        """Tell of what was lost, and close the sinks."""
        self._before_output()
        self._report()
        losses = self.losses()
        self._each(lambda sink: sink.close(losses))

    def losses(self) -> Losses:
        """Return what may be missing since the start."""
        own = max((getattr(sink, "unwritten", 0) for sink in self._sinks), default=0)
        unwritten = self._unwritten + own
        return self._source.losses()._replace(unwritten=unwritten)

    def summary(self, of: str, seconds: float) -> str:
        """Return the line that sums up the run; `of` says what a row is."""
        what = of if self.shown == 1 else f"{of}s"
        lost = self.losses()
        untracked = f", {lost.untracked} not tracked (table full)" if lost.untracked else ""
        return f"{self.shown} {what} in {seconds:.1f} s, {lost.total} lost{untracked}"

    def _take(self, row: Any) -> None:
        self._rows.append(row)
        self._waiting += len(row.texts) if row.__class__ is Lines else 1
        if row.__class__ is NewTable:
            self.shown = 0  # a table holds all that the one before it did
        else:
            self.shown += weight(row)
            self._passed += 1
            if self._passed == self._count:
                self._stop.ask(Why.COUNT)
        if self._waiting >= MOST_ROWS:
            self._write()

    def _batches(self) -> Iterator[Batch]:
        """Yield the source's batches; between them, pass on what they gave."""
        for batch in self._source.batches():
            yield batch._replace(events=self._in_time(batch.events))
            self._pass_on()
            self._report_in_time()
            if self._stop.is_overdue():
                self._source.abandon()
                return
            if self._stop.is_asked():
                self._source.finish()

    def _in_time(self, events: Iterator[Any]) -> Iterator[Any]:
        """Yield events as long as there is time for it."""
        while some := list(islice(events, MOST_EVENTS)):
            yield from some
            if self._stop.is_overdue():
                return

    def _write(self) -> None:
        self._before_output()
        rows, self._rows, self._waiting = self._rows, [], 0
        if self.error and not self._sinks:
            self._lose(sum(map(weight, rows)))
        self._each(lambda sink: sink.write(rows))
        self._each(self._hand_over)

    def _pass_on(self) -> None:
        """Hand all rows over."""
        if self._rows:
            self._write()
        else:
            self._each(self._hand_over)

    def _hand_over(self, sink: Sink) -> None:
        """Hand a sink's rows over; raise BrokenPipeError where there is nobody to take them.

        Who stands still is waited for until there is no more time: what comes meanwhile waits in
        the source, which counts what it has no room for.
        """
        waits = 0
        while not sink.flush(0 if self._has_given_up else WAIT_S):
            waits += 1
            if self._stop.is_overdue() and (waits >= MOST_WAITS or self._has_given_up):
                self._lose(sink.drop())
                self._has_given_up = True
            self._report_in_time()
        if sink.is_closed():
            raise BrokenPipeError

    def _lose(self, events: int) -> None:
        """Count as lost what nobody has taken."""
        self._unwritten += events
        self.shown = max(0, self.shown - events)

    def _each(self, act: Callable[[Sink], None]) -> None:
        """Do something with each sink; stop when rows cannot be written to one of them."""
        for sink in [*self._sinks]:
            try:
                act(sink)
            except BrokenPipeError:
                self._sinks.remove(sink)
                self._stop.ask(Why.CLOSED)
            except OSError as error:
                self._sinks.remove(sink)
                self._lose(sink.drop())
                self.error = error
                self._stop.ask(Why.FAILED)

    def _report_in_time(self) -> None:
        """Tell of losses, unless that was just now."""
        if time.monotonic() >= self._next_report:
            self._report()

    def _report(self) -> None:
        """Tell of events that were lost since the last report."""
        self._next_report = time.monotonic() + LOSS_REPORT_S
        losses = self.losses()
        if losses != self._reported:
            self._before_output()
            self._say(str(losses.since(self._reported)))
            self._reported = losses
            self._each(lambda sink: sink.note(losses))
