"""Units, containers and pods of real programs: systemd, systemd-nspawn, Podman, containerd.

They are Debian's; the image has busybox alone, and no registry is asked.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.harness import Event, take_port
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import listen
from tests.vm.systems import BUSYBOX, Systemd, image, systemd

POD_UID = "5b3f5a4e-2c1d-4f6a-9b8e-0a1b2c3d4e5f"
CONTAINER = "0123456789abcdef" * 4
IMAGE = "localhost/busybox:1"
LIMITS = ("--network=host", "--pids-limit=0")
"""The test's network, and no controller, which the cgroup need not have."""


@pytest.fixture
def machine(cgroup: Path) -> Iterator[Systemd]:
    """Systemd, running."""
    with systemd(cgroup) as running:
        yield running


@pytest.fixture
def port() -> Iterator[int]:
    """A port where whoever connects is let go at once."""
    number = take_port()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()

    with listen(port=number) as server:
        server_thread = threading.Thread(target=serve)
        server_thread.start()
        yield number
        server.shutdown(socket.SHUT_RDWR)
        server_thread.join()


def connects(port: int) -> str:
    """Return a command that connects once."""
    return f"{BUSYBOX} nc -w 1 127.0.0.1 {port}"


def traced(port: int, *arguments: str) -> Tracer:
    """Return a tracer of attempts to a port."""
    return Tracer("--json", "-P", str(port), *arguments, command="connect")


def known(event: Event, *keys: str) -> list[object]:
    """Return some of what an event says."""
    return [event.get(key) for key in keys]


def test_services(machine: Systemd, port: int) -> None:
    """A service that is started thrice, and instances of a template; others are not shown."""
    oneshot = ("Type=oneshot", f"ExecStart={connects(port)}")
    for name in ("web.service", "other.service", "worker@.service"):
        machine.service(name, *oneshot)
    with traced(port, "--unit", "web", "--unit", "worker@") as tracer:
        for name in ("web", "other", "worker@1", "web", "worker@2", "web"):
            machine.run("systemctl", "start", name)
        expected = ["web", "worker@1", "web", "worker@2", "web"]
        events = tracer.wait_for(len(expected))
        ended = tracer.stop()
    assert [f"{name}.service" for name in expected] == [event["unit"] for event in events]
    assert 2 == ended.stderr.count("there is no unit")


def test_a_running_service_and_its_restart(machine: Systemd, port: int) -> None:
    """What a service does that was there, and what it does when it has been restarted."""
    machine.service(
        "daemon.service",
        f"ExecStart=/bin/sh -c 'while {connects(port)}; do {BUSYBOX} sleep 0.1; done'",
    )
    machine.run("systemctl", "start", "daemon")
    with traced(port, "--unit", "daemon") as tracer:
        tracer.wait_for(2)
        before = {event["cgroup_id"] for event in tracer.events}
        machine.run("systemctl", "restart", "daemon")
        tracer.wait_until(
            lambda: bool({event["cgroup_id"] for event in tracer.events} - before), "the restarted"
        )
        machine.run("systemctl", "stop", "daemon")
        ended = tracer.stop()
    assert "there is no unit" not in ended.stderr


def test_a_user_s_service(machine: Systemd, port: int) -> None:
    """A service of a user's manager is known by its own name, and below the manager's."""
    wants = Path("/run/systemd/user/default.target.wants")
    machine.service(
        "mine.service",
        "Type=oneshot",
        f"ExecStart={connects(port)}",
        place=Path("/run/systemd/user"),
    )
    wants.mkdir(exist_ok=True)
    (wants / "mine.service").symlink_to("../mine.service")
    with traced(port, "--unit", "mine") as mine, traced(port, "--unit", "user@1") as manager:
        machine.run("systemctl", "start", "user@1.service")
        for tracer in (mine, manager):
            (event,) = tracer.wait_for(1)
            assert ["mine.service", 1] == known(event, "unit", "uid")


def test_systemd_nspawn(machine: Systemd, port: int, tmp_path: Path) -> None:
    """A container of systemd's own, by its name."""
    root = tmp_path / "root"
    for name in ("bin", "usr", "etc", "dev", "proc", "sys", "run", "tmp"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(BUSYBOX.read_bytes())
    (root / "bin/busybox").chmod(0o755)
    (root / "etc/os-release").touch()
    command = connects(port).split()[1:]
    with traced(port, "--container", "box") as tracer:
        machine.run(
            *("systemd-nspawn", "--quiet", "--machine=box"),
            *(f"--directory={root}", "--pipe", "/bin/busybox", *command),
        )
        (event,) = tracer.wait_for(1)
    assert ["systemd-nspawn", "box"] == known(event, "runtime", "container_name")


@pytest.fixture
def podman(machine: Systemd, tmp_path: Path) -> tuple[str, ...]:
    """Return Podman's command, with an image of busybox."""
    image(tmp_path / "busybox.tar")
    command = ("podman", "--storage-driver=vfs", "--cgroup-manager=systemd")
    machine.run(*command, "import", str(tmp_path / "busybox.tar"), IMAGE)
    return command


def in_image(port: int) -> list[str]:
    """Return what connects from a container."""
    return [IMAGE, "/bin/busybox", *connects(port).split()[1:]]


def test_podman(machine: Systemd, podman: tuple[str, ...], port: int) -> None:
    """Containers by name, by pattern and by id; of those that are gone at once."""
    run = (*podman, "run", *LIMITS)
    with traced(port, "--container", "web-*") as tracer:
        for name in ("web-1", "other", "web-2"):
            machine.run(*run, "--rm", f"--name={name}", *in_image(port))
        events = tracer.wait_for(2)
    assert [["podman", "web-1"], ["podman", "web-2"]] == [
        known(event, "runtime", "container_name") for event in events
    ]
    number = machine.run(*podman, "create", *LIMITS, "--name=later", *in_image(port))
    with traced(port, "--container", number[:12]) as tracer:
        machine.run(*podman, "start", "--attach", "later")
        (event,) = tracer.wait_for(1)
    assert [number, "later"] == known(event, "container", "container_name")


def test_podman_in_a_service(machine: Systemd, podman: tuple[str, ...], port: int) -> None:
    """A container that a service runs is known by both."""
    run = " ".join(
        [f"/usr/bin/{podman[0]}", *podman[1:], "run", "--rm", *LIMITS, "--cgroups=split"]
    )
    command = f"ExecStart={run} --name=inside {' '.join(in_image(port))}"
    machine.service("web.service", "Type=oneshot", "Delegate=yes", command)
    with traced(port, "--unit", "web", "--container", "inside") as tracer:
        machine.run("systemctl", "start", "web")
        (event,) = tracer.wait_for(1)
    assert ["web.service", "inside", "podman"] == known(event, "unit", "container_name", "runtime")


def test_containerd(machine: Systemd, podman: tuple[str, ...], port: int, tmp_path: Path) -> None:
    """Containers as kubelet has containerd make them, by their pod and by their name in it."""
    archive = str(tmp_path / "image.tar")
    machine.run(*podman, "save", "--format=oci-archive", f"--output={archive}", IMAGE)
    machine.run("systemctl", "start", "containerd")
    ctr = ("ctr", "--namespace=k8s.io")
    machine.run(*ctr, "image", "import", "--snapshotter=native", archive)
    slice_ = f"kubepods-burstable-pod{POD_UID.replace('-', '_')}.slice"
    notes = {"container-name": "nginx", "sandbox-name": "web-1", "sandbox-namespace": "shop"}
    run = [*ctr, "run", "--rm", "--net-host", "--snapshotter=native", "--cpu-shares=0"]
    run += ["--runc-systemd-cgroup"]
    run += [f"--annotation=io.kubernetes.cri.{key}={text}" for key, text in notes.items()]
    run += [f"--cgroup={slice_}:cri-containerd:{CONTAINER}", IMAGE, CONTAINER]
    with traced(port, "--pod", "shop/web-*", "--container", "nginx") as tracer:
        machine.run(*run, *in_image(port)[1:])
        (event,) = tracer.wait_for(1)
    keys = ("runtime", "container", "pod", "pod_namespace", "pod_container", "pod_uid")
    assert ["containerd", CONTAINER, "web-1", "shop", "nginx", POD_UID] == known(event, *keys)
