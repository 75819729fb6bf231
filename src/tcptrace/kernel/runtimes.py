"""The names of containers and pods, from what the runtimes keep on disk; no daemon is asked.

| runtime | file |
| --- | --- |
| Docker | ``containers/ID/config.v2.json`` in its data root |
| Podman | ``DRIVER-containers/containers.json``, ``volatile-containers.json`` in its storage |
| CRI-O | ``DRIVER-containers/ID/userdata/config.json`` in its storage |
| containerd | ``NAMESPACE/ID/config.json``, the bundle of a task |

The files of a user's containers are that user's: they are read as what a stranger wrote, and say
nothing about other users' containers. However many and large they are, so much of them is read for
a container that it takes a fraction of a second.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tcptrace.kernel.cgroup_paths import LXC, NSPAWN, Place

MOST_BYTES = 16 << 20
MOST_BYTES_OF_USERS = 1 << 20
"""Of a user's files. A container takes some 1,500; to read all takes 0.3 s and 35 MB at most."""
MOST_ENTRIES = 1000
"""So much of a directory is looked at; one that runtimes make has a dozen."""
MOST_NAME = 255
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
DRIVER = "-containers"
"""So ends the name of a storage's directory, behind that of a storage driver."""
LISTS = ("containers.json", "volatile-containers.json")
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
    most: int = MOST_BYTES
    """So many bytes are read for a container."""


def places(owner: int | None, root: Path = Path("/")) -> Places:
    """Return the places of the system's runtimes, or those of the user `owner`."""
    if owner is None:
        moved = _texts(_parsed(_read(root / DOCKER_SETTINGS, MOST_BYTES))).get("data-root", "")
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
    storages = [share / "containers/storage"]
    return Places([share / "docker"], storages, (), MOST_BYTES_OF_USERS)


def names_of(place: Place, where: Places) -> Names:
    """Return the names of the container in `place`, as files in `where` have them."""
    if place.container is None:
        return NAMELESS
    if place.runtime in {LXC, NSPAWN}:
        return Names(place.runtime, place.container)
    if not re.fullmatch("[0-9a-f]{64}", place.container):
        return Names(place.runtime)
    files = _Files(where)
    for runtimes, find in _WAYS:
        if place.runtime in runtimes and (found := find(files, place.container)):
            return _short(found)
    return Names(place.runtime)


def _short(found: Names) -> Names:
    """Return names without those that are longer than a runtime's can be: thousands are kept."""
    return Names(*(name if name and len(name) <= MOST_NAME else None for name in found))


class _Files:
    """Reads files in some places for one container."""

    def __init__(self, where: Places) -> None:
        """Nothing has been read."""
        self.where = where
        self._left = where.most

    def load(self, path: Path) -> Any:
        """Return what a JSON file holds; None where there is none, or it is not to be trusted."""
        data = _read(path, self._left)
        self._left -= len(data)
        return _parsed(data)


def _by_docker(files: _Files, container: str) -> Names | None:
    for root in files.where.docker:
        found = files.load(root / "containers" / container / "config.v2.json")
        if found is not None:
            name = _texts(found).get("Name", "").lstrip("/") or None
            labels = _texts(_member(_member(found, "Config"), "Labels"))
            return _in_pod(labels, "docker", name)
    return None


def _by_containerd(files: _Files, container: str) -> Names | None:
    """Return what a task's bundle tells; Docker's tell nothing that Docker's files do not."""
    for namespace in _inside(files.where.tasks):
        if namespace.name == DOCKER_NAMESPACE:
            continue
        bundle = files.load(namespace / container / "config.json")
        if bundle is None:
            continue
        notes = _texts(_member(bundle, "annotations"))
        inside = notes.get("io.kubernetes.cri.container-name")
        return Names(
            "containerd",
            inside or notes.get("nerdctl/name"),
            notes.get("io.kubernetes.cri.sandbox-name"),
            notes.get("io.kubernetes.cri.sandbox-namespace"),
            inside,
        )
    return None


def _by_storage(files: _Files, container: str) -> Names | None:
    """Return what the storage that Podman and CRI-O share tells."""
    drivers = [place for place in _inside(files.where.storages) if place.name.endswith(DRIVER)]
    lists = (files.load(place / name) for place in drivers for name in LISTS)
    name = next(filter(None, (_name_in(entries, container) for entries in lists)), None)
    for place in drivers:
        spec = files.load(place / container / "userdata/config.json")
        notes = _texts(_member(spec, "annotations"))
        if notes.get("io.container.manager") == "cri-o":
            return _in_pod(notes, "cri-o", name)
    return Names("podman", name) if name else None


def _name_in(entries: object, container: str) -> str | None:
    """Return the first name that a list of containers has for an id."""
    for entry in entries if isinstance(entries, list) else []:
        names = _member(entry, "names")
        if _member(entry, "id") == container and isinstance(names, list):
            return next((name for name in names if isinstance(name, str) and name), None)
    return None


_WAYS: tuple[tuple[frozenset[str | None], Callable[[_Files, str], Names | None]], ...] = (
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


def _read(path: Path, most: int) -> bytes:
    """Return what is in a file, which may be anybody's: no link, device or pipe is followed.

    Of one that has more than `most` bytes, so many are returned.
    """
    with contextlib.suppress(OSError):
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - opened with these flags
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file.read(most)
    return b""


def _parsed(data: bytes) -> Any:
    """Return what JSON says; None where it is none."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(data)
    return None


def _texts(found: object) -> dict[str, str]:
    """Return the members of a JSON object that are non-empty strings."""
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str) and value}


def _member(found: object, key: str) -> object:
    """Return a member of a JSON object, or None."""
    return found.get(key) if isinstance(found, dict) else None


def _inside(directories: Iterable[Path]) -> list[Path]:
    """Return the paths in `directories`, as far as they can be read, and not too many of them."""
    found: list[Path] = []
    for directory in directories:
        with contextlib.suppress(OSError), os.scandir(directory) as entries:
            found += sorted(directory / entry.name for entry in islice(entries, MOST_ENTRIES))
    return found
