"""From a live trace to frames: joins its events with names, and with what sockets tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from tcptrace.kernel.sampler import Sample
from tcptrace.model.batch import Batch
from tcptrace.model.filters import Filters
from tcptrace.model.meta import Meta
from tcptrace.probes.tracer.open_connections import with_open
from tcptrace.top.aggregator import Aggregator, Interval
from tcptrace.top.frame import Frame
from tcptrace.top.keys import Dimension
from tcptrace.top.live import Live, Sampling

if TYPE_CHECKING:
    from tcptrace.probes.dns.names import Names

PATIENCE_S = 2.0
"""How long sockets are waited for, at the beginning and at the end."""
_TICK_S = 0.005
_NAMED = frozenset(("connect", "open"))


class Batches(Protocol):
    """What happened: see `tcptrace.shell.trace.Trace`."""

    @property
    def batches(self) -> Iterator[Batch]:
        """Events, and up to when they are complete."""

    @property
    def filters(self) -> Filters:
        """Those that the events have passed."""

    @property
    def meta(self) -> Meta:
        """What holds for all events."""

    def give_up(self, count: int) -> None:
        """Say what was not followed to its end so far, for more was under way than is kept."""


def frames(
    trace: Batches,
    dimensions: Sequence[Dimension],
    directions: Collection[str],
    interval_s: float,
    say: Callable[[str], None],
    sampler: Sampling,
    *,
    names: bool,
    existing: bool,
) -> Iterator[Frame]:
    """Yield a frame for each interval, and one for what is left at the end.

    Args:
        trace: of the probe `TOP`, of `FAILED`, and of `ANSWERS` where there are to be names.
        dimensions: what to add up by.
        directions: see `Aggregator`.
        interval_s: how long an interval is.
        say: tells people what is missing.
        sampler: lists sockets; it is closed in the end.
        names: whether to name destinations.
        existing: whether to begin with the connections that are open.

    Raises:
        TcptraceError: the kernel does not tell what is open, or what lists sockets has died.

    """
    batches = trace.batches
    known = _names() if names else None
    if known:
        batches = _named(batches, known, trace.give_up)
    if existing:
        batches = with_open(batches, trace.filters, say)
    with closing(sampler):
        sampler.ask(trace.filters.values.get("netns"), listeners=True)
        batch = next(batches, None)
        if batch is None:
            return
        begin_ns = trace.meta.start_ns - batch.offset_ns
        aggregator = Aggregator(dimensions, begin_ns, directions=directions)
        aggregator.listening = _listening(awaited(sampler))
        live = Live(
            aggregator,
            sampler,
            int(interval_s * 1e9),
            begin_ns,
            lambda event: _name_of(event, known),
        )
        for batch in chain([batch], batches):  # noqa: B020 - the last is wanted afterwards
            interval = live.step(batch.events, batch.until_ns)
            if interval:
                yield _frame(interval, batch, live, aggregator)
        if not sampler.is_busy:
            sampler.ask(aggregator.namespaces())
        interval = live.finish(awaited(sampler), batch.until_ns)
        yield _frame(interval, batch, live, aggregator)


def _frame(interval: Interval, batch: Batch, live: Live, aggregator: Aggregator) -> Frame:
    wall_ns = batch.wall_ns(interval.end_ns)
    return Frame(interval, wall_ns, aggregator.connections, live.note())


def _names() -> Names:
    """Return a place for names."""
    from tcptrace.probes.dns.names import Names  # noqa: PLC0415 - for those who want names

    return Names()


def _named(
    batches: Iterator[Batch], names: Names, give_up: Callable[[int], None]
) -> Iterator[Batch]:
    """Yield batches without the answers in them; the events behind these are named."""
    for batch in batches:
        yield batch._replace(events=names.named(batch.events))
        give_up(names.given_up)


def _name_of(event: Any, names: Names | None) -> str | None:
    """Return what an event's remote end was asked for by, if that is its destination."""
    if event.type not in _NAMED:
        return None
    if names and event.type == "open":
        names.name(event)
    name: str | None = event.query
    return name


def awaited(sampler: Sampling) -> Sample | None:
    """Wait for an answer, but not for long."""
    deadline = time.monotonic() + PATIENCE_S
    while sampler.is_busy and time.monotonic() < deadline:
        answer = sampler.answer()
        if answer:
            return answer
        time.sleep(_TICK_S)
    return None


def _listening(sample: Sample | None) -> set[tuple[int | None, int | None]]:
    """Return the namespaces and ports that have a listener."""
    return {(netns, listener.lport) for netns, listener in (sample.sockets if sample else ())}
