"""Who is in a cgroup: path, unit, container and pod, asked once while they are there."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from tcptrace.kernel import cgroups, lookups
from tcptrace.kernel.cgroup_paths import owner_of, paths_around, read_path
from tcptrace.model.identity import UNKNOWN, Identity

if TYPE_CHECKING:
    from tcptrace.kernel import runtimes

MOST_KNOWN = 4096
ASKED_AGAIN_S = (0.1, 0.3, 0.6, 2.0)
"""After so long each, a name that is not there is asked for again."""


@lru_cache(maxsize=64)
def _places(owner: int | None) -> runtimes.Places:
    from tcptrace.kernel import runtimes  # noqa: PLC0415 - for containers alone

    return runtimes.places(owner)


def identify(path: str, places: Callable[[int | None], runtimes.Places] = _places) -> Identity:
    """Return who is in the cgroup of this path from the hierarchy's root."""
    place = read_path(path)
    if place.container is None:
        return Identity(path, place.unit, pod_uid=place.pod_uid)
    runtime, name, *_ = names = _names(path, places)
    outer = {each: _names(each, places) for each in paths_around(path)}
    in_pods = (known[2:] for known in (names, *reversed(outer.values())))
    pod, pod_namespace, pod_container = next(filter(any, in_pods), (None, None, None))
    called = (known[1] or read_path(each).container or "" for each, known in outer.items())
    return Identity(
        path,
        place.unit,
        place.container,
        name,
        runtime,
        pod,
        pod_namespace,
        pod_container,
        place.pod_uid,
        "/".join(called) or None,
    )


def _names(path: str, places: Callable[[int | None], runtimes.Places]) -> Sequence[str | None]:
    """Return what is known of a container: the fields of `tcptrace.kernel.runtimes.Names`."""
    if keeper := lookups.keeper():
        return keeper.names(path)
    from tcptrace.kernel import runtimes  # noqa: PLC0415 - as above

    return runtimes.names_of(read_path(path), places(owner_of(path)))


class Identities:
    """Identifies cgroups by id, and remembers them: those that are gone as well.

    A runtime may not have written a container's name when its first event comes: a name that is
    not there is asked for again. The container that holds a pod's namespaces has none, and that of
    one in another container is not on this host.
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
            path = found.cgroup if found else lookups.path_of(cgroup_id)
            found = self.learn(cgroup_id, path)
        return found

    def learn(self, cgroup_id: int, path: str | None) -> Identity:
        """Return who is in the cgroup of this path, and remember it."""
        found = UNKNOWN if path is None else identify(path)
        _, tries = self._nameless.pop(cgroup_id, (0, 0))
        is_named = found.container_name or found.pod or found.outer_containers
        is_nameless = found.container and not is_named
        if is_nameless and tries < len(ASKED_AGAIN_S):
            due_ns = time.monotonic_ns() + int(ASKED_AGAIN_S[tries] * 1e9)
            self._nameless[cgroup_id] = due_ns, tries + 1
        self._known.pop(cgroup_id, None)
        if len(self._known) >= MOST_KNOWN:
            oldest = next(iter(self._known))
            del self._known[oldest]
            self._nameless.pop(oldest, None)
        self._known[cgroup_id] = found
        return found

    def learn_all(self) -> Iterator[tuple[int, Identity]]:
        """Look at all cgroups that there are now; yield each id, and who is there."""
        for cgroup_id, path in cgroups.everywhere():
            yield cgroup_id, self.learn(cgroup_id, path)

    def expects_name(self, cgroup_id: int) -> bool:
        """Tell whether a container's name may yet be found."""
        return cgroup_id in self._nameless

    def _is_due(self, cgroup_id: int) -> bool:
        return time.monotonic_ns() >= self._nameless.get(cgroup_id, (1 << 64, 0))[0]


IDENTITIES = Identities()
"""Who is in which cgroup, for all of this process: here alone, names are read."""
identity_of = IDENTITIES.of
"""Returns who is in a cgroup."""
