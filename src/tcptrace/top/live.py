"""Intervals of a live trace: events as they come, and sockets as they were at each end."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from tcptrace.kernel.sampler import Sample
from tcptrace.top.aggregator import Aggregator, Interval

SHARE = 0.2
"""Of the time: listing sockets may take no more; where it would, they are listed less often."""


class Sampling(Protocol):
    """What lists sockets: see `tcptrace.kernel.sampler.Sampler`."""

    is_busy: bool

    def ask(self, wanted: Collection[int] | None, *, listeners: bool = False) -> None:
        """Ask for the connections of some network namespaces, or for their listeners."""

    def answer(self) -> Sample | None:
        """Return the answer when it is there."""

    def close(self) -> None:
        """Ask no more."""


class Live:
    """Feeds an aggregator, and ends its intervals.

    An interval is over when its time is, the sockets have been listed, and all events until then
    have come; where listing takes long, it is not waited for.
    """

    def __init__(
        self,
        aggregator: Aggregator,
        sampler: Sampling | None,
        interval_ns: int,
        begin_ns: int,
        name_of: Callable[[Any], str | None] = lambda _: None,
    ) -> None:
        """Begin the first interval.

        Args:
            aggregator: what to feed.
            sampler: what lists sockets; None where nothing does.
            interval_ns: how long an interval is.
            begin_ns: the time.
            name_of: what an event's remote end was asked for by.

        """
        self._aggregator = aggregator
        self._sampler = sampler
        self._interval_ns = interval_ns
        self._due_ns = begin_ns + interval_ns
        self._name_of = name_of
        self._pending: Sample | None = None
        self._is_asked = False
        self._has_begun = False
        self._skip = self.every = 1
        """In how many intervals sockets are listed once."""
        self.refused = ""
        """Why the last list is not complete."""

    def step(self, events: Iterable[Any], until_ns: int) -> Interval | None:
        """Take the events until a time; return the interval that has ended, if one has."""
        take, name_of = self._aggregator.take, self._name_of
        for event in events:
            take(event, name_of(event))
        self._take_sample(until_ns)
        if self._sampler and not self._has_begun:  # what older connections have sent before
            self._sampler.ask(self._aggregator.namespaces())
        self._has_begun = True
        if until_ns < self._due_ns or self._waits(until_ns):
            return None
        return self.end(until_ns)

    def end(self, end_ns: int) -> Interval:
        """End the interval now."""
        while self._due_ns <= end_ns:
            self._due_ns += self._interval_ns
        self._is_asked = False
        return self._aggregator.end(end_ns)

    def finish(self, last: Sample | None, end_ns: int) -> Interval:
        """Take a last list of sockets, of after all events, and end the last interval."""
        if last:
            self._aggregator.sample(last)
        return self.end(end_ns)

    def note(self) -> str:
        """Return what is not as it should be."""
        if self.refused:
            return f"some sockets are not listed: {self.refused.splitlines()[0]}"
        if self.every > 1:
            return f"sockets are listed in one of {self.every} intervals, for they are many"
        return ""

    def _waits(self, until_ns: int) -> bool:
        """Tell whether the list of sockets is to be waited for; ask for it first."""
        if self._sampler is None:
            return False
        if not self._is_asked:
            self._is_asked = True
            self._skip -= 1
            if self._skip <= 0 and not self._is_listing():
                self._sampler.ask(self._aggregator.namespaces())
        return self._is_listing() and until_ns < self._due_ns + self._interval_ns * SHARE

    def _is_listing(self) -> bool:
        return self._pending is not None or (self._sampler is not None and self._sampler.is_busy)

    def _take_sample(self, until_ns: int) -> None:
        """Take the list of sockets when it is there, and all events until its end."""
        if self._sampler and self._sampler.is_busy:
            self._pending = self._sampler.answer() or self._pending
        sample = self._pending
        if sample and until_ns >= sample.end_ns:
            self._pending = None
            self.refused = sample.refused
            self._skip = self.every = _every(sample.end_ns - sample.begin_ns, self._interval_ns)
            self._aggregator.sample(sample)


def _every(took_ns: int, interval_ns: int) -> int:
    """Return in how many intervals to list sockets once, so that it takes no more than `SHARE`."""
    return max(1, -int(-took_ns // (interval_ns * SHARE)))
