"""What must be asked of the living system when an event comes in, while it still knows."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from tcptrace.kernel import clock
from tcptrace.model.events import Event
from tcptrace.probes.identities import IDENTITIES, identity_of
from tcptrace.probes.places import Made
from tcptrace.probes.programs import Programs, Who

RENEWED_NS = 1_000_000_000


class Arrivals:
    """Puts into events what whoever reads them later has nobody to ask for."""

    def __init__(self) -> None:
        """Begin; nothing has come in."""
        self._offset_ns = 0
        self._until_ns = 0
        self._programs = Programs()

    def offset_ns(self) -> int:
        """Return what the wall clock is ahead of the probes' clock, as it was within a second."""
        now_ns = clock.now_ns()
        if now_ns >= self._until_ns:
            self._offset_ns = time.time_ns() - now_ns
            self._until_ns = now_ns + RENEWED_NS
        return self._offset_ns

    def fill(self, events: Iterable[Event], offset_ns: int) -> Iterator[Event]:
        """Yield events with their time by the wall clock, and who it was."""
        for event in events:
            if event.__class__ is Made:  # costs less than isinstance
                if event.cgroup_id and event.path:
                    IDENTITIES.learn(event.cgroup_id, event.path)
                continue
            if event.who:
                if isinstance(event, Who):
                    self._programs.learn(event)
                    continue
                event.program = self._programs.find(event)
            event.wall_ns = event.ts_ns + offset_ns
            if event.cgroup_id is not None:
                event.identity = identity_of(event.cgroup_id)
            yield event
