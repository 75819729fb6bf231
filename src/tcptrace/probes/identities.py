"""Who is in a cgroup: path, unit, container and pod, asked once while they are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from tcptrace.kernel import cgroups
from tcptrace.kernel.cgroup_paths import owner_of, read_path
from tcptrace.model.identity import UNKNOWN, Identity

if TYPE_CHECKING:
    from tcptrace.kernel import runtimes

MOST_KNOWN = 4096
ASKED_AGAIN_NS = 1_000_000_000
TRIES = 3


@lru_cache(maxsize=64)
def _places(owner: int | None) -> runtimes.Places:
    from tcptrace.kernel import runtimes  # noqa: PLC0415 - for containers alone

    return runtimes.places(owner)


def identify(path: str, places: Callable[[int | None], runtimes.Places] = _places) -> Identity:
    """Return who is in the cgroup of this path from the hierarchy's root."""
    place = read_path(path)
    if place.container is None:
        return Identity(path, place.unit, pod_uid=place.pod_uid)
    from tcptrace.kernel import runtimes  # noqa: PLC0415 - as above

    names = runtimes.names_of(place, places(owner_of(path)))
    return Identity(
        path,
        place.unit,
        place.container,
        names.container_name,
        names.runtime,
        names.pod,
        names.pod_namespace,
        names.pod_container,
        place.pod_uid,
    )


class Identities:
    """Identifies cgroups by id, and remembers them: those that are gone as well.

    A runtime may not have written a container's name when its first event comes: a name that is
    not there is asked for again.
    """

    def __init__(self) -> None:
        """Begin; nothing is known."""
        self._known: dict[int, Identity] = {}
        self._nameless: dict[int, tuple[int, int]] = {}
        """By cgroup id: when to ask again, and how often that was done."""

    def of(self, cgroup_id: int | None) -> Identity:
        """Return who is in a cgroup."""
        if cgroup_id is None:
            return UNKNOWN
        found = self._known.get(cgroup_id)
        if found is None or (self._nameless and self._is_due(cgroup_id)):
            found = self._ask(cgroup_id)
        return found

    def _is_due(self, cgroup_id: int) -> bool:
        return time.monotonic_ns() >= self._nameless.get(cgroup_id, (1 << 64, 0))[0]

    def _ask(self, cgroup_id: int) -> Identity:
        path = cgroups.path_of(cgroup_id)
        found = UNKNOWN if path is None else identify(path)
        _, tries = self._nameless.pop(cgroup_id, (0, 0))
        if found.container and not found.container_name and tries < TRIES:
            self._nameless[cgroup_id] = time.monotonic_ns() + ASKED_AGAIN_NS, tries + 1
        if len(self._known) >= MOST_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[cgroup_id] = found
        return found


identity_of = Identities().of
"""Returns who is in a cgroup, for all of this process."""
