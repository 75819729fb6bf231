"""Filters by unit, container and pod: processes in cgroups that were there, come, go and return."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.backends import need
from tests.kernel.harness import Worker, limit, take_port
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import Actor, connect, listen, reset

from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.probe import Backend, Probe
from tcptrace.probes.tracer.probe import TRACER

ID, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
IN_STORAGE = """\
mount -t tmpfs none /var/lib &&
mkdir -p /var/lib/containers/storage/overlay-containers &&
exec "$@"
"""
"""Runs a command that has a storage of Podman's own."""


@contextlib.contextmanager
def made(*places: Path) -> Iterator[None]:
    """Make cgroups, for as long as they are wanted."""
    with contextlib.ExitStack() as stack:
        for place in places:
            place.mkdir()
            stack.callback(place.rmdir)
        yield


def accept_in(place: Path, port: int) -> int:
    """Have a process in a cgroup accept a connection; return its id."""
    worker = Worker(Actor(port=port, cgroup=place).accept)
    worker.run()
    return worker.pid


def traced(backend: Backend, probe: Probe, *arguments: str) -> Tracer:
    """Return a tracer with a filter, where the backend has it."""
    need(backend, probe, filters=[arguments[0].removeprefix("--")])
    return Tracer("--json", "--backend", backend, *arguments, command=probe.name)


def test_units_that_are_there_and_that_come(backend: Backend, cgroup: Path) -> None:
    """A unit is traced that runs, that begins later, and that is gone and begins again."""
    web, below, later = cgroup / "web.service", cgroup / "web.service/a", cgroup / "db@1.service"
    other, port = cgroup / "other.service", take_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(made(web, below, other))
        tracer = stack.enter_context(
            traced(backend, ACCEPT, "--unit", "web", "--unit", "db@", "-P", str(port))
        )
        accept_in(other, port)
        pids = [accept_in(place, port) for place in (web, below)]
        for _ in range(3):
            with made(later):
                pids.append(accept_in(later, port))
                accept_in(other, port)
        tracer.wait_for(len(pids), lport=port)
        ended = tracer.stop()
    assert (pids, 0) == ([event["pid"] for event in tracer.events], ended.summary[1])
    assert ["db@1.service"] * 3 == [event["unit"] for event in tracer.events[2:]]
    assert 1 == ended.stderr.count("there is no unit db@*.service yet")
    assert "unit web.service" not in ended.stderr


def test_a_cgroup_that_is_gone_at_once(backend: Backend, cgroup: Path) -> None:
    """What is removed before its events are read is known by its path all the same."""
    port, place = take_port(), cgroup / "blink.service"
    with traced(backend, ACCEPT, "--unit", "bl*k.service", "-P", str(port)) as tracer:
        pids = []
        for _ in range(20):
            with made(place):
                pids.append(accept_in(place, port))
        tracer.wait_for(len(pids), lport=port)
    assert pids == [event["pid"] for event in tracer.events]
    assert {f"/{cgroup.name}/{place.name}"} == {event["cgroup"] for event in tracer.events}


def test_what_is_dropped_stays_in_the_kernel(backend: Backend, cgroup: Path) -> None:
    """Once a cgroup is judged, its events leave the kernel no more: they fill no buffer."""
    port, other = take_port(), cgroup / "other.service"
    arguments = ("--unit", "web", "-P", str(port), "--buffer-mb", "1")

    def many() -> None:
        Actor(cgroup=other).enter()
        with listen(port=port) as server:
            for _ in range(12_000):
                client = connect(server)
                server.accept()[0].close()
                reset(client)

    with made(other), traced(backend, ACCEPT, *arguments) as tracer:
        os.kill(tracer.process.pid, signal.SIGSTOP)
        Worker(many).run()
        os.kill(tracer.process.pid, signal.SIGCONT)
        ended = tracer.stop()
    assert (0, 0) == ended.summary


def close_elsewhere(place: Path, port: int) -> None:
    """Connect and accept in one cgroup, and close both ends in another."""
    with listen(port=port) as server:
        near = connect(server)
        far, _ = server.accept()
        Actor(cgroup=place).enter()
        near.close()
        far.close()


@pytest.mark.parametrize("opens", [True, False], ids=["opener", "closer"])
def test_a_close_is_kept_by_who_opened_or_who_closed(
    backend: Backend, cgroup: Path, *, opens: bool
) -> None:
    """A connection's end is shown with its beginning, and where its closer is wanted."""
    web, other, port = cgroup / "web.service", cgroup / "other.service", take_port()
    opener, closer = (web, other) if opens else (other, web)

    def work() -> None:
        Actor(cgroup=opener).enter()
        close_elsewhere(closer, port)

    with traced(backend, TRACER, "--unit", "web", "-P", str(port)) as tracer, made(web, other):
        Worker(work).run()
        tracer.wait_for(2, type="close")
        tracer.stop()
    assert (["accept", "connect"] if opens else []) + ["close"] * 2 == sorted(
        (event["type"] for event in tracer.events), key=lambda kind: (kind == "close", kind)
    )


def test_counts_of_units(backend: Backend, cgroup: Path) -> None:
    """Attempts are counted from the first on, whoever counts them, in one row."""
    web, other, port = cgroup / "web.service", cgroup / "other.service", take_port()
    need(backend, CONNECT, switches=["CONNECT_COUNTS"], filters=["unit"])

    def some(place: Path) -> None:
        Actor(cgroup=place).enter()
        with listen(port=port) as server:
            for _ in range(3):
                connect(server).close()

    arguments = ("-c", "--backend", backend, "--unit", "web", "-P", str(port), "--json")
    with Tracer(*arguments, command="connect") as tracer, made(web, other):
        for _ in range(3):
            for place in (web, other):
                Worker(functools.partial(some, place)).run()
        ended = tracer.stop()
    assert [9] == [row["connects"] for row in tracer.events]
    assert (9, 0) == ended.summary


def name_containers(names: dict[str, str], tracer: Tracer) -> None:
    """Write the list of containers that a tracer finds."""
    storage = Path(f"/proc/{tracer.process.pid}/root/var/lib/containers/storage")
    entries = [{"id": number, "names": [name]} for number, name in names.items()]
    new = storage / "overlay-containers/new"
    new.write_text(json.dumps(entries))
    new.rename(new.with_name("containers.json"))


def in_storage(*arguments: str) -> Tracer:
    """Return a tracer that finds no names but those that a test writes."""
    prefix = ("unshare", "--mount", "sh", "-c", IN_STORAGE, "sh")
    return Tracer("--json", *arguments, prefix=prefix)


def test_containers_by_name_and_id(cgroup: Path) -> None:
    """A container is known by its name, which may come after its first event, and by its id."""
    named, numbered, other = (
        cgroup / f"libpod-{number}.scope" for number in (ID, OTHER, "ab" * 32)
    )
    port = take_port()
    arguments = ("--container", "my-web", "--container", OTHER[:12], "-P", str(port))
    with in_storage(*arguments) as tracer, made(named, numbered, other):
        pids = [accept_in(place, port) for place in (other, named, numbered)]
        name_containers({ID: "my-web"}, tracer)
        tracer.wait_for(2, lport=port)
        pids.append(accept_in(named, port))
        tracer.wait_for(3, lport=port)
        ended = tracer.stop()
    assert pids[1:] == [event["pid"] for event in tracer.events]
    assert ["my-web", None, "my-web"] == [event.get("container_name") for event in tracer.events]
    assert 2 == ended.stderr.count("there is no container")


@pytest.mark.parametrize("wanted", ["my-web", ID[:12], OTHER[:12]], ids=["name", "outer", "inner"])
def test_containers_in_a_container(cgroup: Path, wanted: str) -> None:
    """A container stands for those inside it, too; an inner one's name is waited for by nobody."""
    outer, other = cgroup / f"libpod-{ID}.scope", cgroup / f"libpod-{'ab' * 32}.scope"
    inner, port = outer / f"docker/{OTHER}", take_port()
    with in_storage("--container", wanted, "-P", str(port)) as tracer:
        name_containers({ID: "my-web", "ab" * 32: "other"}, tracer)
        with made(outer, inner.parent, inner, other, other / f"{'cd' * 32}"):
            accept_in(other / f"{'cd' * 32}", port)
            pids = [accept_in(place, port) for place in (outer, inner)]
            expected = pids[1:] if wanted == OTHER[:12] else pids
            tracer.wait_for(len(expected), lport=port)
            ended = tracer.stop()
    assert (expected, 0) == ([event["pid"] for event in tracer.events], ended.summary[1])
    assert [OTHER, "my-web"] == [
        tracer.events[-1].get(key) for key in ("container", "outer_containers")
    ]


def test_a_name_that_never_comes_holds_up_nothing_for_long(cgroup: Path) -> None:
    """Events behind those of a nameless container are shown within seconds, in order."""
    nameless, named, port = cgroup / f"{ID}", cgroup / f"libpod-{OTHER}.scope", take_port()
    with in_storage("--container", "my-web", "-P", str(port)) as tracer:
        name_containers({OTHER: "my-web"}, tracer)
        with made(nameless, named):
            accept_in(nameless, port)
            pids = [accept_in(named, port) for _ in range(3)]
            tracer.wait_for(3, lport=port)
    assert pids == [event["pid"] for event in tracer.events]


def test_the_end_of_a_trace_waits_for_no_name(cgroup: Path) -> None:
    """What is wanted comes out when tracing ends, though a name before it is not known."""
    nameless, wanted, port = cgroup / f"{ID}", cgroup / f"libpod-{OTHER}.scope", take_port()
    with in_storage("--container", OTHER, "-P", str(port)) as tracer, made(nameless, wanted):
        accept_in(nameless, port)
        pid = accept_in(wanted, port)
        ended = tracer.stop()
    assert [pid] == [event["pid"] for event in tracer.events]
    assert (1, 0) == ended.summary


BUNDLE = "io.containerd.runtime.v2.task/k8s.io"
IN_RUN = """\
mount -t tmpfs none /run && mkdir -p "/run/containerd/$1" && echo "$2" >"/run/containerd/$1/$3" &&
shift 3 && exec "$@"
"""


@pytest.mark.parametrize("pattern", ["shop/web-1", "web-1", "shop/*", "*-1"])
def test_pods(cgroup: Path, pattern: str) -> None:
    """A pod is known by what containerd keeps of its containers."""
    notes: dict[str, Any] = {
        "io.kubernetes.cri.container-name": "nginx",
        "io.kubernetes.cri.sandbox-name": "web-1",
        "io.kubernetes.cri.sandbox-namespace": "shop",
    }
    file = (f"{BUNDLE}/{ID}", json.dumps({"annotations": notes}), "config.json")
    prefix = ("unshare", "--mount", "sh", "-c", IN_RUN, "sh", *file)
    inside, outside = (cgroup / f"cri-containerd-{number}.scope" for number in (ID, OTHER))
    port = take_port()
    arguments = ("--json", "--pod", pattern, "-P", str(port))
    with made(outside, inside), Tracer(*arguments, prefix=prefix) as tracer:
        accept_in(outside, port)
        pid = accept_in(inside, port)
        tracer.wait_for(1, lport=port)
        ended = tracer.stop()
    assert [(pid, "web-1")] == [(event["pid"], event["pod"]) for event in tracer.events]
    assert "there is no pod" not in ended.stderr


def test_open_connections_of_a_unit(cgroup: Path, netns: str) -> None:
    """--existing shows the connections that a unit's processes have, and their ends."""
    web, port = cgroup / "web.service", take_port()
    command = [sys.executable, "-c", HOLDS, str(port)]
    pipe = subprocess.PIPE
    with made(web), subprocess.Popen(command, stdin=pipe, stdout=pipe) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdout.readline()
        (web / "cgroup.procs").write_text(str(holder.pid))
        arguments = ("--existing", "--unit", "web", "-N", netns, "--json")
        with Tracer(*arguments, command="tracer") as tracer:
            tracer.wait_for(2, type="open")
            accept_in(cgroup.parent, take_port())
            holder.stdin.close()
            tracer.wait_for(2, type="close")
        holder.wait(limit(10))
    assert ["open"] * 2 + ["close"] * 2 == [event["type"] for event in tracer.events]
    assert {"web.service"} == {event["unit"] for event in tracer.events}


HOLDS = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
print("open", flush=True)
sys.stdin.read()
client.close()
accepted.close()
"""
