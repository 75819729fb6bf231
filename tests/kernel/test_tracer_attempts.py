"""`tcptrace tracer --failed` and `-d`: attempts that came to nothing, and names."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel import resolvers, test_connect
from tests.kernel.backends import need
from tests.kernel.harness import Event, Worker, limit, take_port, take_ports
from tests.kernel.test_connect import FATES, SILENT, denying, failure
from tests.kernel.tracers import Tracer, stop_without_loss
from tests.kernel.traffic import (
    V4,
    accept_once,
    connect,
    listen,
    need_mptcp,
)

from tcptrace.probes.probe import Backend
from tcptrace.probes.tracer.probe import TRACER

pytestmark = pytest.mark.command("tracer")

links = test_connect.links
"""The fixture that makes addresses which do not answer."""


@pytest.fixture(scope="module")
def failures(backend: Backend, netns: str) -> Iterator[Tracer]:
    """A tracer of connections and of attempts that failed, with names."""
    need(backend, TRACER, switches=["--failed"])
    arguments = ("--json", "--failed", "-d", "-N", netns, "--backend", backend)
    with Tracer(*arguments, command="tracer") as running:
        yield running
        stop_without_loss(running)


def attempts(tracer: Tracer, port: int) -> list[Event]:
    """Return the attempts to connect to a port, when all until now has been shown."""
    tracer.wait_for(type="accept", lport=accept_once()["lport"])
    return tracer.where(type="connect", rport=port)


@pytest.mark.parametrize("fate", FATES)
def test_each_attempt_is_shown_once_with_its_outcome(failures: Tracer, fate: str) -> None:
    """One that became a connection is a C; another has its outcome and error."""
    port = take_port()
    FATES[fate].make(port)
    (event,) = attempts(failures, port)
    assert (FATES[fate].outcome, FATES[fate].error) == (event["outcome"], event["error"])
    if FATES[fate].error == "ECONNREFUSED":
        assert event["latency_ms"] > 0


def test_timeout(failures: Tracer) -> None:
    """An attempt that the kernel gives up is a timeout, with its latency."""
    port = take_port()
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        assert errno.ETIMEDOUT == sock.connect_ex((SILENT, port))
    (event,) = attempts(failures, port)
    assert ("timeout", "ETIMEDOUT") == (event["outcome"], event["error"])
    assert 2000 < event["latency_ms"] < limit(10_000)


def test_denied(failures: Tracer, cgroup: Path) -> None:
    """An attempt that a cgroup's BPF program denies is shown with EPERM."""
    port = take_port()

    def attempt() -> None:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        failure(V4, port, "EPERM")

    with denying(cgroup):
        Worker(attempt).run()
    (event,) = attempts(failures, port)
    assert ("error", "EPERM") == (event["outcome"], event["error"])


def test_both_ends_of_an_answer_are_named(failures: Tracer) -> None:
    """C, and an attempt that failed, have the name that was asked for, in one session."""
    up, down = take_ports(2)
    answers = [
        resolvers.answer(f"{name}.test", f"{name}.test A {address}")
        for name, address in (("up", "127.0.0.83"), ("down", "127.0.0.84"))
    ]

    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(limit(5))
            for name in ("up.test", "down.test"):
                client.sendto(resolvers.question(name), (resolvers.FAKE, resolvers.PORT))
                client.recvfrom(512)
        with listen("127.0.0.83", up) as server, connect(server, "127.0.0.83"):
            server.accept()[0].close()
        with socket.socket() as sock:
            assert errno.ECONNREFUSED == sock.connect_ex(("127.0.0.84", down))

    with resolvers.fake(*answers):
        Worker(ask).run()
    (refused,) = attempts(failures, down)
    (established,) = attempts(failures, up)
    assert ("up.test", "down.test") == (established["query"], refused["query"])
    assert min(established["query_age_ms"], refused["query_age_ms"]) >= 0
    assert "retransmits" in refused
    assert not failures.where(type="dns")


def test_ports_at_either_end(backend: Backend, netns: str) -> None:
    """-P keeps an attempt that failed by its destination, or by a local port that was bound."""
    need(backend, TRACER, switches=["--failed"])
    kept, dropped, other, nobody = take_ports(4)
    ports = f"{kept}-{dropped},!{dropped}"
    arguments = ("--json", "--failed", "-P", ports, "-N", netns, "--backend", backend)
    with Tracer(*arguments, command="tracer") as tracer:
        for local, remote in ((other, dropped), (other, nobody), (kept, nobody), (0, kept)):
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind((V4, local))
                assert errno.ECONNREFUSED == sock.connect_ex((V4, remote))
        tracer.wait_for(rport=kept)
        stop_without_loss(tracer)
    assert [(kept, nobody), (tracer.events[-1]["lport"], kept)] == [
        (event["lport"], event["rport"]) for event in tracer.events
    ]


def test_what_was_open_comes_first(backend: Backend, netns: str) -> None:
    """With --existing, --failed and -d, what was open, and attempts that failed, go together."""
    need(backend, TRACER, switches=["--failed"])
    port, nobody = take_ports(2)
    ports = f"{port}-{nobody}"
    arguments = ("--json", "--existing", "--failed", "-d", "-P", ports, "--backend", backend)
    with (
        listen(V4, port) as server,
        connect(server) as client,
        server.accept()[0] as taken,
        Tracer(*arguments, "-N", netns, command="tracer") as tracer,
    ):
        tracer.wait_for(2, type="open")
        with socket.socket() as sock:
            assert errno.ECONNREFUSED == sock.connect_ex((V4, nobody))
        tracer.wait_for(outcome="refused")
        client.close()
        taken.close()
        tracer.wait_for(2, type="close")
        stop_without_loss(tracer)
    types = ["open", "open", "connect", "close", "close"]
    assert types == [event["type"] for event in tracer.events]


@pytest.mark.parametrize("protocol", [0, 262])
def test_text_marks_failed_attempts(backend: Backend, netns: str, protocol: int) -> None:
    """T is F for an attempt that failed, which is one over MPTCP, too."""
    need(backend, TRACER, switches=["--failed"])
    if protocol:
        need_mptcp()
    port = take_port()
    arguments = ("--failed", "-P", str(port), "-N", netns, "--backend", backend)
    with Tracer(*arguments, command="tracer") as tracer:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol) as sock:
            assert errno.ECONNREFUSED == sock.connect_ex((V4, port))
        with listen(V4, port) as server, connect(server):
            server.accept()[0].close()
            tracer.wait_until(lambda: "\nA" in tracer.stdout, "the accept")
        tracer.stop()
    header, first, second, *_ = tracer.stdout.splitlines()
    assert ["RESULT", "LAT(ms)"] == header.split()[-2:]
    assert ("F", "refused") == (first.split()[0], first.split()[-2])
    assert ("C", "established") == (second.split()[0], second.split()[-2])
