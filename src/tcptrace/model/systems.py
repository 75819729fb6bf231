"""Where events come from, and what the user's words mean there: `System`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import NamedTuple, Protocol

from tcptrace.model.ranges import U32_MAX


class Cgroup(NamedTuple):
    """A cgroup v2 directory."""

    id: int | None
    """Its inode number; None where another system knows it."""
    path: str | None
    """From the root of the hierarchy; None where it is not known."""


class PinnedMap(NamedTuple):
    """A pinned BPF hash map, whose keys are the ids to keep."""

    path: str
    keys: Callable[[], Collection[int]]
    """Returns the keys that it has now."""


class System(Protocol):
    """Where the events come from; it says what the user's words mean there.

    Each raises ValueError, with a message for the user, where they mean nothing.
    """

    def user_id(self, name: str) -> int:
        """Return the id of the user of this name."""

    def began(self, pid: int) -> int | None:
        """Return when the process that has this id now began, in clock ticks since boot.

        None where that cannot be told; then the number stands for whoever has it.
        """

    def netns(self, text: str) -> int:
        """Return the inode number of a network namespace: a number, a name or a path."""

    def cgroup(self, text: str) -> Cgroup:
        """Return the cgroup of this path."""

    def pinned_map(self, path: str) -> PinnedMap:
        """Return the BPF map that is pinned there."""


class Recorded:
    """Where a recording was made: there is nobody to ask, so names must be in the records."""

    def user_id(self, name: str) -> int:
        """Refuse: records have numbers."""
        msg = f"who {name!r} was is not in a recording; give the user's number"
        raise ValueError(msg)

    def began(self, pid: int) -> int | None:
        """Return None: records have numbers."""

    def netns(self, text: str) -> int:
        """Return a number; refuse a name."""
        if not re.fullmatch("[0-9]{1,20}", text):
            msg = f"which namespace {text!r} was is not in a recording; give its inode number"
            raise ValueError(msg)
        return inode_of(text)

    def cgroup(self, text: str) -> Cgroup:
        """Return a cgroup by its path from the hierarchy's root, or with the usual mount point."""
        path = f"/{text.removeprefix('/sys/fs/cgroup').strip('/')}"
        return Cgroup(None, path)

    def pinned_map(self, path: str) -> PinnedMap:
        """Refuse: a map is the kernel's."""
        msg = f"{path} is a map of a running kernel; a recording cannot be tested against it"
        raise ValueError(msg)


def inode_of(text: str) -> int:
    """Return the inode number of a namespace that digits name. Raises ValueError."""
    if not 0 < int(text) <= U32_MAX:
        msg = f"{text!r} is not a namespace's inode number: 1 to {U32_MAX}"
        raise ValueError(msg)
    return int(text)
