"""`tcptrace tracer` with filters, and with a table that is full."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.kernel.backends import FROM_BTF, need
from tests.kernel.bpfmaps import pinned
from tests.kernel.connections import CONTAINER, SCOPE, THEIRS, cut_link, pair, seen
from tests.kernel.harness import Worker, take_port, take_ports
from tests.kernel.tracers import Tracer, ended_well
from tests.kernel.traffic import (
    DUAL,
    NAME,
    NOBODY,
    V4,
    V6,
    Actor,
    cast,
    connect,
    listen,
    namespace_id,
    near_misses,
    reset,
)

from tcptrace.probes.probe import Backend
from tcptrace.probes.tracer.probe import TRACER

pytestmark = pytest.mark.command("tracer")


@pytest.mark.anywhere
def test_a_full_table_is_counted_and_said(backend: Backend, netns: str) -> None:
    """Connections beyond --max-connections are told while tracing; --fail-on-loss counts them."""
    need(backend, TRACER, switches=["MOST_CONNECTIONS"])
    port = take_port()
    arguments = ("--json", "--backend", backend, "-N", netns, "--max-connections", "16")
    with (
        Tracer(*arguments, "--fail-on-loss", command="tracer") as tracer,
        listen(V4, port) as listener,
    ):
        listener.listen(64)
        clients = [connect(listener) for _ in range(24)]
        tracer.wait_for(16, type="connect", rport=port)
        tracer.wait_until(lambda: "a table is full" in tracer.stderr, "the word")
        for client in clients:
            reset(client)
        seen(tracer, port)
        ended = tracer.stop()
    missing = re.search(r"(\d+) not tracked \(table full\)", ended.stderr)
    assert missing, ended.stderr
    assert 0 < int(missing[1]) <= 4 * len(clients)
    with_task = [event for event in tracer.where(type="connect", rport=port) if "pid" in event]
    assert 16 == len(with_task)
    assert 1 == ended.status


@pytest.mark.anywhere
@pytest.mark.parametrize("by", ["user", "port"])
@pytest.mark.usefixtures("other_host")
def test_what_the_filters_drop_takes_no_place(backend: Backend, netns: str, by: str) -> None:
    """Others' attempts, queues and connections, however many, leave the table to what is kept."""
    need(backend, TRACER, switches=["MOST_CONNECTIONS"])
    kept, others = Actor(uid=NOBODY), take_port()
    only = ("-u", str(NOBODY)) if by == "user" else ("-P", str(kept.port))
    arguments = ("--json", "--backend", backend, "-N", netns, "--max-connections", "16", *only)
    cut_link()
    with (
        contextlib.ExitStack() as stack,
        Tracer(*arguments, "--fail-on-loss", command="tracer") as tracer,
        listen(V4, others) as listener,
    ):
        for _ in range(64):
            pending = stack.enter_context(socket.socket())
            pending.settimeout(0)
            assert errno.EINPROGRESS == pending.connect_ex((THEIRS, others))
        listener.listen(64)
        for turn in range(48):
            stack.enter_context(connect(listener))
            if turn % 2:
                stack.enter_context(listener.accept()[0])
        assert whole(["kept"]) == stories(tracer, cast({"kept": kept}))
        assert all(kept.port in (event["lport"], event["rport"]) for event in tracer.events)
        ended_well(tracer)


def stories(tracer: Tracer, workers: dict[str, Worker]) -> dict[str, list[str]]:
    """Let each worker work; return the types of the events of each that is shown."""
    for worker in workers.values():
        worker.run()
    last = list(workers.values())[-1]
    tracer.wait_for(2, pid=last.pid, type="close")
    found: dict[str, list[str]] = {}
    names = {worker.pid: name for name, worker in workers.items()}
    for event in tracer.events:
        if event.get("pid") in names:
            found.setdefault(names[event["pid"]], []).append(event["type"])
    return {name: sorted(types) for name, types in found.items()}


def whole(names: Iterable[str]) -> dict[str, list[str]]:
    """Return what `stories` should be: all of those that are named "kept", and nothing else."""
    every = ["accept", "close", "close", "connect"]
    return {name: every for name in names if name.startswith("kept")}


def test_filters_that_keep(backend: Backend, netns: str) -> None:
    """-p, -P at either end, -u, --comm, -N and -4 together keep what satisfies all of them."""
    low, dropped, high, outside = take_ports(4)
    likewise = functools.partial(Actor, uid=NOBODY, comm=NAME)
    workers = cast(
        {
            **near_misses(likewise, kept=low, dropped=dropped, outside=outside),
            "kept": likewise(port=low),
            "kept: IPv4-mapped": likewise(server=DUAL, client=V4, port=high),
        }
    )
    pids = [worker.pid for name, worker in workers.items() if name != "dropped: other process"]
    arguments = ["-p", ",".join(map(str, pids)), "-P", f"{low}-{high}", "-P", f"!{dropped}"]
    arguments += ["-u", str(NOBODY), "--comm", NAME.decode(), "-N", netns, "-4"]
    with Tracer("--json", "--backend", backend, *arguments, command="tracer") as tracer:
        assert whole(workers) == stories(tracer, workers)


def test_container_filters(backend: Backend, cgroup: Path, bpffs: Path) -> None:
    """--cgroup, --cgroupmap, --mntnsmap and -6 together; also of a process that just ends."""
    need(backend, TRACER, filters=["cgroup", "cgroupmap", "mntnsmap"])

    def leave(actor: Actor) -> None:
        actor.enter()
        for sock in pair(actor.port, V6):
            sock.detach()

    with (
        pinned(bpffs / "tracer-cgroups", 8, 8) as cgroups,
        pinned(bpffs / "tracer-mntns", 8, 4) as mntns,
    ):
        arguments = ["--cgroup", str(cgroup), "--cgroupmap", str(cgroups.path), "-6"]
        arguments += ["--mntnsmap", str(mntns.path)] if FROM_BTF else []
        with Tracer("--json", "--backend", backend, *arguments, command="tracer") as tracer:
            not_in_map, container = cgroup / "not-in-map", cgroup / SCOPE
            for place in (not_in_map, container):
                place.mkdir()
            for place in (container, cgroup.parent):
                cgroups.add(place.stat().st_ino)
            mntns.add(namespace_id("mnt"))
            actors = {
                "dropped: IPv4": Actor(cgroup=container),
                "dropped: other cgroup": Actor(V6, cgroup=cgroup.parent),
                "dropped: cgroup not in the map": Actor(V6, cgroup=not_in_map),
            }
            if FROM_BTF:
                outsider = Actor(V6, cgroup=container, new_mntns=True)
                actors["dropped: other mount namespace"] = outsider
            workers = cast(actors)
            workers["kept: ends"] = Worker(lambda: leave(Actor(V6, cgroup=container)))
            workers |= cast({"kept": Actor(V6, cgroup=container)})
            assert whole(workers) == stories(tracer, workers)
            ends_ = tracer.where(pid=workers["kept: ends"].pid, type="close")
            if FROM_BTF:
                assert [namespace_id("mnt")] * 2 == [event["mntns"] for event in ends_]
            assert {CONTAINER} == {event["container"] for event in tracer.events}


def test_a_close_follows_the_connection_that_its_owner_opened(backend: Backend, netns: str) -> None:
    """With -p and -u of the owner, the close by a child of another user is shown, as the child's.

    Its user is the owner.
    """

    def owner(port: int) -> int:
        os.setresuid(NOBODY, NOBODY, 0)
        near, far = pair(port)
        far.detach()

        def close() -> None:
            os.setresuid(0, 0, 0)
            near.close()

        child = Worker(close)
        near.close()
        child.run()
        return child.pid

    port = take_port()
    worker = Worker(lambda: owner(port))
    arguments = ["--json", "--backend", backend, "-N", netns]
    arguments += ["-p", str(worker.pid), "-u", str(NOBODY)]
    with Tracer(*arguments, command="tracer") as tracer:
        child_pid = worker.run()
        tracer.wait_for(type="close", rport=port)
        tracer.wait_for(type="close", lport=port)
        client = [(event["type"], event["pid"], event["uid"]) for event in tracer.where(rport=port)]
        assert [("connect", worker.pid, NOBODY), ("close", child_pid, NOBODY)] == client
