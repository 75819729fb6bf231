"""Units, containers and pods of real programs: systemd, Podman, Docker, containerd, LXC, nspawn.

They are Debian's; the image has busybox alone, and no registry is asked. tcptrace itself runs as a
service and in a container, with the rights that its pages say.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.backends import obstacles
from tests.kernel.harness import Event, eventually, take_port
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import listen
from tests.vm.systems import BUSYBOX, IS_INIT, UNITS, Systemd, image, systemd

POD_UID = "5b3f5a4e-2c1d-4f6a-9b8e-0a1b2c3d4e5f"
CONTAINER = "0123456789abcdef" * 4
IMAGE = "localhost/busybox:1"
LIMITS = ("--network=host", "--pids-limit=0")
"""The test's network, and no controller, which the cgroup need not have."""


@pytest.fixture(scope="session", autouse=True)
def netns() -> str:
    """The test is in the network namespace of what it has started, in place of one of its own."""
    return ""


@pytest.fixture
def machine(cgroup: Path) -> Iterator[Systemd]:
    """Systemd, running."""
    with systemd(cgroup) as running:
        yield running


@pytest.fixture
def accepted() -> list[int]:
    """The ports of those who have connected."""
    return []


@pytest.fixture
def port(machine: Systemd, accepted: list[int]) -> Iterator[int]:
    """A port where whoever connects is let go at once."""
    number = take_port()

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, (_, from_port) = server.accept()
                accepted.append(from_port)
                client.close()

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


def test_a_running_service_and_its_restarts(
    machine: Systemd, port: int, accepted: list[int]
) -> None:
    """Not one connection is missing of a service that was there and is restarted."""
    machine.service("daemon.service", f"ExecStart=/bin/sh -c 'while :; do {connects(port)}; done'")
    machine.run("systemctl", "start", "daemon")
    with traced(port, "--unit", "d?emon.*") as tracer:
        tracer.wait_for(2)
        first = tracer.events[0]["lport"]
        for _ in range(3):
            before = len(accepted)
            machine.run("systemctl", "restart", "daemon")
            eventually(lambda: len(accepted) > before + 1, "the restarted")  # noqa: B023
        machine.run("systemctl", "stop", "daemon")
        expected = accepted[accepted.index(first) :]
        tracer.wait_for(len(expected))
        ended = tracer.stop()
    assert sorted(expected) == sorted(event["lport"] for event in tracer.events)
    assert 2 <= len({event["cgroup_id"] for event in tracer.events})
    assert "there is no unit" not in ended.stderr


def test_scopes(machine: Systemd, port: int) -> None:
    """A scope of the system's manager, and one of a user's."""
    machine.run("systemctl", "start", "user@1.service")
    scope = ("systemd-run", "--scope", "--quiet")
    user = ("runuser", "-u", "daemon", "--", "env", "XDG_RUNTIME_DIR=/run/user/1")
    with traced(port, "--unit", "batch-*.scope") as tracer:
        machine.run(*scope, "--unit=batch-1", *connects(port).split())
        machine.run(*scope, "--unit=other", *connects(port).split())
        machine.run(*user, *scope, "--user", "--unit=batch-2", *connects(port).split())
        events = tracer.wait_for(2)
    assert [["batch-1.scope", 0], ["batch-2.scope", 1]] == [
        known(event, "unit", "uid") for event in events
    ]


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
    (wants / "mine.service").unlink(missing_ok=True)
    (wants / "mine.service").symlink_to("../mine.service")
    machine.run("systemctl", "stop", "user@1.service")
    with traced(port, "--unit", "mine") as mine, traced(port, "--unit", "user@1") as manager:
        machine.run("systemctl", "start", "user@1.service")
        for tracer in (mine, manager):
            (event,) = tracer.wait_for(1)
            assert ["mine.service", 1] == known(event, "unit", "uid")
    (wants / "mine.service").unlink()


def text_of(file: Path) -> str:
    """Return what was written into a file so far."""
    return file.read_text() if file.exists() else ""


def test_tcptrace_as_a_service_without_root(machine: Systemd, port: int, tmp_path: Path) -> None:
    """With a user of its own and three capabilities, as in docs/rights.md, units are known."""
    rows, words = tmp_path / "rows", tmp_path / "words"
    rights = "CAP_BPF CAP_PERFMON CAP_DAC_READ_SEARCH"
    machine.service("web.service", "Type=oneshot", f"ExecStart={connects(port)}")
    machine.service(
        "tracing.service",
        f"ExecStart={sys.executable} -m tcptrace connect --json --who -P {port}",
        *("DynamicUser=yes", "CacheDirectory=tcptrace"),
        *(f"AmbientCapabilities={rights}", f"CapabilityBoundingSet={rights}"),
        *(f"StandardOutput=file:{rows}", f"StandardError=file:{words}"),
        "KillSignal=SIGINT",
    )
    machine.run("systemctl", "start", "tracing")
    eventually(lambda: "Tracing" in text_of(words), "the banner")
    machine.run("systemctl", "start", "web")
    eventually(lambda: bool(text_of(rows)), "the row")
    machine.run("systemctl", "stop", "tracing")
    (event,) = map(json.loads, text_of(rows).splitlines())
    assert ["web.service", str(BUSYBOX)] == known(event, "unit", "exe")
    assert "1 event in" in text_of(words)
    assert "success" == machine.run("systemctl", "show", "--value", "-pResult", "tracing")


RECORDER = "tcptrace-record@all"


def test_the_recorder_s_unit(machine: Systemd, port: int) -> None:
    """It records with its least rights, begins new files, and ends the last one when stopped."""
    shutil.copy(Path(__file__).parents[2] / "extras/systemd/tcptrace-record@.service", UNITS)
    settings = (f"OPTIONS=--dns --failed --who -P {port}", "LIMITS=--rotate 1s --keep 7d,10G", "")
    Path("/etc/default/tcptrace-record-all").write_text("\n".join(settings))
    machine.service("web.service", "Type=oneshot", f"ExecStart={connects(port)}")
    machine.run("systemctl", "start", RECORDER)
    journal = ("journalctl", "--output=cat", f"--unit={RECORDER}")
    eventually(lambda: "Tracing" in machine.run(*journal), "the banner")
    place = Path("/var/lib/tcptrace/all")
    for number in range(1, 3):
        machine.run("systemctl", "start", "web")
        eventually(lambda: len([*place.rglob("*.parquet")]) == number, "a file")  # noqa: B023
    machine.run("systemctl", "start", "web")
    machine.run("systemctl", "stop", RECORDER)
    shown = machine.run("systemctl", "show", "--value", "-pResult", "-pExecMainStatus", RECORDER)
    assert ["0", "success"] == sorted(shown.split())
    assert [] == [*place.rglob(".*")]
    assert {0o700, 0o600} == {path.stat().st_mode & 0o777 for path in place.rglob("*")}
    read = ("tracer", "--json", "-r", f"{place}/", "-P", str(port), "--unit", "web")
    found = [json.loads(line) for line in machine.run("tcptrace", *read).splitlines()]
    assert {"connect": 3, "close": 3} == Counter(event["type"] for event in found)
    assert {str(BUSYBOX)} == {event["exe"] for event in found}


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


@pytest.mark.skipif(not IS_INIT, reason="Podman leaves a service that is not at the root's place")
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


@pytest.fixture
def docker(machine: Systemd, tmp_path: Path) -> None:
    """Docker's daemon, with an image of busybox."""
    image(tmp_path / "busybox.tar")
    options = ("--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs")
    machine.service("dockerd.service", "Type=notify", f"ExecStart=dockerd {' '.join(options)}")
    machine.run("systemctl", "start", "containerd", "dockerd")
    machine.run("docker", "import", str(tmp_path / "busybox.tar"), IMAGE)


@pytest.mark.usefixtures("docker")
def test_docker(machine: Systemd, port: int) -> None:
    """Containers by name, and by id; of one that is gone at once."""
    run = ("docker", "run", "--rm", "--network=host")
    with traced(port, "--container", "web-?") as tracer:
        for name in ("web-1", "other", "web-2"):
            machine.run(*run, f"--name={name}", *in_image(port))
        events = tracer.wait_for(2)
    assert [["docker", "web-1"], ["docker", "web-2"]] == [
        known(event, "runtime", "container_name") for event in events
    ]
    number = machine.run("docker", "create", "--network=host", "--name=later", *in_image(port))
    with traced(port, "--container", number[:12]) as tracer:
        machine.run("docker", "start", "later")
        (event,) = tracer.wait_for(1)
    assert [number, "later"] == known(event, "container", "container_name")


LXC = """\
lxc.net.0.type = none
lxc.console.path = none
lxc.autodev = 0
lxc.apparmor.profile = unconfined
lxc.mount.auto = cgroup:rw
"""
"""A container has this system's files."""


def test_lxc(machine: Systemd, port: int, tmp_path: Path) -> None:
    """A container by its name."""
    (tmp_path / "box.conf").write_text(LXC)
    command = ("lxc-execute", "-n", "box", "-f", str(tmp_path / "box.conf"), "--")
    with traced(port, "--container", "box") as tracer:
        machine.run(*command, *connects(port).split())
        (event,) = tracer.wait_for(1)
    assert ["lxc", "box"] == known(event, "runtime", "container_name")


def test_podman_in_lxc(
    machine: Systemd, podman: tuple[str, ...], port: int, tmp_path: Path
) -> None:
    """What runs in a container in a container is in both."""
    (tmp_path / "box.conf").write_text(LXC)
    outer = ("lxc-execute", "-n", "box", "-f", str(tmp_path / "box.conf"), "--")
    inner = (podman[0], podman[1], "--cgroup-manager=cgroupfs", "run", "--rm", *LIMITS)
    with traced(port, "--container", "box") as tracer:
        machine.run(*outer, *inner, "--name=web", *in_image(port))
        (event,) = tracer.wait_for(1)
    assert ["podman", "box"] == known(event, "runtime", "outer_containers")


def test_tcptrace_in_a_container(
    machine: Systemd, podman: tuple[str, ...], port: int, tmp_path: Path
) -> None:
    """With the rights of extras/container/daemonset.yaml, it knows the host's units."""
    root = tmp_path / "root"
    root.mkdir()
    machine.run("mount", "--bind", "/", str(root))
    service = ("Type=oneshot", f"ExecStart={connects(port)}", "ExecStart=/bin/sleep 1")
    machine.service("web.service", *service)
    run = (
        *podman,
        "run",
        "--detach",
        "--replace",
        "--name=tcptrace",
        "--log-driver=k8s-file",
        "--pids-limit=0",
    )
    rights = [
        *("--cap-drop=all", "--cap-add=bpf,perfmon,dac_read_search", "--read-only"),
        *("--security-opt=no-new-privileges", "--network=none"),
    ]
    if obstacles()["fentry"]:  # as docs/containers.md says
        rights.append("--security-opt=seccomp=unconfined")
    volumes = ("/sys/kernel/tracing", "/sys/fs/cgroup")
    shared = [f"--volume={place}:{place}:ro" for place in volumes]
    shared.append("--volume=tcptrace-programs:/var/cache/tcptrace")
    shared.append("--env=CACHE_DIRECTORY=/var/cache/tcptrace")
    program = str(Path(sys.executable).with_name("tcptrace"))
    arguments = ("connect", "--outcome", "--dns", "--json", "-P", str(port))
    machine.run(*run, *rights, *shared, "--rootfs", str(root), program, *arguments)
    logs = (*podman, "logs", "tcptrace")
    eventually(lambda: "Tracing" in machine.run("sh", "-c", f"{' '.join(logs)} 2>&1"), "the banner")
    machine.run("systemctl", "start", "web")
    eventually(lambda: "web.service" in machine.run(*logs), "the row")
    machine.run(*podman, "stop", "tcptrace")
    assert "0" == machine.run(*podman, "wait", "tcptrace")
    (event,) = map(json.loads, machine.run(*logs).splitlines())
    assert ["web.service", "established"] == known(event, "unit", "outcome")
    machine.run(*podman, "rm", "tcptrace")
    machine.run("umount", str(root))
