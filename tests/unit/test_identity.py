"""Who is in a cgroup: units, containers and pods by path, and names as the runtimes keep them."""

from __future__ import annotations

import json
import os
import pwd
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tcptrace.kernel import cgroups, runtimes
from tcptrace.kernel.cgroup_paths import NOWHERE, Place, owner_of, read_path
from tcptrace.model.identity import UNKNOWN, Identity
from tcptrace.probes import identities as module
from tcptrace.probes.identities import Identities, identify

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
THIRD = "00112233445566778899aabbccddeeff" * 2
UID = "5b3f5a4e-2c1d-4f6a-9b8e-0a1b2c3d4e5f"
IN_SLICE = UID.replace("-", "_")
STATIC = "d1e2f3a4b5c6d7e8f90a1b2c3d4e5f60"
PODS = "/kubepods.slice/kubepods-burstable.slice"
POD = f"{PODS}/kubepods-burstable-pod{IN_SLICE}.slice"
USER = "/user.slice/user-1000.slice/user@1000.service"

UNITS = {
    "/": None,
    "/init.scope": "init.scope",
    "/system.slice/nginx.service": "nginx.service",
    "/system.slice/system-getty.slice/getty@tty1.service": "getty@tty1.service",
    "/system.slice/delegating.service/workers/7": "delegating.service",
    "/system.slice/_cpu.service": "cpu.service",
    r"/system.slice/dev-disk\x2dby.swap": r"dev-disk\x2dby.swap",
    "/user.slice/user-1000.slice/session-3.scope": "session-3.scope",
    f"{USER}/init.scope": "init.scope",
    f"{USER}/app.slice/app-org.gnome.Maps-4711.scope": "app-org.gnome.Maps-4711.scope",
    f"{USER}/app.slice/syncthing@home.service": "syncthing@home.service",
    "/custom.slice": "custom.slice",
    "/anything/else": None,
    "/system.slice/.service": "system.slice",
}
CONTAINERS = {
    f"/docker/{ID}": (None, ID, "docker"),
    f"/docker/{ID}/system.slice/nginx.service": (None, ID, "docker"),
    f"/system.slice/docker-{ID}.scope": (None, ID, "docker"),
    f"{USER}/user.slice/docker-{ID}.scope": ("user@1000.service", ID, "docker"),
    f"/machine.slice/libpod-{ID}.scope/container": (None, ID, "podman"),
    f"/libpod_parent/libpod-{ID}": (None, ID, "podman"),
    f"{PODS}/crio-conmon-{ID}.scope": (f"crio-conmon-{ID}.scope", None, None),
    f"{POD}/crio-{ID}.scope/container": (None, ID, "cri-o"),
    f"/machine.slice/libpod-conmon-{ID}.scope": ("libpod-conmon-" + ID + ".scope", None, None),
    f"/system.slice/web.service/libpod-payload-{ID}": ("web.service", ID, "podman"),
    "/system.slice/web.service/runtime": ("web.service", None, None),
    f"{USER}/user.slice/libpod-{ID}.scope/container": ("user@1000.service", ID, "podman"),
    f"/default/{ID}": (None, ID, None),
    f"/system.slice/nerdctl-{ID}.scope": (None, ID, "containerd"),
    f"/docker/{OTHER}/kubelet/kubepods/pod{UID}/{ID}": (None, ID, None),
    "/lxc.payload.web": (None, "web", "lxc"),
    "/lxc.payload.web/system.slice/nginx.service": (None, "web", "lxc"),
    "/lxc/web/init.scope": (None, "web", "lxc"),
    "/lxc.payload/web": (None, "web", "lxc"),
    "/lxc.monitor.web": (None, None, None),
    r"/machine.slice/machine-my\x2dweb.scope/payload": (None, "my-web", "systemd-nspawn"),
    "/machine.slice/systemd-nspawn@web.service/payload/system.slice/x.service": (
        "systemd-nspawn@web.service",
        "web",
        "systemd-nspawn",
    ),
    "/machine.slice/systemd-nspawn@web.service/supervisor": (
        "systemd-nspawn@web.service",
        None,
        None,
    ),
    r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/vcpu0": (
        r"machine-qemu\x2d1\x2dvm.scope",
        None,
        None,
    ),
    f"/build-{ID}0": (None, None, None),
    f"/{ID[:-1]}": (None, None, None),
}
IN_PODS = {
    f"{POD}/cri-containerd-{ID}.scope": "containerd",
    f"{POD}/crio-{ID}.scope": "cri-o",
    f"/kubepods.slice/kubepods-pod{IN_SLICE}.slice/cri-containerd-{ID}.scope": "containerd",
    f"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{IN_SLICE}.slice/crio-{ID}.scope": (
        "cri-o"
    ),
    f"/kubepods/besteffort/pod{UID}/{ID}": None,
    f"/kubepods/pod{UID}/crio-{ID}": "cri-o",
}


@pytest.mark.parametrize("path", UNITS)
def test_units(path: str) -> None:
    """The innermost unit, of the system or of a user, as systemctl names it."""
    assert Place(unit=UNITS[path]) == read_path(path)


@pytest.mark.parametrize("path", CONTAINERS)
def test_containers(path: str) -> None:
    """The innermost container; what watches over one from outside is not in it."""
    assert Place(*CONTAINERS[path]) == read_path(path)._replace(pod_uid=None)


@pytest.mark.parametrize("path", IN_PODS)
def test_pods(path: str) -> None:
    """Kubelet's names with both cgroup drivers, of all classes of service."""
    assert Place(None, ID, IN_PODS[path], UID) == read_path(path)


def test_static_pods() -> None:
    """The id of a pod that kubelet has from a file is a hash; containerd.service may be above."""
    path = f"/system.slice/containerd.service/kubepods-pod{STATIC}.slice:cri-containerd:{ID}"
    assert Place("containerd.service", ID, "containerd", STATIC) == read_path(path)
    assert NOWHERE == read_path("/tripod-0123")


def test_a_name_of_nothing_is_no_container() -> None:
    """A path with two slashes is that with one."""
    assert read_path("/lxc/web") == read_path("//lxc///web//")
    assert NOWHERE == read_path("/lxc//")
    assert "_" == read_path("/lxc/_").container


def test_owners() -> None:
    """Below a user's slice, names are that user's."""
    assert 1000 == owner_of(f"{USER}/user.slice/libpod-{ID}.scope")
    assert owner_of(f"/machine.slice/libpod-{ID}.scope") is None


# What the runtimes write, with all that is not read left out or shortened.
DOCKER = {
    "StreamConfig": {},
    "State": {"Running": True, "Pid": 4711},
    "ID": ID,
    "Created": "2026-11-20T14:20:50.790614467Z",
    "Config": {"Hostname": ID[:12], "Image": "nginx", "Labels": {"maintainer": "x"}},
    "Name": "/web",
    "Driver": "overlay2",
}
KUBELET = {
    "io.kubernetes.container.name": "nginx",
    "io.kubernetes.pod.name": "web-7d4b9",
    "io.kubernetes.pod.namespace": "shop",
    "io.kubernetes.pod.uid": UID,
}
CRI_O: dict[str, Any] = {
    "ociVersion": "1.0.2-dev",
    "process": {"user": {"uid": 0, "gid": 0}, "args": ["nginx"]},
    "annotations": {
        **KUBELET,
        "io.container.manager": "cri-o",
        "io.kubernetes.cri-o.ContainerID": ID,
        "io.kubernetes.cri-o.ContainerType": "container",
        "io.kubernetes.cri-o.Labels": json.dumps(KUBELET),
        "io.kubernetes.cri-o.Metadata": '{"name":"nginx"}',
        "io.kubernetes.cri-o.Name": f"k8s_nginx_web-7d4b9_shop_{UID}_0",
        "io.kubernetes.cri-o.SandboxID": OTHER,
    },
    "linux": {"cgroupsPath": f"kubepods-burstable-pod{IN_SLICE}.slice:crio:{ID}"},
}
CONTAINERD = {
    "ociVersion": "1.1.0",
    "annotations": {
        "io.kubernetes.cri.container-name": "nginx",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": "docker.io/library/nginx:1.27",
        "io.kubernetes.cri.sandbox-id": OTHER,
        "io.kubernetes.cri.sandbox-name": "web-7d4b9",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": UID,
    },
    "linux": {"cgroupsPath": f"kubepods-burstable-pod{IN_SLICE}.slice:cri-containerd:{ID}"},
}
NERDCTL = {
    "annotations": {"nerdctl/name": "web", "nerdctl/namespace": "default"},
    "linux": {"cgroupsPath": f"/default/{ID}"},
}


def storage_entry(container: str, name: str) -> dict[str, Any]:
    """Return an entry of containers.json, as containers/storage writes it."""
    return {
        "id": container,
        "names": [name],
        "image": OTHER,
        "layer": OTHER,
        "metadata": json.dumps({"image-name": "docker.io/library/nginx:latest", "name": name}),
        "big-data-names": ["config.json"],
        "created": "2026-11-20T14:20:50.790614467Z",
        "flags": {"MountLabel": "", "ProcessLabel": ""},
    }


STORAGE = "var/lib/containers/storage/overlay-containers"
RUN = "run/containers/storage/overlay-containers"
TASKS = "run/containerd/io.containerd.runtime.v2.task"
IN_SHOP = {"pod": "web-7d4b9", "pod_namespace": "shop", "pod_container": "nginx"}
FILES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "Docker": (
        f"/system.slice/docker-{ID}.scope",
        {f"var/lib/docker/containers/{ID}/config.v2.json": DOCKER},
        {"runtime": "docker", "container_name": "web"},
    ),
    "Docker with another data root": (
        f"/docker/{ID}",
        {
            "etc/docker/daemon.json": {"data-root": "/srv/docker"},
            f"srv/docker/containers/{ID}/config.v2.json": DOCKER,
        },
        {"runtime": "docker", "container_name": "web"},
    ),
    "Docker, of Kubernetes": (
        f"/kubepods/burstable/pod{UID}/{ID}",
        {
            f"{TASKS}/moby/{ID}/config.json": {"annotations": {}},
            f"var/lib/docker/containers/{ID}/config.v2.json": {
                **DOCKER,
                "Name": f"/k8s_nginx_web-7d4b9_shop_{UID}_0",
                "Config": {"Labels": KUBELET},
            },
        },
        {"runtime": "docker", "container_name": "nginx", **IN_SHOP},
    ),
    "Podman": (
        f"/machine.slice/libpod-{ID}.scope/container",
        {f"{STORAGE}/containers.json": [storage_entry(OTHER, "db"), storage_entry(ID, "web")]},
        {"runtime": "podman", "container_name": "web"},
    ),
    "Podman, removed at its end": (
        f"/system.slice/web.service/libpod-payload-{ID}",
        {
            f"{STORAGE}/containers.json": [storage_entry(OTHER, "db")],
            f"{STORAGE}/volatile-containers.json": [storage_entry(ID, "web")],
        },
        {"runtime": "podman", "container_name": "web", "unit": "web.service"},
    ),
    "containerd": (
        f"{POD}/cri-containerd-{ID}.scope",
        {f"{TASKS}/k8s.io/{ID}/config.json": CONTAINERD},
        {"runtime": "containerd", "container_name": "nginx", **IN_SHOP},
    ),
    "containerd, the pod's own": (
        f"{POD}/cri-containerd-{ID}.scope",
        {
            f"{TASKS}/k8s.io/{ID}/config.json": {
                "annotations": {
                    "io.kubernetes.cri.container-type": "sandbox",
                    "io.kubernetes.cri.sandbox-id": ID,
                    "io.kubernetes.cri.sandbox-name": "web-7d4b9",
                    "io.kubernetes.cri.sandbox-namespace": "shop",
                    "io.kubernetes.cri.sandbox-uid": UID,
                }
            }
        },
        {"runtime": "containerd", "pod": "web-7d4b9", "pod_namespace": "shop"},
    ),
    "k3s, without systemd": (
        f"/kubepods/pod{UID}/{ID}",
        {f"run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json": CONTAINERD},
        {"runtime": "containerd", "container_name": "nginx", **IN_SHOP},
    ),
    "nerdctl": (
        f"/default/{ID}",
        {f"{TASKS}/default/{ID}/config.json": NERDCTL},
        {"runtime": "containerd", "container_name": "web"},
    ),
    "CRI-O": (
        f"{POD}/crio-{ID}.scope",
        {f"{RUN}/{ID}/userdata/config.json": CRI_O},
        {"runtime": "cri-o", "container_name": "nginx", **IN_SHOP},
    ),
    "CRI-O, the pod's own": (
        f"{POD}/crio-{ID}.scope",
        {
            f"{RUN}/{ID}/userdata/config.json": {
                "annotations": {**CRI_O["annotations"], "io.kubernetes.container.name": "POD"}
            },
            f"{STORAGE}/containers.json": [storage_entry(ID, "k8s_POD_web")],
        },
        {
            "runtime": "cri-o",
            "container_name": "k8s_POD_web",
            "pod": "web-7d4b9",
            "pod_namespace": "shop",
        },
    ),
    "LXC": ("/lxc.payload.web", {}, {"runtime": "lxc", "container_name": "web"}),
    "Docker in LXC": (
        f"/lxc.payload.box/system.slice/docker-{ID}.scope",
        {},
        {"runtime": "docker", "outer_containers": "box"},
    ),
    "Docker in Docker in Podman": (
        f"/machine.slice/libpod-{THIRD}.scope/container/docker/{OTHER}/docker/{ID}/init",
        {
            f"{STORAGE}/containers.json": [storage_entry(THIRD, "web")],
            f"{TASKS}/k8s.io/{ID}/config.json": {},
        },
        {"runtime": "docker", "outer_containers": f"web/{OTHER}"},
    ),
    "Docker in a pod": (
        f"{POD}/cri-containerd-{OTHER}.scope/docker/{ID}",
        {f"{TASKS}/k8s.io/{OTHER}/config.json": CONTAINERD},
        {"runtime": "docker", "outer_containers": "nginx", **IN_SHOP},
    ),
    "a pod in Docker": (
        f"/docker/{OTHER}/kubelet/kubepods/pod{UID}/{ID}",
        {f"var/lib/docker/containers/{OTHER}/config.v2.json": DOCKER},
        {"outer_containers": "web"},
    ),
    "a pod of Podman's": (
        f"/libpod_parent/{OTHER}/libpod-{ID}",
        {f"{STORAGE}/containers.json": [storage_entry(ID, "web"), storage_entry(OTHER, "db")]},
        {"runtime": "podman", "container_name": "web"},
    ),
    "nothing on disk": (f"/system.slice/docker-{ID}.scope", {}, {"runtime": "docker"}),
}


def write(root: Path, files: dict[str, Any]) -> None:
    """Write JSON files below a root."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")


def identified(path: str, root: Path) -> Identity:
    """Return who is in a cgroup, by the files below `root`."""
    return identify(path, lambda owner: runtimes.places(owner, root))


@pytest.mark.parametrize("case", FILES)
def test_names(tmp_path: Path, case: str) -> None:
    """Each runtime's files name its containers, and Kubernetes' pods."""
    path, files, expected = FILES[case]
    write(tmp_path, files)
    place = read_path(path)
    known = {"cgroup": path, "container": place.container, "pod_uid": place.pod_uid, **expected}
    assert Identity(**known) == identified(path, tmp_path)


def test_a_user_s_containers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are named by files in the user's home, and by no others."""
    user = pwd.struct_passwd(("me", "x", 1000, 1000, "", "/home/me", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {1000: user}.__getitem__)
    path = f"{USER}/user.slice/libpod-{ID}.scope/container"
    write(tmp_path, {f"{STORAGE}/containers.json": [storage_entry(ID, "root-s")]})
    assert identified(path, tmp_path).container_name is None
    home = "home/me/.local/share/containers/storage/vfs-containers"
    write(tmp_path, {f"{home}/containers.json": [storage_entry(ID, "mine")]})
    assert "mine" == identified(path, tmp_path).container_name
    assert identified(path.replace("1000", "1001"), tmp_path).container_name is None


@pytest.mark.parametrize(("length", "is_name"), [(255, True), (256, False)])
def test_a_long_name_is_none(tmp_path: Path, *, length: int, is_name: bool) -> None:
    """Thousands are remembered, and each is shown: no stranger makes one longer than others are."""
    path = f"/machine.slice/libpod-{ID}.scope/container"
    write(tmp_path, {f"{STORAGE}/containers.json": [storage_entry(ID, "n" * length)]})
    assert is_name == (identified(path, tmp_path).container_name is not None)


def test_a_user_s_files_take_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many and large they are, and whatever lies beside them, little of them is read."""
    user = pwd.struct_passwd(("me", "x", 1000, 1000, "", "/home/me", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", {1000: user}.__getitem__)
    monkeypatch.setattr(runtimes, "MOST_ENTRIES", 20)
    sizes: list[int] = []
    read = runtimes._read

    def noted(path: Path, most: int) -> bytes:
        data = read(path, most)
        sizes.append(len(data))
        return data

    monkeypatch.setattr(runtimes, "_read", noted)
    storage = tmp_path / "home/me/.local/share/containers/storage"
    for number in range(60):
        place = storage / f"{number}-containers"
        place.mkdir(parents=True)
        as_large(place / "containers.json")
    path = f"{USER}/user.slice/libpod-{ID}.scope/container"
    assert identified(path, tmp_path).container_name is None
    assert runtimes.MOST_BYTES_OF_USERS == sum(sizes)
    assert len(sizes) < 100


def as_pipe(file: Path) -> None:
    """Make a named pipe."""
    os.mkfifo(file)


def as_link(file: Path) -> None:
    """Make a link to a good file."""
    good = file.with_name("good")
    good.write_text(json.dumps([storage_entry(ID, "web")]))
    file.symlink_to(good)


def as_large(file: Path) -> None:
    """Make a file of more bytes than are read."""
    with file.open("wb") as large:
        large.truncate(runtimes.MOST_BYTES + 1)


def as_text(text: str) -> Callable[[Path], None]:
    """Return what makes a file of a text."""

    def make(file: Path) -> None:
        file.write_text(text, encoding="utf-8")

    return make


@pytest.mark.parametrize(
    "make",
    [
        as_pipe,
        as_link,
        as_large,
        Path.mkdir,
        *map(
            as_text,
            (
                "",
                "{",
                "[" * 100_000,
                "7",
                "{}",
                "[7, null, [], {}]",
                f'[{{"id": "{ID}"}}]',
                f'[{{"id": "{ID}", "names": "web"}}]',
                f'[{{"id": "{ID}", "names": [7, ""]}}]',
                f'[{{"id": ["{ID}"], "names": ["web"]}}]',
            ),
        ),
    ],
)
def test_a_file_that_is_none_of_a_runtime_s(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Names are read from regular files of bounded size that have the expected members."""
    file = tmp_path / STORAGE / "containers.json"
    file.parent.mkdir(parents=True)
    make(file)
    found = identified(f"/machine.slice/libpod-{ID}.scope", tmp_path)
    assert (ID, "podman", None) == (found.container, found.runtime, found.container_name)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[int, Identity]:
    """Return what is known of cgroups by id, to be asked for by path."""
    known: dict[int, Identity] = {}
    monkeypatch.setattr(cgroups, "path_of", lambda number: str(number) if number in known else None)
    monkeypatch.setattr(module, "identify", lambda path: known[int(path)])
    return known


def test_identities_are_remembered(asked: dict[int, Identity]) -> None:
    """A cgroup that is gone is still known; one that was never there is not asked for again."""
    identities = Identities()
    asked[7] = Identity("/a", container="x", container_name="web")
    assert asked[7] == identities.of(7)
    assert UNKNOWN == identities.of(8)
    asked.clear()
    assert "web" == identities.of(7).container_name


def test_a_name_that_comes_late(
    asked: dict[int, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container without a name is asked for again, a few times."""
    now = [0]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    identities = Identities()
    asked[7] = Identity("7", container="x")
    assert identities.of(7).container_name is None
    asked[7] = Identity("7", container="x", container_name="web")
    assert identities.of(7).container_name is None
    now[0] = int(module.ASKED_AGAIN_S[0] * 1e9)
    assert "web" == identities.of(7).container_name


def test_a_pod_s_own_container_has_no_name_to_wait_for(asked: dict[int, Identity]) -> None:
    """Its pod is all that there is to know."""
    identities = Identities()
    asked.update({7: Identity("7", container="x", pod="web-1"), 8: Identity("8", container="x")})
    for number in asked:
        identities.of(number)
    assert [False, True] == [identities.expects_name(number) for number in asked]


def test_identities_do_not_grow_for_ever(
    asked: dict[int, Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is forgotten."""
    monkeypatch.setattr(module, "MOST_KNOWN", 2)
    identities = Identities()
    for number in (1, 2, 3):
        asked[number] = Identity(f"/{number}")
        identities.of(number)
    asked[1] = Identity("/new")
    assert "/new" == identities.of(1).cgroup
    assert "/3" == identities.of(3).cgroup
