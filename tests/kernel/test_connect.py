"""`tcptrace connect` on real attempts, with every backend that this kernel has."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import dataclasses
import errno
import functools
import json
import mmap
import os
import re
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.backends import need, not_offered
from tests.kernel.bpfmaps import unlimited_memory
from tests.kernel.harness import TIME_SCALE, Event, Worker, eventually, limit, take_port
from tests.kernel.tracers import ROOM, Ended, Tracer, ended_well, plain
from tests.kernel.traffic import (
    DUAL,
    MPTCP,
    NO_DELAY_AT_CLOSE,
    NOWHERE,
    TCP_FASTOPEN_CONNECT,
    V4,
    V6,
    accept_what_is_not_tcp,
    connect,
    established,
    fast_open_at_once,
    ip,
    known,
    listen,
    namespace_id,
    need_mptcp,
    port_of,
    second_path,
    segments_sent_again,
    setting,
    task_fields,
)

from tcptrace.kernel import bpf, syscalls
from tcptrace.kernel.syscalls import libc, pack_attributes
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("connect")

# On our link: one that does not answer, and one that is not even there.
OURS, SILENT, ABSENT = "10.9.0.1", "10.9.0.77", "10.9.0.78"
OURS6, SILENT6 = "fd00:9::1", "fd00:9::77"
UNREACHABLE, PROHIBITED = "10.8.0.1", "10.7.0.1"
UNREACHABLE6 = "fd00:8::1"
MAPPED = "::ffff:"
# include/uapi/linux/bpf.h
PROG_ATTACH, PROG_DETACH = 8, 9
CGROUP_SKB, CGROUP_SOCK_ADDR = 8, 18
CGROUP_INET_EGRESS, CGROUP_INET4_CONNECT = 1, 10
MOST_WAITING = 4096  # ATTEMPTS in connect.bpf.c
MOST_COUNTS = 65536  # the size of the map `counts` in connect.bpf.c
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
SYN_RETRIES = Path("/proc/sys/net/ipv4/tcp_syn_retries")
STEPS = int(3_000 / min(TIME_SCALE, 10))
COARSE_NS = 2_000_000
"""How coarsely the kernel stamps a segment that was sent again."""
BURST = int(5_000 / min(TIME_SCALE, 5))


@pytest.fixture(scope="module", autouse=True)
def links(netns: str) -> Iterator[None]:
    """A link with a silent other end, and routes that fail."""
    ip("link add tt0 type veth peer name tt1")
    ip(f"address add {OURS}/24 dev tt0")
    ip(f"address add {OURS6}/64 dev tt0 nodad")
    ip("link set tt0 up")
    ip("link set tt1 up")
    for address in (SILENT, SILENT6):
        ip(f"neighbour replace {address} lladdr 02:00:00:00:00:77 dev tt0 nud permanent")
    ip(f"route add unreachable {UNREACHABLE}")
    ip(f"route add prohibit {PROHIBITED}")
    ip(f"route add unreachable {UNREACHABLE6}")
    yield
    ip("link delete tt0")
    for address in (UNREACHABLE, PROHIBITED, UNREACHABLE6):
        ip(f"route delete {address}")


def expected(
    remote: tuple[str, int],
    local: tuple[str, int] | None,
    error: str | None = None,
    **changes: object,
) -> Event:
    """Return the event that an attempt of this thread should give."""
    event = {"type": "connect", **task_fields(), "raddr": remote[0], "rport": remote[1]}
    event["family"] = 4 if "." in remote[0] else 6
    if local:
        event["laddr"], event["lport"] = local
    return {**event, "error": error, **changes}


def local_end(sock: socket.socket) -> tuple[str, int]:
    """Return a socket's own address and port, IPv4 without its mapped prefix."""
    address, port = sock.getsockname()[:2]
    return address.removeprefix(MAPPED), port


def attempt(address: str, port: int, *, blocking: bool = True, protocol: int = 0) -> Event:
    """Connect; return the event to expect of an attempt that leaves the host."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    remote = address.removeprefix(MAPPED)
    with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
        sock.setblocking(blocking)
        with contextlib.suppress(ConnectionRefusedError, BlockingIOError):
            sock.connect((address, port))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_DELAY_AT_CLOSE)
        own = {SILENT: OURS, ABSENT: OURS, SILENT6: OURS6}.get(
            remote, remote
        )  # a refused socket has none left
        return expected((remote, port), (own, local_end(sock)[1]))


def by_mptcp(address: str) -> Callable[[int], Event]:
    """Return a case: connect over MPTCP where nobody listens, or nobody is."""

    def case(port: int) -> Event:
        need_mptcp()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        own = {SILENT: OURS, SILENT6: OURS6}.get(address, address)
        with socket.socket(family, socket.SOCK_STREAM, MPTCP) as sock:
            sock.bind((own, take_port()))
            local = local_end(sock)
            sock.setblocking(own == address)
            assert sock.connect_ex((address, port)) in {errno.ECONNREFUSED, errno.EINPROGRESS}
        return expected((address, port), local)

    return case


def on_two_paths(port: int) -> Event:
    """Connect over MPTCP when the kernel adds a second path on its own."""
    need_mptcp()
    with (
        second_path(),
        listen(V4, port, MPTCP) as server,
        connect(server, protocol=MPTCP) as client,
        server.accept()[0] as taken,
    ):
        for one, other in ((client, taken), (taken, client)):
            one.sendall(b"data")
            other.recv(4)
        eventually(lambda: "127.0.0.2" in established(port), "the second path")
        return expected((V4, port), local_end(client))


@contextlib.contextmanager
def put_off(address: str, port: int) -> Iterator[socket.socket]:
    """Connect with TCP_FASTOPEN_CONNECT: the first write sends the SYN."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with fast_open_at_once(), socket.socket(family) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        sock.connect((address, port))
        yield sock


def sent_with_data(server: str) -> Callable[[int], Event]:
    """Return a case: connect by the first write."""

    def case(port: int) -> Event:
        with listen(server, port) as listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
            with put_off(server, port) as sock:
                sock.sendall(b"data")
                return expected((server, port), local_end(sock))

    return case


def failure(address: str, port: int, error: str, protocol: int = 0) -> Event:
    """Connect where the host itself refuses; return the event to expect."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, protocol) as sock:
        assert error == errno.errorcode[sock.connect_ex((address, port))]
    return expected((address.removeprefix(MAPPED), port), None, error)


def without_scope(port: int) -> Event:
    """Connect with the shortest address of IPv6, which has no scope (RFC 2133)."""
    address = struct.pack("=HHI", socket.AF_INET6, socket.htons(port), 0)
    address += socket.inet_pton(socket.AF_INET6, UNREACHABLE6)
    assert errno.EHOSTUNREACH == connect_raw(socket.AF_INET6, address)
    return expected((UNREACHABLE6, port), None, "EHOSTUNREACH")


def connect_raw(family: int, address: bytes) -> int:
    """Connect a socket to an address of any form; return the error."""
    with socket.socket(family) as sock:
        assert libc.connect(sock.fileno(), address, len(address))
    return ctypes.get_errno()


def no_free_port(port: int, protocol: int = 0) -> Event:
    """Connect when the only port of the range is taken."""
    only = take_port()
    with (
        listen(V4, port) as server,
        setting(PORT_RANGE, f"{only} {only}"),
        socket.socket() as holder,
    ):
        holder.bind((V4, only))
        event = failure(V4, port_of(server), "EADDRNOTAVAIL", protocol)
    return {**event, "laddr": V4}


def over_mptcp(case: Callable[..., Event], *arguments: Any) -> Callable[[int], Event]:
    """Return a case: as `case`, which takes a protocol, with MPTCP."""

    def with_mptcp(port: int) -> Event:
        need_mptcp()
        return case(*arguments[:1], port, *arguments[1:], protocol=MPTCP)

    return with_mptcp


def bound_to_port(port: int) -> Event:
    """Connect from a port that was chosen before."""
    with listen(V4, port) as server, socket.socket() as sock:
        sock.bind(("127.0.0.3", take_port()))
        sock.connect((V4, port_of(server)))
        return expected((V4, port), local_end(sock))


def connect_twice(port: int) -> Event:
    """Connect without blocking, then ask again: that is one attempt."""
    with listen(V4, port) as server, socket.socket() as sock:
        sock.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            sock.connect((V4, port_of(server)))
        assert sock.connect_ex((V4, port_of(server))) in {0, 106}
        return expected((V4, port), local_end(sock))


def connect_in_thread(port: int) -> Event:
    """Connect in a thread."""
    events: list[Event] = []
    thread = threading.Thread(target=lambda: events.append(to_server(V4, V4)(port)), daemon=True)
    thread.start()
    thread.join(limit(10))
    return events[0]


def fast_open(port: int) -> Event:
    """Send with MSG_FASTOPEN on a socket that is not connected."""
    with listen(V4, port), socket.socket() as sock:
        sock.sendto(b"early", socket.MSG_FASTOPEN, (V4, port))
        return expected((V4, port), local_end(sock))


def to_server(server: str, client: str, *, blocking: bool = True) -> Callable[[int], Event]:
    """Return a case: connect to `client`, where a server listens on `server`."""

    def case(port: int) -> Event:
        with listen(server, port):
            return attempt(client, port, blocking=blocking)

    return case


CASES: dict[str, Callable[[int], Event]] = {
    "IPv4": to_server(V4, V4),
    "IPv6": to_server(V6, V6),
    "IPv4-mapped": to_server(V4, MAPPED + V4),
    "IPv4-mapped, dual-stack server": to_server(DUAL, MAPPED + V4),
    "non-blocking": to_server(V4, V4, blocking=False),
    "non-blocking IPv6": to_server(V6, V6, blocking=False),
    "asked twice": connect_twice,
    "bound": bound_to_port,
    "thread": connect_in_thread,
    "fast open": fast_open,
    "forked": lambda port: Worker(lambda: to_server(V4, V4)(port)).run(),
    "refused": lambda port: attempt(V4, port),
    "refused IPv6": lambda port: attempt(V6, port),
    "refused non-blocking": lambda port: attempt(V4, port, blocking=False),
    "absent": lambda port: attempt(ABSENT, port, blocking=False),
    "silent": lambda port: attempt(SILENT, port, blocking=False),
    "silent IPv6": lambda port: attempt(SILENT6, port, blocking=False),
    "no route": lambda port: failure(NOWHERE, port, "ENETUNREACH"),
    "no route, IPv4-mapped": lambda port: failure(MAPPED + NOWHERE, port, "ENETUNREACH"),
    "unreachable": lambda port: failure(UNREACHABLE, port, "EHOSTUNREACH"),
    "unreachable IPv6": lambda port: failure(UNREACHABLE6, port, "EHOSTUNREACH"),
    "no scope": without_scope,
    "prohibited": lambda port: failure(PROHIBITED, port, "EACCES"),
    "no free port": no_free_port,
    "MPTCP, refused": by_mptcp(V4),
    "MPTCP, refused IPv6": by_mptcp(V6),
    "MPTCP, silent": by_mptcp(SILENT),
    "MPTCP, silent IPv6": by_mptcp(SILENT6),
    "MPTCP, no route": over_mptcp(failure, NOWHERE, "ENETUNREACH"),
    "MPTCP, unreachable IPv6": over_mptcp(failure, UNREACHABLE6, "EHOSTUNREACH"),
    "MPTCP, no free port": over_mptcp(no_free_port),
    "MPTCP on two paths": on_two_paths,
    "sent with data": sent_with_data(V4),
    "sent with data, IPv6": sent_with_data(V6),
}


@contextlib.contextmanager
def denying(
    cgroup: Path, kind: int = CGROUP_SOCK_ADDR, hook: int = CGROUP_INET4_CONNECT
) -> Iterator[None]:
    """Deny all IPv4 connects in a cgroup, or what else: the attached program returns 0."""
    with unlimited_memory():
        program = bpf.load_empty(kind, hook)
    directory = os.open(cgroup, os.O_RDONLY)
    attributes = pack_attributes("IIII", directory, program, hook, 0)
    syscalls.bpf(PROG_ATTACH, attributes)
    try:
        yield
    finally:
        syscalls.bpf(PROG_DETACH, attributes)
        os.close(directory)
        os.close(program)


def observed(tracer: Tracer, backend: Backend, port: int) -> list[Event]:
    """Return the events to a port of ours, when all until now has been shown."""
    marker = to_server(V4, V4)(take_port())
    tracer.wait_for(rport=marker["rport"], netns=marker["netns"])
    events = [plain(event) for event in tracer.where(rport=port, netns=namespace_id("net"))]
    assert {event.pop("backend") for event in events} <= {backend}
    return events


@pytest.fixture(scope="module")
def tracer(backend: Backend) -> Iterator[Tracer]:
    """A tracer of all attempts."""
    with Tracer("--json", "--backend", backend, *ROOM, command="connect") as running:
        yield running
        ended_well(running)


@pytest.mark.parametrize("case", CASES)
def test_attempt_is_shown_once_and_whole(tracer: Tracer, backend: Backend, case: str) -> None:
    """An attempt gives exactly one event, and every field of it is right."""
    port = take_port()
    event = CASES[case](port)
    event.pop("latency_ms", None)
    actual = observed(tracer, backend, port)
    for row in actual:
        row.pop("latency_ms", None)
    assert [known(event, backend)] == actual


@pytest.mark.parametrize("address", [SILENT, ABSENT])
def test_blocking_attempt_without_answer_shows_at_once(
    tracer: Tracer, backend: Backend, address: str
) -> None:
    """A blocking connect that nobody answers is shown while it waits, with its port."""
    port = take_port()
    sock = socket.socket()
    patience = struct.pack("ll", int(limit(0.3)) + 1, 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, patience)
    waiting = threading.Thread(target=lambda: sock.connect_ex((address, port)), daemon=True)
    waiting.start()
    (event,) = tracer.wait_for(rport=port)
    assert waiting.is_alive()
    assert (OURS, sock.getsockname()[1]) == (event["laddr"], event["lport"])
    waiting.join(limit(10))
    sock.close()
    assert 1 == len(observed(tracer, backend, port))


def test_what_was_put_off_and_never_sent_is_not_shown(tracer: Tracer, backend: Backend) -> None:
    """With TCP_FASTOPEN_CONNECT and no write, no SYN leaves and nothing is shown."""
    port = take_port()
    with listen(V4, port), put_off(V4, port):
        pass
    assert [] == observed(tracer, backend, port)


def test_what_was_put_off_is_shown_though_nobody_answers(tracer: Tracer, backend: Backend) -> None:
    """With TCP_FASTOPEN_CONNECT, an attempt without answer is shown once, and while it waits."""
    port = take_port()
    with put_off(SILENT, port) as sock:
        before = time.monotonic_ns()
        sock.settimeout(0)
        sock.send(b"data")
        (event,) = tracer.wait_for(rport=port)
        assert local_end(sock) == (event["laddr"], event["lport"])
        assert before - COARSE_NS <= event["ts_ns"]
    assert 1 == len(observed(tracer, backend, port))


def put_off_many(port: int, refused: int) -> None:
    """Put off more attempts than wait in the kernel otherwise, and connect where none listens."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (MOST_WAITING + 1000,) * 2)
    with contextlib.ExitStack() as stack, fast_open_at_once():
        for _ in range(MOST_WAITING + 100):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
            sock.connect((V4, port))
        attempt(V4, refused)


@pytest.mark.anywhere
def test_what_is_put_off_takes_no_place_from_others(backend: Backend, netns: str) -> None:
    """However many SYNs a process puts off, others' attempts are shown."""
    port, refused = take_port(), take_port()
    arguments = ("--json", "-N", netns, "--backend", backend)
    with Tracer(*arguments, command="connect") as tracer:
        Worker(lambda: put_off_many(port, refused)).run()
        tracer.wait_for(rport=refused)
        ended_well(tracer)
    assert [refused] == [event["rport"] for event in tracer.events]


def test_denied_by_a_cgroup_program(tracer: Tracer, backend: Backend, cgroup: Path) -> None:
    """An attempt that a cgroup's BPF program denies is shown with EPERM."""
    port = take_port()

    def connect() -> Event:
        (cgroup / "cgroup.procs").write_text(str(os.getpid()))
        return failure(V4, port, "EPERM")

    with denying(cgroup):
        event = Worker(connect).run()
    assert [known(event, backend)] == observed(tracer, backend, port)


NO_DESTINATIONS = {
    "Unix": (struct.pack("=H30s", socket.AF_UNIX, b"/run/socket"), errno.EAFNOSUPPORT),
    "cut": (struct.pack("=HHI8s", socket.AF_INET6, 80, 0, b"\xfd"), errno.EINVAL),
}


@pytest.mark.parametrize("form", NO_DESTINATIONS)
def test_what_is_no_address_is_no_destination(tracer: Tracer, backend: Backend, form: str) -> None:
    """Of an address of another family, or one that is too short, nothing is guessed."""
    if form == "cut" and backend != "tracepoint":
        not_offered("the length of an address with the kernel's functions")
    if backend == "ftrace":
        not_offered("attempts to what is no address, with ftrace")
    address, error = NO_DESTINATIONS[form]
    family = socket.AF_INET if form == "Unix" else socket.AF_INET6
    assert error == Worker(lambda: connect_raw(family, address)).run()
    (event,) = tracer.wait_for(error=errno.errorcode[error])
    assert {"raddr", "rport"}.isdisjoint(event)


def test_other_protocols_are_not_shown(tracer: Tracer, tmp_path: Path) -> None:
    """Unix sockets and UDP give no event."""
    before = len(tracer.where(pid=os.getpid()))
    accept_what_is_not_tcp(tmp_path)
    marker = to_server(V4, V4)(take_port())
    tracer.wait_for(rport=marker["rport"])
    assert before + 1 == len(tracer.where(pid=os.getpid()))


def test_burst_is_whole(tracer: Tracer) -> None:
    """Attempts at full speed are all shown, each once."""
    port = take_port()
    ports = []
    with listen(V4, port) as server:
        server.settimeout(limit(10))
        for _ in range(BURST):
            with socket.create_connection((V4, port)) as client:
                ports.append(client.getsockname()[1])
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_DELAY_AT_CLOSE)
            server.accept()[0].close()
    events = tracer.wait_for(BURST, rport=port)
    assert ports == [event["lport"] for event in events]


@dataclasses.dataclass(frozen=True, slots=True)
class Fate:
    """An attempt and how it is to end."""

    make: Callable[[int], object]
    outcome: str
    error: str | None = None


def killed_while_connecting(port: int) -> None:
    """Kill a process that connects to a silent peer."""
    pid = os.fork()
    if pid == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            socket.socket().connect((SILENT, port))
        finally:
            os._exit(0)
    assert signal.SIGALRM == os.WTERMSIG(os.waitpid(pid, 0)[1])


def closed_while_connecting(port: int) -> None:
    """Close a non-blocking socket before its peer has answered."""
    attempt(SILENT, port, blocking=False)


FATES = {
    "established": Fate(to_server(V4, V4), "established"),
    "established IPv6": Fate(to_server(V6, V6), "established"),
    "refused": Fate(lambda port: attempt(V4, port), "refused", "ECONNREFUSED"),
    "unreachable": Fate(
        lambda port: failure(NOWHERE, port, "ENETUNREACH"), "unreachable", "ENETUNREACH"
    ),
    "no free port": Fate(no_free_port, "error", "EADDRNOTAVAIL"),
    "MPTCP established": Fate(on_two_paths, "established"),
    "MPTCP refused": Fate(by_mptcp(V4), "refused", "ECONNREFUSED"),
    "MPTCP refused IPv6": Fate(by_mptcp(V6), "refused", "ECONNREFUSED"),
    "MPTCP unreachable": Fate(
        over_mptcp(failure, NOWHERE, "ENETUNREACH"), "unreachable", "ENETUNREACH"
    ),
    "MPTCP no free port": Fate(over_mptcp(no_free_port), "error", "EADDRNOTAVAIL"),
    "MPTCP closed": Fate(by_mptcp(SILENT), "aborted"),
    "killed": Fate(killed_while_connecting, "aborted"),
    "closed": Fate(closed_while_connecting, "aborted"),
}


BEFORE_THE_SYN = {"ENETUNREACH", "EADDRNOTAVAIL"}


@pytest.fixture(scope="module")
def outcomes(backend: Backend) -> Iterator[Tracer]:
    """A tracer of how attempts end."""
    need(backend, CONNECT, switches=["CONNECT_OUTCOME"])
    arguments = ("--json", "--outcome", "--backend", backend, *ROOM)
    with Tracer(*arguments, command="connect") as running:
        yield running
        ended_well(running)


@pytest.mark.parametrize("fate", FATES)
def test_outcome(outcomes: Tracer, fate: str) -> None:
    """An attempt is shown once, when it has ended, with how, and how long after its SYN."""
    port = take_port()
    FATES[fate].make(port)
    marker = take_port()
    to_server(V4, V4)(marker)
    outcomes.wait_for(rport=marker)
    (event,) = outcomes.where(rport=port)
    assert (FATES[fate].outcome, FATES[fate].error) == (event["outcome"], event["error"])
    assert ("latency_ms" in event) == (event["error"] not in BEFORE_THE_SYN)


def test_timeout_and_retransmission(outcomes: Tracer) -> None:
    """A connect that gives up is a timeout, with its latency and the SYNs that were sent again."""
    port = take_port()
    before = segments_sent_again()
    with socket.socket() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
        assert errno.ETIMEDOUT == sock.connect_ex((SILENT, port))
    (event,) = outcomes.wait_for(rport=port)
    assert ("timeout", "ETIMEDOUT") == (event["outcome"], event["error"])
    assert segments_sent_again() - before == event["retransmits"] > 0
    assert 2000 < event["latency_ms"] < limit(10_000)


@pytest.mark.parametrize("address", [SILENT, SILENT6])
def test_mptcp_that_nobody_answers_is_one_timeout(outcomes: Tracer, address: str) -> None:
    """An attempt over MPTCP that the kernel gives up is shown once."""
    need_mptcp()
    port, family = take_port(), socket.AF_INET6 if ":" in address else socket.AF_INET
    with (
        setting(SYN_RETRIES, "1"),
        socket.socket(family, socket.SOCK_STREAM, MPTCP) as sock,
    ):
        assert errno.ETIMEDOUT == sock.connect_ex((address, port))
    to_server(V4, V4)(marker := take_port())
    outcomes.wait_for(rport=marker)
    (event,) = outcomes.where(rport=port)
    assert ("timeout", "ETIMEDOUT") == (event["outcome"], event["error"])


@pytest.mark.parametrize("address", [V4, V6])
@pytest.mark.parametrize("outcome", ["established", "refused"])
def test_latency_runs_from_the_syn(outcomes: Tracer, outcome: str, address: str) -> None:
    """Where the first write sends the SYN (TCP_FASTOPEN_CONNECT), time and latency are its."""
    port = take_port()
    with contextlib.ExitStack() as stack:
        if outcome == "established":
            server = stack.enter_context(listen(address, port))
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        sock = stack.enter_context(put_off(address, port))
        before = time.monotonic_ns()
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"data")
            sock.recv(1) if outcome == "refused" else None
        (event,) = outcomes.wait_for(rport=port)
        after = time.monotonic_ns()
    assert outcome == event["outcome"]
    assert before <= event["ts_ns"]
    assert 0 < event["latency_ms"] * 1e6 <= after - before


def counted(*options: str, backend: Backend) -> Ended:
    """Count attempts: three to one port over IPv4, one over IPv6, one that fails."""
    ports = take_port(), take_port()
    with Tracer("-c", "--backend", backend, *options, command="connect") as tracer:
        with listen(V4, ports[0]):
            for _ in range(3):
                attempt(V4, ports[0])
        attempt(V6, ports[1])
        failure(NOWHERE, ports[1], "ENETUNREACH")
        return tracer.stop(signal.SIGTERM)


def test_counts(backend: Backend) -> None:
    """Counts are printed on SIGTERM, highest first, in one table; the summary has their sum."""
    need(backend, CONNECT, switches=["CONNECT_COUNTS"])
    ended = counted("-N", "/proc/self/ns/net", backend=backend)
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert ["LADDR", "RADDR", "RPORT", "CONNECTS"] == lines[0]
    assert [V4, V4, "3"] == [lines[1][0], lines[1][1], lines[1][3]]
    assert {(V6, V6, "1"), ("-", NOWHERE, "1")} == {
        (line[0], line[1], line[3]) for line in lines[2:]
    }
    assert (0, (5, 0)) == (ended.status, ended.summary)
    assert "tcptrace: 5 attempts in" in ended.stderr


@pytest.mark.anywhere
def test_counts_begin_on_a_line_of_their_own() -> None:
    """A terminal has echoed ^C when the table comes; it is rich's there."""
    terminal = os.openpty()[::-1]
    options = ("-c", "-P", str(take_port()))
    with Tracer(*options, command="connect", stdout=terminal, env={"TERM": "xterm"}) as tracer:
        lines = tracer.stop().stdout.splitlines()
    assert "" == lines[0]
    assert "LADDR" in lines[1]
    assert "───" in lines[2]


@pytest.mark.anywhere
@pytest.mark.parametrize("form", ["text", "csv"])
def test_counts_at_intervals_have_their_time(form: str) -> None:
    """In a pipe a table of text begins with the time, and CSV has a column for it."""
    port = take_port()
    options = ("-c", "--interval", "0.2s", "-P", str(port), "-o", form)
    with Tracer(*options, command="connect") as tracer:
        attempt(V4, port)
        tracer.wait_until(lambda: tracer.stdout.count(V4) >= 2 * 2, "two tables")
        ended = tracer.stop()
    if form == "text":
        pattern = rf"(\d\d:\d\d:\d\d\nLADDR .*\n({V4} +{V4} +{port} +1\n)?)+"
    else:
        pattern = rf"time,laddr,raddr,rport,connects\n(\d\d:\d\d:\d\d,{V4},{V4},{port},1\n)+"
    assert re.fullmatch(pattern, ended.stdout.replace("\r\n", "\n"))
    assert (1, 0) == ended.summary


def test_counts_are_exact_where_processes_reach_a_new_key_together(backend: Backend) -> None:
    """Two processes that count to the same destinations in step are both counted."""
    need(backend, CONNECT, switches=["CONNECT_COUNTS"])
    ports = range(1024, 1024 + STEPS)
    steps = mmap.mmap(-1, mmap.PAGESIZE)

    def count(mine: int) -> None:
        for step, port in enumerate(ports):
            steps[4 * mine : 4 * mine + 4] = step.to_bytes(4, "little")
            while int.from_bytes(steps[4 - 4 * mine : 8 - 4 * mine], "little") < step:
                pass
            with socket.socket() as sock:
                assert errno.ECONNREFUSED == sock.connect_ex((V4, port))

    arguments = ("-c", "--json", "-N", "/proc/self/ns/net", "--backend", backend)
    with Tracer(*arguments, command="connect") as tracer:
        workers = [Worker(functools.partial(count, mine)) for mine in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.result()
        ended = tracer.stop()
    assert (0, (2 * STEPS, 0)) == (ended.status, ended.summary)
    assert {(port, 2) for port in ports} == {
        (event["rport"], event["connects"]) for event in tracer.events
    }


@pytest.mark.parametrize("protocol", [0, MPTCP])
def test_a_refused_attempt_counts_once(backend: Backend, protocol: int) -> None:
    """-c counts an attempt that is refused once, over MPTCP, too."""
    need(backend, CONNECT, switches=["CONNECT_COUNTS"])
    if protocol:
        need_mptcp()
    port = take_port()
    arguments = ("-c", "--json", "-P", str(port), "--backend", backend)
    with Tracer(*arguments, command="connect") as tracer:
        attempt(V4, port, protocol=protocol)
        attempt(V6, port, protocol=protocol)
        ended_well(tracer)
    assert [1, 1] == [event["connects"] for event in tracer.events]


@pytest.mark.anywhere
def test_counts_by_source_port_as_csv() -> None:
    """-s counts by source port, too, with every output format and filter."""
    port = take_port()
    with (
        Tracer("-c", "-s", "-o", "csv", "-P", str(port), command="connect") as tracer,
        listen(V4, port) as server,
        connect(server) as one,
        connect(server) as two,
    ):
        ports = [client.getsockname()[1] for client in (one, two)]
        attempt(V4, take_port())
        ended = tracer.stop()
    header, *rows = csv.reader(ended.stdout.splitlines())
    assert ["laddr", "lport", "raddr", "rport", "connects"] == header
    assert sorted([V4, str(source), V4, str(port), "1"] for source in ports) == sorted(rows)


@pytest.mark.anywhere
def test_counts_at_intervals() -> None:
    """--interval prints the counts so far again and again, and --duration the last of them."""
    port = take_port()
    options = ("-c", "--interval", "0.2s", "--duration", "1s", "-P", str(port), "--json")
    with Tracer(*options, command="connect") as tracer, listen(V4, port) as server:
        with connect(server):
            tracer.wait_for(rport=port, connects=1)
        with connect(server):
            assert 0 == tracer.ended().status
    counts = [event["connects"] for event in tracer.where(rport=port)]
    assert {1, 2} == set(counts)
    assert sorted(counts) == counts


@pytest.mark.anywhere
def test_counts_that_find_no_room_are_said() -> None:
    """When there are more destinations than the kernel's table holds, the summary has how many."""
    port, more = take_port(), 100
    arguments = ("-c", "-P", str(port), "-N", "/proc/self/ns/net", "--json")
    with Tracer(*arguments, command="connect") as tracer:
        for number in range(MOST_COUNTS + more):
            with socket.socket() as sock:
                address = f"127.{1 + number // 65025}.{number // 255 % 255}.{1 + number % 255}"
                assert errno.ECONNREFUSED == sock.connect_ex((address, port))
        ended = tracer.stop()
    assert f"{more} not tracked" in ended.stderr
    assert MOST_COUNTS == len(tracer.events)


def test_what_a_baseline_has_is_left_out(backend: Backend, tmp_path: Path) -> None:
    """--new-since shows an attempt to another port, and not one that was made before."""
    old, new = listen(), listen()
    name = Path("/proc/self/comm").read_text(encoding="ascii").rstrip("\n")
    edge = {"type": "edge", "program": name, "network": "127.0.0.0/24", "port": port_of(old)}
    base = tmp_path / "base"
    base.write_text(json.dumps({**edge, "attempts": 1, "failed": 0}) + "\n", encoding="ascii")
    ours = ("--backend", backend, "-p", str(os.getpid()), "--json")
    with old, new, Tracer(*ours, "--new-since", str(base), command="connect") as tracer:
        for server in (old, new):
            connect(server).close()
        (event,) = tracer.wait_for(1, type="connect")
        assert port_of(new) == event["rport"]
        assert 0 == tracer.stop().status
    assert 1 == len(tracer.events)


@pytest.mark.anywhere
def test_what_a_baseline_lacks_can_fail(tmp_path: Path) -> None:
    """--new-since with --fail: the status is 3 after an attempt that is new, and 0 after others."""
    name = Path("/proc/self/comm").read_text(encoding="ascii").rstrip("\n")
    base = tmp_path / "base"
    with listen() as old, listen() as new:
        edge = {"type": "edge", "program": name, "network": "127.0.0.0/24", "port": port_of(old)}
        base.write_text(json.dumps({**edge, "attempts": 1, "failed": 0}) + "\n", encoding="ascii")
        fails = ("-p", str(os.getpid()), "--json", "--new-since", str(base), "--fail")
        for status, server in {0: old, 3: new}.items():
            with Tracer(*fails, command="connect") as tracer:
                connect(server).close()
                assert status == tracer.stop().status
            ports = [event["rport"] for event in tracer.events]
            assert [port_of(new)] * (status == 3) == ports
