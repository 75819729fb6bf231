"""When a source writes lines itself: where each event is a row that nobody looks at."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tcptrace.model.batch import Batch
from tcptrace.model.filters import Filters
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.dns.probe import DNS
from tcptrace.probes.programs import WHO
from tcptrace.shell.plan import Output
from tcptrace.shell.run import _shortcut
from tcptrace.shell.trace import Trace
from tcptrace.sinks.machine import JsonSink
from tcptrace.sources.plan import Plan

OUTPUT = Output("json", ())
PLAN = Plan(ACCEPT, Filters({}))


class Asked:
    """A source that remembers for whom it is to write."""

    def __init__(self) -> None:
        """Have been asked by nobody."""
        self.writers: list[Any] = []
        self.write_for = self.writers.append


def trace() -> Trace:
    """Return a trace of two batches."""
    batches = (Batch(iter(events), 0) for events in ((1, 2), (3,)))
    return Trace(batches, Filters({}), Asked())  # type: ignore[arg-type]


def test_events_are_known_as_they_are() -> None:
    """A command's function returns them, and they come."""
    whole = trace()
    events = whole.events
    assert whole.are_its_events(events)
    assert (1, [2, 3]) == (next(events), [*events])


def test_what_is_made_of_events_is_not_taken_for_them() -> None:
    """Neither what a function has looked at, nor the events of batches that it has changed."""
    whole = trace()

    def others() -> Iterator[Batch]:
        yield from whole.batches

    changed = dataclasses.replace(whole, batches=others())
    assert not whole.are_its_events(filter(None, whole.events))
    assert not whole.are_its_events(changed.events)


def test_one_stream_gets_lines() -> None:
    """A run with one sink for text or JSON takes the shortcut."""
    source, sink = Asked(), JsonSink(io.StringIO())
    _shortcut(source, PLAN, [sink], OUTPUT)()  # type: ignore[arg-type]
    assert [sink] == source.writers


@pytest.mark.parametrize(
    ("plan", "sinks", "output"),
    [
        (PLAN, [JsonSink(io.StringIO())], dataclasses.replace(OUTPUT, count=3)),
        (PLAN, [JsonSink(io.StringIO()), object()], OUTPUT),
        (PLAN, [object()], OUTPUT),
        (dataclasses.replace(PLAN, companions=(WHO,)), [JsonSink(io.StringIO())], OUTPUT),
        (Plan(DNS, Filters({})), [JsonSink(io.StringIO())], OUTPUT),
    ],
)
def test_rows_that_somebody_looks_at_are_made(
    plan: Plan, sinks: Sequence[Any], output: Output
) -> None:
    """Those that are counted, that have another reader, or are not what the kernel sends."""
    source = Asked()
    _shortcut(source, plan, sinks, output)()  # type: ignore[arg-type]
    assert not source.writers
