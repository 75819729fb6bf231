"""The names of containers and pods, from what the runtimes keep on disk; no daemon is asked.

| runtime | file |
| --- | --- |
| Docker | ``containers/ID/config.v2.json`` in its data root |
| Podman | ``DRIVER-containers/containers.json``, ``volatile-containers.json`` in its storage |
| CRI-O | ``DRIVER-containers/ID/userdata/config.json`` in its storage |
| containerd | ``NAMESPACE/ID/config.json``, the bundle of a task |

The files of a user's containers are that user's: they are read as what a stranger wrote, and say
nothing about other users' containers.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tcptrace.kernel.cgroup_paths import LXC, NSPAWN, Place

MOST_BYTES = 16 << 20
DOCKER_ROOTS = ("var/lib/docker", "var/snap/docker/common/var-lib-docker")
DOCKER_SETTINGS = "etc/docker/daemon.json"
STORAGES = ("var/lib/containers/storage", "run/containers/storage")
TASKS = tuple(
    f"{place}/io.containerd.runtime.v2.task"
    for place in (
        "run/containerd",
        "run/k3s/containerd",
        "run/k0s/containerd",
        "var/snap/microk8s/common/run/containerd",
    )
)
DOCKER_NAMESPACE = "moby"
PAUSE = "POD"
"""What CRI-O and Docker call the container that holds a pod's namespaces."""


class Names(NamedTuple):
    """What a runtime knows of a container; None where it does not."""

    runtime: str | None = None
    container_name: str | None = None
    pod: str | None = None
    pod_namespace: str | None = None
    pod_container: str | None = None
    """The container's name in its pod; of the one that holds the pod's namespaces None."""


NAMELESS = Names()


class Places(NamedTuple):
    """Where the runtimes keep their files."""

    docker: Sequence[Path]
    storages: Sequence[Path]
    tasks: Sequence[Path]


def places(owner: int | None, root: Path = Path("/")) -> Places:
    """Return the places of the system's runtimes, or those of the user `owner`."""
    if owner is None:
        moved = _texts(_load(root / DOCKER_SETTINGS)).get("data-root", "")
        docker = [root / moved.strip("/")] if moved else []
        docker += [root / place for place in DOCKER_ROOTS]
        return Places(
            docker, [root / place for place in STORAGES], [root / place for place in TASKS]
        )
    try:
        home = root / pwd.getpwuid(owner).pw_dir.strip("/")
    except KeyError:
        return Places((), (), ())
    share = home / ".local/share"
    return Places([share / "docker"], [share / "containers/storage"], ())


def names_of(place: Place, where: Places) -> Names:
    """Return the names of the container in `place`, as files in `where` have them."""
    if place.container is None:
        return NAMELESS
    if place.runtime in {LXC, NSPAWN}:
        return Names(place.runtime, place.container)
    if not re.fullmatch("[0-9a-f]{64}", place.container):
        return Names(place.runtime)
    for runtimes, find in _WAYS:
        if place.runtime in runtimes and (found := find(where, place.container)):
            return found
    return Names(place.runtime)


def _by_docker(where: Places, container: str) -> Names | None:
    for root in where.docker:
        found = _load(root / "containers" / container / "config.v2.json")
        if found is not None:
            name = _texts(found).get("Name", "").lstrip("/") or None
            labels = _texts(_member(_member(found, "Config"), "Labels"))
            return _in_pod(labels, "docker", name)
    return None


def _by_containerd(where: Places, container: str) -> Names | None:
    """Return what a task's bundle tells; Docker's tell nothing that Docker's files do not."""
    for bundle in _listed(where.tasks, f"*/{container}/config.json"):
        if bundle.parent.parent.name == DOCKER_NAMESPACE:
            continue
        notes = _texts(_member(_load(bundle), "annotations"))
        inside = notes.get("io.kubernetes.cri.container-name")
        return Names(
            "containerd",
            inside or notes.get("nerdctl/name"),
            notes.get("io.kubernetes.cri.sandbox-name"),
            notes.get("io.kubernetes.cri.sandbox-namespace"),
            inside,
        )
    return None


def _by_storage(where: Places, container: str) -> Names | None:
    """Return what the storage that Podman and CRI-O share tells."""
    name = next(filter(None, (_name_in(place, container) for place in _lists(where))), None)
    for spec in _listed(where.storages, f"*-containers/{container}/userdata/config.json"):
        notes = _texts(_member(_load(spec), "annotations"))
        if notes.get("io.container.manager") == "cri-o":
            return _in_pod(notes, "cri-o", name)
    return Names("podman", name) if name else None


def _lists(where: Places) -> Iterable[Path]:
    return _listed(where.storages, "*-containers/*containers.json")


def _name_in(file: Path, container: str) -> str | None:
    """Return the first name that a list of containers has for an id."""
    entries = _load(file)
    for entry in entries if isinstance(entries, list) else []:
        names = _member(entry, "names")
        if _member(entry, "id") == container and isinstance(names, list):
            return next((name for name in names if isinstance(name, str) and name), None)
    return None


_WAYS: tuple[tuple[frozenset[str | None], Callable[[Places, str], Names | None]], ...] = (
    (frozenset({None, "containerd"}), _by_containerd),
    (frozenset({None, "podman", "cri-o"}), _by_storage),
    (frozenset({None, "docker"}), _by_docker),
)
"""Who may know the names of a runtime's containers, or of any where the path has no runtime."""


def _in_pod(labels: Mapping[str, str], runtime: str, name: str | None) -> Names:
    """Return the names of a container by kubelet's labels, where it has any."""
    inside = labels.get("io.kubernetes.container.name")
    inside = None if inside == PAUSE else inside
    pod, namespace = labels.get("io.kubernetes.pod.name"), labels.get("io.kubernetes.pod.namespace")
    return Names(runtime, inside or name, pod, namespace, inside)


def _load(path: Path) -> Any:
    """Return what a JSON file holds; None where there is none, or it is not to be trusted.

    It may be anybody's: no link, device or pipe is followed, and its size is bounded.
    """
    with contextlib.suppress(OSError, ValueError, RecursionError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - opened with these flags
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return json.loads(file.read(MOST_BYTES))
    return None


def _texts(found: object) -> dict[str, str]:
    """Return the members of a JSON object that are non-empty strings."""
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str) and value}


def _member(found: object, key: str) -> object:
    """Return a member of a JSON object, or None."""
    return found.get(key) if isinstance(found, dict) else None


def _listed(directories: Iterable[Path], pattern: str) -> list[Path]:
    """Return the paths in `directories` that a pattern matches, as far as they can be read."""
    found: list[Path] = []
    for directory in directories:
        with contextlib.suppress(OSError):
            found += sorted(directory.glob(pattern))
    return found
