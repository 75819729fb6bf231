"""Filters by unit, container and pod: verdicts on cgroups, given once each, by who is in them.

The kernel has the verdicts and keeps what they say. Events of a cgroup that has none yet come here
and are judged, and the kernel is told. A container's name can be written after its first events:
these wait for it, and all that comes later waits behind them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import chain

from tcptrace.model.events import Event
from tcptrace.model.filters import BY_PLACE, Filters
from tcptrace.model.identity import Identity
from tcptrace.probes.identities import IDENTITIES, Identities
from tcptrace.probes.places import DROPPED, ENTRY, KEPT, Made
from tcptrace.probes.programs import Who

MOST_KNOWN = 65_536
MOST_HELD = 20_000
"""So many events wait for a name; when more come, none does any longer."""
NAMED = frozenset({"container", "pod"})
"""The filters that are about what runtimes write."""


class Places:
    """Judges events by the cgroups that they are from."""

    def __init__(
        self,
        filters: Filters,
        judged: Collection[type[Event]],
        identities: Identities = IDENTITIES,
    ) -> None:
        """Have no verdicts yet.

        Args:
            filters: those by place count.
            judged: the classes of events that the filters are for.
            identities: tells who is in a cgroup.

        """
        self._filters = filters.only(BY_PLACE)
        self._judged = frozenset(judged)
        self._identities = identities
        self._is_about_names = not NAMED.isdisjoint(self._filters.values)
        self._tests = [self._filters.test(name) for name in self._filters.values]
        self._verdicts: dict[int, bool] = {}
        self._untold: dict[int, bool] = {}
        self._nameless: set[int] = set()
        """Cgroups of new containers whose names may yet come, on which the verdict depends."""
        self._held: list[Event] = []
        self._until_ns = 0

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._held)

    def look_round(self) -> list[str]:
        """Judge all cgroups that there are; return what is asked for and not there, in words."""
        missing = {
            (name, pattern): Filters({name: (pattern,)}).test(name)
            for name, patterns in self._filters.values.items()
            for pattern in patterns
        }
        for cgroup_id, identity in self._identities.learn_all():
            self._judge(cgroup_id, identity)
            missing = {asked: test for asked, test in missing.items() if not test(identity)}
        return [
            f"there is no {name} {pattern} yet; it is traced from when it begins"
            for name, pattern in missing
        ]

    def verdicts(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield what the kernel has not been told yet, as entries of its map."""
        untold, self._untold = self._untold, {}
        for cgroup_id, is_kept in untold.items():
            yield ENTRY.pack(cgroup_id), bytes([KEPT if is_kept else DROPPED])

    def sift(
        self, events: Iterable[Event], until_ns: int, *, is_last: bool
    ) -> tuple[list[Event], int]:
        """Return the events that are kept, and the time up to which no more will come.

        Args:
            events: that have come, in order.
            until_ns: the time up to which no more will.
            is_last: whether no event may wait any longer.

        """
        waiting, self._held = self._held, []
        self._look_again()
        if is_last or len(waiting) > MOST_HELD:
            self._nameless.clear()
        passed = [event for event in chain(waiting, events) if self._passes(event)]
        if self._held:
            until_ns = max(self._until_ns, self._held[0].ts_ns)
        self._until_ns = until_ns
        return passed, until_ns

    def _look_again(self) -> None:
        """Look for the names that were not there."""
        for cgroup_id in list(self._nameless):
            if self._judge(cgroup_id, self._identities.of(cgroup_id)) is not None:
                self._nameless.remove(cgroup_id)

    def _passes(self, event: Event) -> bool:
        """Tell whether an event is kept and need not wait."""
        if isinstance(event, Made):
            self._learn(event)
            return False
        if isinstance(event, Who):
            return True
        origins = event.origins if type(event) in self._judged else ()
        if self._held or not self._nameless.isdisjoint(origins):
            self._held.append(event)
            return False
        return not origins or any([*map(self._keeps, origins)]) or event.fail()

    def _learn(self, made: Made) -> None:
        """Take note of a new cgroup, and look for its names at once."""
        cgroup_id, known = made.cgroup_id or 0, self._identities
        identity = known.learn(cgroup_id, made.path) if made.path else known.of(cgroup_id)
        if self._judge(cgroup_id, identity) is None:
            self._nameless.add(cgroup_id)

    def _keeps(self, cgroup_id: int) -> bool:
        """Return the verdict on a cgroup, or what it would be now."""
        known = self._verdicts.get(cgroup_id)
        if known is None:
            return bool(self._judge(cgroup_id, self._identities.of(cgroup_id)))
        if not known:  # the kernel did not know, or no longer does
            self._untold[cgroup_id] = known
        return known

    def _judge(self, cgroup_id: int, identity: Identity) -> bool | None:
        """Give a verdict on a cgroup, and return it; None where a name may yet change it."""
        is_kept = all(test(identity) for test in self._tests)
        if not is_kept and self._is_about_names and self._identities.expects_name(cgroup_id):
            return None
        if len(self._verdicts) >= MOST_KNOWN:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[cgroup_id] = self._untold[cgroup_id] = is_kept
        return is_kept
