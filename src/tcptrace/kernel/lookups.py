"""Who answers what is looked up while events come: this process, or a keeper with more rights."""

from __future__ import annotations

import pwd
from typing import TYPE_CHECKING

from tcptrace.kernel import cgroups, processes

if TYPE_CHECKING:
    from tcptrace.kernel.keeper import Keeper

_keeper: Keeper | None = None


def ask(asked: Keeper | None) -> None:
    """Ask a keeper from now on; None for this process itself."""
    global _keeper  # noqa: PLW0603 - it holds for all of this process
    _keeper = asked


def keeper() -> Keeper | None:
    """Return whom to ask; None where this process can tell."""
    return _keeper


def path_of(cgroup_id: int) -> str | None:
    """Return a cgroup's path from the root of the hierarchy, as `cgroups.path_of` does."""
    return _keeper.path_of(cgroup_id) if _keeper else cgroups.path_of(cgroup_id)


def is_running(pid: int) -> bool:
    """Tell whether a thread of a process goes on, as `processes.is_running` does."""
    return _keeper.is_running(pid) if _keeper else processes.is_running(pid)


def user_name(uid: int) -> str | None:
    """Return a user's name; None where there is none."""
    if _keeper:
        return _keeper.user(uid)
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None
