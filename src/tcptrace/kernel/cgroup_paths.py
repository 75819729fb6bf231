"""What a cgroup's path tells of who is in it: the unit, the container, the pod.

The names are those that systemd, the container runtimes and kubelet give their cgroups, under
systemd's rules or under the runtimes' own (cgroupfs).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

_UNIT = re.compile(r".+[.](?:service|scope|slice|socket|mount|swap)", re.DOTALL)
_USER = re.compile("/user[.]slice/user-([0-9]{1,10})[.]slice/")
_ID = "[0-9a-f]{64}"
_UUID = "[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}"
# As in kubepods-burstable-podUID.slice, where "-" is "_"; a static pod's id has no dashes.
_POD = re.compile(f"(?:^|[-:])pod({_UUID}|[0-9a-f]{{32}})(?:[.]slice)?(?=:|$)")
# As in docker-ID.scope, libpod-payload-ID, ID alone, or SLICE:cri-containerd:ID, which runc makes
# where it takes a name for systemd as one for cgroupfs.
_CONTAINER = re.compile(f"(?:(?:.*:)?(.*?)[-:])?({_ID})(?:[.]scope)?")
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}
_LXC = re.compile(r"lxc[.]payload[.](.+)")
_NSPAWN = re.compile(r"machine-(.+)[.]scope|systemd-nspawn@(.+)[.]service")
_PODMAN_PODS = "libpod_parent"
_NO_CONTAINERS = ("qemu-", "lxc-", "libvirt-", "vbox-")
"""What the names of other machines in machine-NAME.scope begin with."""
NSPAWN, LXC = "systemd-nspawn", "lxc"


class Place(NamedTuple):
    """What a cgroup's path tells; None where it tells nothing."""

    unit: str | None = None
    """The innermost systemd unit, of the system or of a user; in a container the one that the
    container runs in. A container's own scope is none."""
    container: str | None = None
    """The innermost container's id; LXC and systemd-nspawn have names for ids."""
    runtime: str | None = None
    """docker, podman, containerd, cri-o, lxc or systemd-nspawn, where the path has it."""
    pod_uid: str | None = None


NOWHERE = Place()


def unescaped(name: str) -> str:
    r"""Return a name that systemd has escaped, as in ``my\x2dmachine`` (systemd.unit(5))."""
    return re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), name)


def _container(name: str, parent: str) -> tuple[str, str | None] | None:
    """Return the id and runtime of the container whose cgroup is `name` below `parent`."""
    if match := _CONTAINER.fullmatch(name):
        kind = match[1] or ("docker" if parent == "docker" else "")
        is_other = kind.endswith("conmon") or (parent == _PODMAN_PODS and not kind)
        return None if is_other else (match[2], _RUNTIMES.get(kind))
    if match := _LXC.fullmatch(name):
        return match[1], LXC
    if parent in {"lxc", "lxc.payload"}:
        return name, LXC
    if match := _NSPAWN.fullmatch(name):
        machine = unescaped(match[1] or match[2])
        return None if machine.startswith(_NO_CONTAINERS) else (machine, NSPAWN)
    return None


@lru_cache(maxsize=4096)
def read_path(path: str) -> Place:
    """Return what a path from the root of the hierarchy tells."""
    service = slice_ = container = runtime = pod_uid = None
    parent = ""
    for escaped in filter(None, path.split("/")):
        name = (
            escaped.removeprefix("_") or escaped
        )  # put before what could be taken for a file of cgroups
        if pod := _POD.search(name):
            pod_uid = pod[1].replace("_", "-")
        is_unit = container is None and bool(_UNIT.fullmatch(name))
        if found := _container(name, parent):
            container, runtime = found
            is_unit &= name.endswith(".service")
        elif runtime == NSPAWN and name == "supervisor":  # systemd-nspawn itself
            container = runtime = None
        if is_unit and name.endswith(".slice"):
            slice_ = name
        elif is_unit:
            service = name
        parent = name
    return Place(service or (None if container else slice_), container, runtime, pod_uid)


def paths_around(path: str) -> list[str]:
    """Return the paths of the containers around the innermost one, outermost first."""
    names = path.split("/")
    prefixes = ["/".join(names[:depth]) for depth in range(2, len(names))]
    innermost, found = read_path(path).container, dict[str, str]()
    for prefix in prefixes if innermost else ():
        if (container := read_path(prefix).container) and container != innermost:
            found.setdefault(container, prefix)
    return list(found.values())


def owner_of(path: str) -> int | None:
    """Return the user whose manager made a cgroup: below its slice, its names are that user's."""
    match = _USER.match(path)
    return int(match[1]) if match else None
