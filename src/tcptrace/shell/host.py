"""What the words of a command line mean on this host: users, namespaces, cgroups, pinned maps."""

from __future__ import annotations

import functools
import os
import pwd
import re
from collections.abc import Mapping
from pathlib import Path

from tcptrace.kernel import bpf, cgroups, netns, processes
from tcptrace.kernel.shortage import check_shortage
from tcptrace.model.ranges import Ranges
from tcptrace.model.systems import Cgroup, PinnedMap, inode_of


class Host:
    """Answers for this host, as a `tcptrace.model.systems.System`.

    What it was asked about is held open, so that its number is not given to another while it
    matters.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._held: list[int] = []

    def close(self) -> None:
        """Let go of what is held."""
        while self._held:
            os.close(self._held.pop())

    def _hold(self, descriptor: int) -> int:
        """Keep a descriptor; return the inode number of what it is of."""
        self._held.append(descriptor)
        return os.fstat(descriptor).st_ino

    def user_id(self, name: str) -> int:
        """Return the id of the user of this name."""
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            msg = f"there is no user {name!r} here; give a name from `getent passwd`, or a number"
            raise ValueError(msg) from None

    def began(self, pid: int) -> int | None:
        """Return when the process that has this id began, in clock ticks since boot.

        None where nobody has it, and inside PID and time namespaces, where numbers and times of
        /proc are others than the kernel's own.
        """
        if processes.is_in_initial("pid") and processes.is_in_initial("time"):
            return processes.start_time(pid)
        return None

    def netns(self, text: str) -> int:
        """Return the inode number of a network namespace: a number, a name or a path."""
        if re.fullmatch("[0-9]{1,20}", text):
            return self._numbered(inode_of(text))
        path = Path(text) if "/" in text else netns.NAMED / text
        descriptor = netns.open_netns(path)
        if descriptor is None:
            msg = (
                f"{text!r} is not a network namespace: give an inode number, "
                f"a name under {netns.NAMED}, or a path such as /proc/PID/ns/net"
            )
            raise ValueError(msg)
        return self._hold(descriptor)

    def _numbered(self, inode: int) -> int:
        """Return a namespace's number, and hold it if it can be found."""
        path = self._namespaces.get(inode)
        descriptor = netns.open_netns(path) if path else None
        if descriptor is not None:
            self._hold(descriptor)
        return inode

    @functools.cached_property
    def _namespaces(self) -> Mapping[int, Path]:
        """The network namespaces that there are."""
        from tcptrace.kernel import sockets  # noqa: PLC0415 - seldom needed

        return sockets.namespaces()

    def cgroup(self, text: str) -> Cgroup:
        """Return the cgroup v2 directory of this path."""
        try:
            directory = os.open(text, cgroups.DIRECTORY)
            number = self._hold(directory)
            os.stat("cgroup.controllers", dir_fd=directory)
        except (OSError, ValueError) as error:  # a ValueError for a NUL in the path
            if isinstance(error, OSError):
                check_shortage(error, f"cannot open {text}")
            msg = f"{text!r} is not a cgroup v2 directory"
            raise ValueError(msg) from None
        return Cgroup(number, cgroups.path_of(number))

    def pinned_map(self, path: str) -> PinnedMap:
        """Return the BPF map that is pinned there; an absolute path, for the loader's directory."""
        absolute = str(Path.cwd() / path)
        return PinnedMap(absolute, functools.partial(bpf.pinned_keys, absolute))


def absent(wanted: Ranges) -> list[int]:
    """Return the single process ids to be traced that no process has.

    None are known inside PID and time namespaces, see `Host.began`.
    """
    if not (processes.is_in_initial("pid") and processes.is_in_initial("time")):
        return []
    kept = {low for low, high in wanted.keep if low == high}
    return sorted(kept & wanted.singles() - wanted.began.keys())
