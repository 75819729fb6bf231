"""From a recording to frames: what its events come to, interval by interval."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from tcptrace.model.batch import Batch
from tcptrace.model.meta import Meta
from tcptrace.model.pace import Pace
from tcptrace.probes.connect.probe import FAILED as FAILED_ATTEMPTS
from tcptrace.probes.dns.probe import ANSWERS
from tcptrace.top.aggregator import FAILED, SAMPLES, Aggregator, Interval
from tcptrace.top.feed import Batches
from tcptrace.top.frame import Frame
from tcptrace.top.keys import Dimension

KEPT_FOR_GRAPHS = 120
"""So many intervals before the place that was asked for are shown; no graph has room for more."""


def lacks(meta: Meta) -> str:
    """Return what a recording of `tcptrace tracer` cannot tell."""
    return ", ".join(_lacks(meta))


def _lacks(meta: Meta) -> Iterator[str]:
    """Yield it part by part; with the option of `tracer` that would have kept it."""
    yield "bytes only as connections end, no round-trip times"
    if not has_failures(meta):
        yield "no failures (--failed)"
    if ANSWERS.name not in meta.companions:
        yield "no names (-d)"
    if not int(meta.switches.get("TRACER_EXISTING", "0")):
        yield "nothing that was open before (--existing)"


def has_failures(meta: Meta) -> bool:
    """Tell whether a recording has the attempts that failed."""
    return FAILED_ATTEMPTS.name in meta.companions


class _Round:
    """What a recording came to since its beginning."""

    def __init__(self, aggregator: Aggregator, begin_ns: int, interval_ns: int) -> None:
        self.aggregator = aggregator
        self._interval_ns = interval_ns
        self._begin_ns = begin_ns
        self._due_ns = begin_ns + interval_ns
        self._boot_id = ""
        self._listed_ns: int | None = None
        """When the connections that were open were last listed, as a trace does when it begins."""

    def take(self, batch: Batch, *, names: bool) -> Iterator[Interval]:
        """Take a batch; yield the intervals that have ended, each of the same length."""
        for event in batch.events:
            yield from self._ended(event.ts_ns - 1)
            if self._is_of_new_run(event, batch.boot_id):
                self.aggregator.forget(event.ts_ns)
            self.aggregator.take(event, _name_of(event) if names else None)
        yield from self._ended(batch.until_ns)

    def _is_of_new_run(self, event: Any, boot_id: str) -> bool:
        """Tell whether an event is the first of another boot, or of another trace's list."""
        is_new = boot_id != self._boot_id
        self._boot_id = boot_id
        if event.type == "open" and event.ts_ns != self._listed_ns:
            self._listed_ns = event.ts_ns
            is_new = True
        return is_new

    def _ended(self, until_ns: int) -> Iterator[Interval]:
        while self._due_ns <= until_ns:
            self._begin_ns = self._due_ns
            self._due_ns += self._interval_ns
            yield self.aggregator.end(self._begin_ns)

    def rest(self, until_ns: int) -> Iterator[Interval]:
        """Yield the last interval, which is shorter, if there is one, once."""
        if until_ns > self._begin_ns:
            self._begin_ns = until_ns
            yield self.aggregator.end(until_ns)


def _name_of(event: Any) -> str | None:
    name: str | None = getattr(event, "query", None)
    return name


def played(
    trace: Batches,
    dimensions: Sequence[Dimension],
    directions: Collection[str],
    interval_s: float,
    pace: Pace,
    *,
    names: bool,
) -> Iterator[Frame]:
    """Yield a frame for each interval of a recording, and one for what is left at its end.

    Args:
        trace: of a recording of `tcptrace tracer`, with the pace of `pace`.
        dimensions: what to add up by.
        directions: see `Aggregator`.
        interval_s: how long an interval is, in the recording's time.
        pace: where the recording is.
        names: whether to name destinations.

    """
    interval_ns = int(interval_s * 1e9)
    lacking = {SAMPLES} if has_failures(trace.meta) else {SAMPLES, FAILED}
    note = lacks(trace.meta)
    current: _Round | None = None
    rounds, batch = pace.rounds, None
    for batch in trace.batches:
        if pace.begin_ns is None:
            continue
        if current is None or rounds != pace.rounds:
            aggregator = Aggregator(
                dimensions, pace.begin_ns, directions=directions, lacking=lacking
            )
            current, rounds = _Round(aggregator, pace.begin_ns, interval_ns), pace.rounds
        for interval in current.take(batch, names=names):
            if not pace.is_long_past(interval.end_ns, KEPT_FOR_GRAPHS * interval_ns):
                yield _frame(interval, batch, current.aggregator, note)
        if pace.has_ended():  # a screen goes on to show it
            for interval in current.rest(batch.until_ns):
                yield _frame(interval, batch, current.aggregator, note)
    if current and batch:
        for interval in current.rest(batch.until_ns):
            yield _frame(interval, batch, current.aggregator, note)


def _frame(interval: Interval, batch: Batch, aggregator: Aggregator, note: str) -> Frame:
    return Frame(interval, batch.wall_ns(interval.end_ns), aggregator.connections, note)
