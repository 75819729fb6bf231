"""`tcptrace tracer --existing`: connections that were open when the trace began."""

from __future__ import annotations

import collections
import os
import resource
import select
import socket
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from tests.kernel.backends import need
from tests.kernel.connections import (
    CONTAINER,
    MAPPED,
    OURS,
    SCOPE,
    TCP_SYN_RECV,
    UNIT,
    Run,
    accepted,
    closed,
    cut_link,
    cut_off,
    ends,
    mend_link,
    pair,
    receive,
    seen,
    tcp_state,
    timeless,
    until_closed,
)
from tests.kernel.harness import TIME_SCALE, Worker, limit, take_port, take_ports
from tests.kernel.tracers import Tracer, ended_well
from tests.kernel.traffic import (
    DUAL,
    FAST_OPEN,
    FAST_OPEN_AT_ONCE,
    V4,
    comm,
    connect,
    fast_open_at_once,
    known,
    listen,
    reset,
    task_fields,
)

from tcptrace.kernel.netns import NAMED, enter
from tcptrace.probes.probe import Backend
from tcptrace.probes.tracer.probe import TRACER

pytestmark = pytest.mark.command("tracer")

RENEWAL_MS = 1
IDLE = int(2_000 / min(TIME_SCALE, 10))


class Holder:
    """A process that holds both ends of connections, idle ones and ones that it renews."""

    def __init__(
        self,
        port: int,
        idle: int,
        renewed: int = 0,
        namespace: str = "",
        cgroup: Path | None = None,
    ) -> None:
        """Start it, and wait until its connections are open."""
        self._cgroup = cgroup
        self.port = port
        self._ours, self._theirs = socket.socketpair()
        self._worker = Worker(lambda: self._work(idle, renewed, namespace))
        self.pid = self._worker.pid
        self._worker.start()
        self._ours.settimeout(limit(30))
        assert b"open" == self._ours.recv(4)

    def _work(self, idle: int, renewed: int, namespace: str) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if self._cgroup:
            (self._cgroup / "cgroup.procs").write_text("0")
        if namespace:
            enter(NAMED / namespace)
        poller = select.poll()  # select.select takes no descriptor above 1023
        poller.register(self._theirs, select.POLLIN)
        with listen(V4, self.port) as listener:

            def new() -> tuple[socket.socket, socket.socket]:
                return connect(listener), listener.accept()[0]

            def end(near: socket.socket, far: socket.socket) -> None:
                reset(near)
                far.close()

            held = [new() for _ in range(idle)]
            young = collections.deque(new() for _ in range(renewed))
            self._theirs.sendall(b"open")
            while not poller.poll(RENEWAL_MS if renewed else None):
                young.append(new())
                end(*young.popleft())
            for near, far in (*held, *young):
                end(near, far)

    def end(self) -> None:
        """Have it close its connections."""
        self._ours.sendall(b"end")
        self._worker.result()
        self._ours.close()
        self._theirs.close()


@pytest.fixture
def empty_name() -> Iterator[None]:
    """A name of a network namespace whose mount is in another mount namespace."""
    name = NAMED / f"tcptrace-empty-{os.getpid()}"
    name.touch()
    yield
    name.unlink()


@pytest.mark.usefixtures("empty_name")
def test_open_connections_come_first(backend: Backend, other_host: str) -> None:
    """--existing shows each end of what is open once, in all namespaces, before its X."""
    need(backend, TRACER, switches=["TRACER_EXISTING"])
    ports = take_ports(4)
    here, there = Holder(ports[0], IDLE), Holder(ports[1], 1, namespace=other_host)
    mapped = pair(ports[2], DUAL, MAPPED + V4)
    with listen(V4, ports[3]) as listener, connect(listener) as waiting:
        arguments = (
            "--json",
            "--existing",
            "--backend",
            backend,
            "-P",
            f"{ports[0]}-{ports[3]}",
        )
        with Tracer(*arguments, command="tracer") as tracer:
            count = 2 * IDLE + 2 + 2 + 1  # the last has not been accepted
            rows = tracer.wait_for(count, type="open")
            here.end()
            there.end()
            tracer.wait_for(count - 3, type="close")
            begin = {**task_fields(), **ends(mapped[0]), "holders": [os.getpid()], "type": "open"}
            del begin["tid"]
            assert [begin] == [
                {**timeless(event), "cgroup_id": begin["cgroup_id"]}
                for event in tracer.where(type="open", rport=ports[2])
            ]
            expected = [cut_off(begin), closed({**begin, **task_fields()}, "local")]
            expected = [{key: row[key] for key in row if key != "holders"} for row in expected]
            reset(mapped[1])
            with pytest.raises(ConnectionResetError):
                mapped[0].recv(1)
            mapped[0].close()
            taken = listener.accept()[0]
            reset(taken)
            with pytest.raises(ConnectionResetError):
                waiting.recv(1)
            waiting.close()
            tracer.wait_for(count, type="close")
            ended = ended_well(tracer)
    assert count == len(rows)
    assert rows == tracer.events[:count]
    assert {here.pid, there.pid, os.getpid()} == {event["pid"] for event in tracer.events}
    assert 1 == len(tracer.where(type="accept"))
    assert 2 * count + 2 == ended.summary[0]


@pytest.mark.anywhere
def test_no_connection_is_missed_or_shown_twice_at_the_start(
    backend: Backend, other_host: str
) -> None:
    """With --existing, each end has one beginning and one X, also where they change meanwhile."""
    need(backend, TRACER, switches=["TRACER_EXISTING"])
    holder = Holder(take_port(), 10, renewed=10, namespace=other_host)
    arguments = ("--json", "--existing", "--backend", backend, "-N", other_host)
    with Tracer(*arguments, command="tracer") as tracer:
        tracer.wait_for(100, type="close")
        holder.end()
        ended_well(tracer)
    stories: dict[tuple[int, int], list[str]] = {}
    for event in tracer.events:
        stories.setdefault((event["lport"], event["rport"]), []).append(event["type"])
    for (lport, _), story in stories.items():
        begin = "accept" if lport == holder.port else "connect"
        assert story[0] in {"open", begin}, story
        assert [begin] * (len(story) // 2 - 1) == story[2::2], story
        assert ["close"] * (len(story) // 2) == story[1::2], story
    known = {event["pid"] for event in tracer.events if "pid" in event}
    assert {holder.pid} == known


def test_filters_of_open_connections(backend: Backend, netns: str, cgroup: Path) -> None:
    """With --existing, filters hold for what is open, too; X follows what was shown."""
    need(backend, TRACER, switches=["TRACER_EXISTING"])
    container = cgroup / SCOPE
    container.mkdir()
    ports = take_ports(4)
    names = ("kept", "port", "pid", "cgroup")
    holders = {
        name: Holder(port, 1, cgroup=None if name == "cgroup" else container)
        for name, port in zip(names, ports, strict=True)
    }
    pids = ",".join(str(holders[name].pid) for name in names if name != "pid")
    arguments = [
        "-p",
        pids,
        "-P",
        f"{ports[0]}-{ports[3]},!{ports[1]}",
        "-4",
        "-N",
        netns,
        "-u",
        "0",
        "--comm",
        comm(),
    ]
    arguments += ["--cgroup", str(cgroup), "--backend", backend]
    with Tracer("--json", "--existing", *arguments, command="tracer") as tracer:
        tracer.wait_for(2, type="open")
        for holder in reversed(holders.values()):
            holder.end()
        tracer.wait_for(2, type="close")
        ended_well(tracer)
    kept = (holders["kept"].pid, CONTAINER)
    assert [(kind, *kept) for kind in ("open", "open", "close", "close")] == [
        (event["type"], event["pid"], event["container"]) for event in tracer.events
    ]


def test_accepted_before_the_handshake_ended(run: Run, backend: Backend, other_host: str) -> None:
    """A server that takes data from the SYN has one A and one X, though ESTABLISHED comes later."""
    port = take_port()

    def client() -> None:
        enter(NAMED / other_host)
        FAST_OPEN.write_text(str(FAST_OPEN_AT_ONCE))
        with socket.socket() as near:
            near.settimeout(limit(20))
            near.sendto(UNIT, socket.MSG_FASTOPEN, (OURS, port))
            receive(near, len(UNIT))
            until_closed(near)

    cut_link()
    with fast_open_at_once(), listen(OURS, port) as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        listener.settimeout(limit(20))  # if the SYN has no data, nothing comes over a cut link
        worker = Worker(client)
        worker.start()
        far = listener.accept()[0]
        taken = accepted(far)
        receive(far, len(UNIT))
        state = tcp_state(far)
        mend_link()
        run.tracer.wait_for(type="accept", lport=port)
        far.sendall(UNIT)
        far.close()
        worker.result()
    size = len(UNIT)
    ended = closed(taken, "local", tx=size, rx=size, retransmits=ANY)
    assert TCP_SYN_RECV == state
    expected = [known(event, backend, TRACER) for event in (taken, ended)]
    assert expected == [timeless(event) for event in seen(run.tracer, port, 2)]
