"""What the words of a command line mean on this host: users, namespaces, cgroups, pinned maps."""

from __future__ import annotations

import functools
import pwd
import re
from pathlib import Path

from tcptrace.kernel import bpf, cgroups, netns
from tcptrace.model.systems import Cgroup, PinnedMap, inode_of


class Host:
    """Answers for this host, as a `tcptrace.model.systems.System`."""

    def user_id(self, name: str) -> int:
        """Return the id of the user of this name."""
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            msg = f"there is no user {name!r} here; give a name from `getent passwd`, or a number"
            raise ValueError(msg) from None

    def netns(self, text: str) -> int:
        """Return the inode number of a network namespace: a number, a name or a path."""
        if re.fullmatch("[0-9]{1,20}", text):
            return inode_of(text)
        path = Path(text) if "/" in text else netns.NAMED / text
        if not netns.is_netns(path):
            msg = (
                f"{text!r} is not a network namespace: give an inode number, "
                f"a name under {netns.NAMED}, or a path such as /proc/PID/ns/net"
            )
            raise ValueError(msg)
        return path.stat().st_ino

    def cgroup(self, text: str) -> Cgroup:
        """Return the cgroup v2 directory of this path."""
        path = Path(text)
        if not (path / "cgroup.controllers").is_file():
            msg = f"{text!r} is not a cgroup v2 directory"
            raise ValueError(msg)
        number = path.stat().st_ino
        return Cgroup(number, cgroups.path_of(number))

    def pinned_map(self, path: str) -> PinnedMap:
        """Return the BPF map that is pinned there; an absolute path, for the loader's directory."""
        absolute = str(Path.cwd() / path)
        return PinnedMap(absolute, functools.partial(bpf.pinned_keys, absolute))
