"""Attempts that have not ended when tracing does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from tcptrace.model.batch import Batch
from tcptrace.model.events import Layout
from tcptrace.model.filters import BY_PLACE, Filters
from tcptrace.probes.connect.records import Connect
from tcptrace.probes.identities import identity_of

UNDER_WAY = "attempts"
"""The map of attempts that have not ended, by socket; `struct connect_attempt`."""
_ATTEMPT = Layout(Connect)
_BEHIND_EVENT = 8
_KEY = 8


def with_under_way(
    batches: Iterable[Batch],
    table: Callable[[str, int, int], Mapping[bytes, bytes]],
    filters: Filters,
) -> Iterator[Batch]:
    """Yield batches, then what is under way when there are no more: attempts without an outcome.

    `table` returns what a map holds; see `tcptrace.shell.trace.Trace.table`. Of `filters`, those by
    unit, container and pod may not have judged it yet.
    """
    keeps = filters.only(BY_PLACE).predicate()
    last = Batch(iter(()), 0)
    for last in batches:
        yield last
    left = table(UNDER_WAY, _KEY, _ATTEMPT.size + _BEHIND_EVENT).values()
    attempts = list(map(_ATTEMPT.decode, left))
    for attempt in attempts:
        attempt.wall_ns = last.wall_ns(attempt.ts_ns)
        attempt.identity = identity_of(attempt.cgroup_id)
    yield last._replace(events=filter(keeps, attempts))
