"""Who is in a cgroup: `Identity`."""

from __future__ import annotations

from typing import NamedTuple


class Identity(NamedTuple):
    """Who is in a cgroup; None where it is not known."""

    cgroup: str | None = None
    """Path from the root of cgroup v2; None where the cgroup was gone."""
    unit: str | None = None
    """The systemd unit, of the system or of a user."""
    container: str | None = None
    """Id of the container, where the cgroup's path has one; LXC and systemd-nspawn have names."""
    container_name: str | None = None
    runtime: str | None = None
    """docker, podman, containerd, cri-o, lxc or systemd-nspawn."""
    pod: str | None = None
    """Name of the Kubernetes pod."""
    pod_namespace: str | None = None
    pod_container: str | None = None
    """The container's name in its pod."""
    pod_uid: str | None = None


UNKNOWN = Identity()
