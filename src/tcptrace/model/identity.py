"""Who took part in what an event tells of: `Identity`, of the cgroup, and `Program`."""

from __future__ import annotations

from typing import NamedTuple


class Identity(NamedTuple):
    """Who is in a cgroup; None where it is not known."""

    cgroup: str | None = None
    """Path from the root of cgroup v2; None where the cgroup was gone."""
    unit: str | None = None
    """The systemd unit, of the system or of a user."""
    container: str | None = None
    """Id of the innermost container in the cgroup's path; LXC and systemd-nspawn have names."""
    container_name: str | None = None
    runtime: str | None = None
    """docker, podman, containerd, cri-o, lxc or systemd-nspawn."""
    pod: str | None = None
    """Name of the Kubernetes pod, also of a container that one of the pod's has started."""
    pod_namespace: str | None = None
    pod_container: str | None = None
    """The container's name in its pod."""
    pod_uid: str | None = None
    outer_containers: str | None = None
    """The containers around that one, outermost first, by name or else by id: ``a/b``."""


UNKNOWN = Identity()


class Program(NamedTuple):
    """What a process runs; None where it is not known."""

    ppid: int | None = None
    """The parent's process id, as of the process's first event, in the initial PID namespace."""
    parent_comm: str | None = None
    exe: str | None = None
    """Path in the process's own mount namespace, with " (deleted)" where it was unlinked."""
    args: tuple[str, ...] | None = None
    args_cut: bool | None = None
    """True where there was more than `args` has; else absent."""


NO_PROGRAM = Program()
