"""`tcptrace tracer` on real connections, with every backend that this kernel has."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import errno
import functools
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from tests.kernel.bpfmaps import pinned
from tests.kernel.harness import (
    FROM_BTF,
    TIME_SCALE,
    Event,
    Tracer,
    Worker,
    ended_well,
    eventually,
    limit,
    need,
    not_offered,
    plain,
    take_port,
    take_ports,
)
from tests.kernel.traffic import (
    BACKLOG,
    DUAL,
    FAST_OPEN,
    FAST_OPEN_AT_ONCE,
    MPTCP,
    NAME,
    NOBODY,
    TCP_FASTOPEN_CONNECT,
    V4,
    V6,
    Actor,
    accept_once,
    cast,
    comm,
    connect,
    established,
    fast_open_at_once,
    in_namespace,
    ip,
    known,
    listen,
    namespace_id,
    near_misses,
    need_mptcp,
    port_of,
    reset,
    second_path,
    segments_sent_again,
    task_fields,
)

from tcptrace.kernel.netns import NAMED, enter
from tcptrace.kernel.syscalls import libc
from tcptrace.probes.probe import Backend
from tcptrace.probes.tracer.probe import TRACER

pytestmark = pytest.mark.command("tracer")

BURST = int(20_000 / min(TIME_SCALE, 10))
RESETS = int(10_000 / min(TIME_SCALE, 10))
RENEWAL_S = 0.001
IDLE = int(2_000 / min(TIME_SCALE, 10))
CONTAINER = "0123456789abcdef" * 4
SCOPE = f"docker-{CONTAINER}.scope"
OURS, THEIRS = "10.8.1.1", "10.8.1.2"
THEIR_MAC, NO_MAC = "02:00:00:00:00:02", "02:00:00:00:00:99"
TCP_SYN_RECV = 3  # include/net/tcp_states.h
MAPPED = "::ffff:"
TIMES = {"duration_ms", "latency_ms"}
UNIT = b"u" * 1000
ANY_FIGURES = dict.fromkeys(("tx_bytes", "rx_bytes", "retransmits"), ANY)
# Longer than TIME_WAIT: the kernel keeps the whole socket until the FIN comes.
LINGER2_S = 120
SOCKADDR_UNSPEC = struct.pack("16x")


def unmapped(address: str) -> str:
    """Return an IPv4-mapped address as IPv4."""
    return address.removeprefix(MAPPED)


def ends(sock: socket.socket) -> Event:
    """Return both ends of a connected socket, as its events should have them."""
    laddr, lport = sock.getsockname()[:2]
    raddr, rport = sock.getpeername()[:2]
    local, remote = unmapped(laddr), unmapped(raddr)
    family = 4 if "." in local else 6
    return {"family": family, "laddr": local, "lport": lport, "raddr": remote, "rport": rport}


def opened(sock: socket.socket) -> Event:
    """Return the event that this thread's connect of `sock` should give."""
    outcome = {"error": None, "outcome": "established"}
    return {"type": "connect", **task_fields(), **ends(sock), **outcome}


def accepted(sock: socket.socket) -> Event:
    """Return the event that this thread's accept of `sock` should give."""
    queue = {"backlog": 0, "backlog_max": BACKLOG}
    return {"type": "accept", **task_fields(), **ends(sock), **queue}


def closed(begin: Event, ended_by: str, tx: int = 0, rx: int = 0, **changes: object) -> Event:
    """Return the event at the end of the connection that `begin` began."""
    outside = ("error", "outcome", "backlog", "backlog_max")
    same = {key: value for key, value in begin.items() if key not in outside}
    counters = {"tx_bytes": tx, "rx_bytes": rx, "retransmits": 0}
    return {**same, "type": "close", "ended_by": ended_by, **counters, **changes}


def cut_off(begin: Event, **changes: object) -> Event:
    """Return the event of a connection that its peer has reset."""
    return {**closed(begin, "reset"), "error": "ECONNRESET", "closer": "owner", **changes}


def pair(
    port: int, server: str = V4, client: str = "", protocol: int = 0
) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection, made by this thread: the client's and the server's."""
    with listen(server, port, protocol) as listener:
        near = connect(listener, client or server, protocol)
        return near, listener.accept()[0]


def receive(sock: socket.socket, size: int) -> None:
    """Receive exactly `size` bytes."""
    sock.settimeout(limit(10))
    while size:
        size -= len(sock.recv(size))


def until_closed(sock: socket.socket) -> None:
    """Wait for the peer's FIN."""
    sock.settimeout(limit(10))
    assert b"" == sock.recv(1)


def exchange(
    server: str = V4, client: str = "", *, server_closes: bool = False, protocol: int = 0
) -> Callable[[int], list[Event]]:
    """Return a case: three units of payload to the server, two back, and both ends close."""

    def case(port: int) -> list[Event]:
        near, far = pair(port, server, client, protocol)
        begin, taken = opened(near), accepted(far)
        near.sendall(UNIT * 3)
        receive(far, 3 * len(UNIT))
        far.sendall(UNIT * 2)
        receive(near, 2 * len(UNIT))
        first, second = (far, near) if server_closes else (near, far)
        first.close()
        until_closed(second)
        second.close()
        by = ("remote", "local") if server_closes else ("local", "remote")
        return [
            begin,
            taken,
            closed(begin, by[0], 3 * len(UNIT), 2 * len(UNIT)),
            closed(taken, by[1], 2 * len(UNIT), 3 * len(UNIT)),
        ]

    return case


def in_background(port: int) -> list[Event]:
    """Connect without blocking, so that a softirq finishes the handshake, and close."""
    with listen(V4, port) as listener, socket.socket() as near:
        near.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            near.connect((V4, port))
        far = listener.accept()[0]
        begin, taken = opened(near), accepted(far)
        near.settimeout(limit(10))
        near.close()
        until_closed(far)
        far.close()
    return [begin, taken, closed(begin, "local"), closed(taken, "remote")]


def left_open(port: int) -> list[Event]:
    """Connect in a process that ends without closing."""

    def client() -> Event:
        near = socket.create_connection((V4, port))
        begin = opened(near)
        near.detach()
        return begin

    with listen(V4, port) as listener:
        begin = Worker(client).run()
        far = listener.accept()[0]
        taken = accepted(far)
        until_closed(far)
        far.close()
    return [begin, taken, closed(begin, "local"), closed(taken, "remote")]


def killed(port: int) -> list[Event]:
    """Kill a process that has accepted a connection."""
    with listen(V4, port) as listener:
        reading, writing = socket.socketpair()

        def serve() -> None:
            far = listener.accept()[0]
            writing.sendall(json.dumps(accepted(far)).encode())
            signal.pause()

        worker = Worker(serve)
        worker.start()
        near = connect(listener)
        begin = opened(near)
        taken = json.loads(reading.recv(4096))
        os.kill(worker.pid, signal.SIGKILL)
        until_closed(near)
        near.close()
        with pytest.raises(AssertionError, match="died"):
            worker.result()
        reading.close()
        writing.close()
    return [begin, taken, closed(begin, "remote"), closed(taken, "local")]


def reset_by_peer(port: int) -> list[Event]:
    """Reset a connection that its other end still has."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)
    reset(near)
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    far.close()
    return [begin, taken, closed(begin, "local"), cut_off(taken)]


def reset_after_half_close(port: int) -> list[Event]:
    """Reset a connection whose other end has sent its FIN and goes on reading."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)
    far.shutdown(socket.SHUT_WR)
    until_closed(near)
    reset(near)
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    far.close()
    far_end = closed(taken, "reset", error="ECONNRESET")  # by this process: it sent the FIN
    return [begin, taken, closed(begin, "remote"), far_end]


def unread_data(port: int) -> list[Event]:
    """Close with data unread, which resets the connection."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)
    near.sendall(UNIT)
    while not far.recv(1, socket.MSG_PEEK):
        pass
    far.close()
    with pytest.raises(ConnectionResetError):
        near.recv(1)
    near.close()
    size = len(UNIT)
    return [begin, taken, cut_off(begin, tx_bytes=size), closed(taken, "local", rx=size)]


def half_closed(port: int) -> list[Event]:
    """Send a FIN, receive what comes, and close."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)
    near.shutdown(socket.SHUT_WR)
    until_closed(far)
    far.sendall(UNIT)
    far.close()
    receive(near, len(UNIT))
    until_closed(near)
    near.close()
    size = len(UNIT)
    return [begin, taken, closed(begin, "local", rx=size), closed(taken, "remote", tx=size)]


def inherited(port: int) -> list[Event]:
    """Let a child close, as the last, what its parent connected."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)

    def child() -> Event:
        far.close()
        task = task_fields()
        near.close()
        return task

    worker = Worker(child)
    near.close()
    worker.start()
    until_closed(far)
    far.close()
    return [begin, taken, closed({**begin, **worker.result()}, "local"), closed(taken, "remote")]


def finished_by_another(port: int) -> list[Event]:
    """Let a child send the FIN of what its parent then closes."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)

    def child() -> Event:
        near.shutdown(socket.SHUT_WR)
        return task_fields()

    task = Worker(child).run()
    until_closed(far)
    far.close()
    near.close()
    return [begin, taken, closed({**begin, **task}, "local"), closed(taken, "remote")]


def closed_in_thread(port: int) -> list[Event]:
    """Close in another thread than the one that connected."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)
    tasks = []

    def close() -> None:
        tasks.append(task_fields())
        near.close()

    thread = threading.Thread(target=close)
    thread.start()
    thread.join(limit(10))
    until_closed(far)
    far.close()
    return [begin, taken, closed({**begin, **tasks[0]}, "local"), closed(taken, "remote")]


def refused(port: int) -> list[Event]:
    """Connect where nobody listens, blocking or not."""
    for blocking in (True, False):
        with socket.socket() as near:
            near.setblocking(blocking)
            assert near.connect_ex((V4, port)) in {errno.ECONNREFUSED, errno.EINPROGRESS}
    return []


def used_again(port: int) -> list[Event]:
    """Connect, disconnect with AF_UNSPEC, and connect the same socket again."""
    events = []
    with listen(V4, port) as listener, connect(listener) as near:
        for turn in ("disconnect", "close"):
            far = listener.accept()[0]
            begin, taken = opened(near), accepted(far)
            if turn == "disconnect":
                disconnect(near)
                near.connect((V4, port))
                events += [begin, taken, closed(begin, "local"), cut_off(taken)]
            else:
                near.close()
                until_closed(far)
                events += [begin, taken, closed(begin, "local"), closed(taken, "remote")]
            far.close()
    return events


def disconnect(sock: socket.socket) -> None:
    """Disconnect a socket: connect(2) with an address of the family AF_UNSPEC."""
    assert 0 == libc.connect(sock.fileno(), SOCKADDR_UNSPEC, len(SOCKADDR_UNSPEC))


def to_itself(port: int) -> list[Event]:
    """Connect a socket to itself, which is a simultaneous open."""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((V4, port))
        sock.connect((V4, port))
        begin = opened(sock)
        sock.sendall(UNIT)
        receive(sock, len(UNIT))
    return [begin, closed(begin, "local", len(UNIT), len(UNIT))]


def fast_open(port: int) -> list[Event]:
    """Send data with the SYN, to a server that takes it from there."""
    with fast_open_at_once(), listen(V4, port) as listener, socket.socket() as near:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        near.sendto(UNIT, socket.MSG_FASTOPEN, (V4, port))
        far = listener.accept()[0]
        begin, taken = opened(near), accepted(far)
        receive(far, len(UNIT))
        near.close()
        until_closed(far)
        far.close()
    size = len(UNIT)
    return [begin, taken, closed(begin, "local", tx=size), closed(taken, "remote", rx=size)]


def put_off_for_good(port: int) -> list[Event]:
    """Put the SYN off until the first write (TCP_FASTOPEN_CONNECT), and never write."""
    with fast_open_at_once(), listen(V4, port), socket.socket() as near:
        near.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        near.connect((V4, port))
    return []


def reset_after_close(port: int) -> list[Event]:
    """Reset a connection whose other end was closed and waits for the FIN."""
    near, far = pair(port)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, LINGER2_S)
    begin, taken = opened(near), accepted(far)
    near.close()
    until_closed(far)
    reset(far)
    closes = closed(begin, "local", error="ECONNRESET"), closed(taken, "remote")
    return [begin, taken, *closes]


def reset_while_another_uses_it(port: int) -> list[Event]:
    """Reset connections while a child holds their locks most of the time, receiving from them."""
    events = []
    with listen(V4, port) as listener:
        for _ in range(10):
            near = connect(listener)
            far = listener.accept()[0]
            begin, taken = opened(near), accepted(far)
            child = Worker(functools.partial(receive_until_reset, near, far))
            child.start()
            far.sendall(bytes(1 << 22))
            reset(far)
            child.result()
            near.close()
            events += [begin, taken, {**cut_off(begin), **ANY_FIGURES}]
            events += [{**closed(taken, "local"), **ANY_FIGURES}]
    return events


def receive_until_reset(sock: socket.socket, peer: socket.socket) -> None:
    """Receive all that comes, in a forked process that has inherited both ends."""
    peer.close()
    buffer = bytearray(1 << 22)
    with contextlib.suppress(ConnectionError):
        while sock.recv_into(buffer):
            pass


def collected(port: int) -> list[Event]:
    """Leave a connection in the queue of a socket that is in its own queue, and have it collected.

    The kernel does that in a thread of its own, or in the process that happens to ask for it.
    """
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)
    one, other = socket.socketpair()
    socket.send_fds(one, [b"x"], [other.fileno(), near.fileno()])
    for sock in (near, one, other):
        sock.close()
    far.settimeout(0)

    def has_ended() -> bool:
        for sock in socket.socketpair():  # asks for it
            sock.close()
        with contextlib.suppress(BlockingIOError):
            return far.recv(1) == b""
        return False

    eventually(has_ended, "the socket collected")
    far.close()
    return [begin, taken, closed(begin, "local"), closed(taken, "remote")]


def never_accepted(port: int) -> list[Event]:
    """Close a listener with a connection in its queue."""
    listener = listen(V4, port)
    near = connect(listener)
    begin = opened(near)
    listener.close()
    with pytest.raises(ConnectionResetError):
        near.recv(1)
    near.close()
    return [begin, cut_off(begin)]


def reset_before_accept(port: int) -> list[Event]:
    """Accept a connection that its client has reset while it waited."""
    with listen(V4, port) as listener:
        near = connect(listener)
        begin = opened(near)
        peer = {"laddr": V4, "lport": port, "raddr": V4, "rport": port_of(near)}
        reset(near)
        listener.accept()[0].close()
    taken = {"type": "accept", **task_fields(), "family": 4, **peer}
    taken |= {"backlog": 0, "backlog_max": BACKLOG}
    return [begin, closed(begin, "local"), taken, cut_off(taken)]


def destroyed(port: int) -> list[Event]:
    """Let an administrator break a connection off with ``ss --kill``."""
    near, far = pair(port)
    begin, taken = opened(near), accepted(far)
    kill = ["ss", "--kill", "-Htn", "dport", "=", f":{port}"]
    subprocess.run(kill, check=True, capture_output=True)
    error = near.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    near.close()
    if not error:
        far.close()
        not_offered("this kernel has no CONFIG_INET_DIAG_DESTROY")
    with pytest.raises(ConnectionResetError):
        far.recv(1)
    far.close()
    near_end = closed(begin, "local", error="ECONNABORTED", closer="owner")
    return [begin, taken, near_end, cut_off(taken)]


def on_mptcp(port: int) -> list[Event]:
    """Exchange data over MPTCP."""
    need_mptcp()
    return exchange(protocol=MPTCP)(port)


def on_two_paths(port: int) -> list[Event]:
    """Exchange data over MPTCP when the kernel adds a second path on its own."""
    need_mptcp()
    with (
        second_path(),
        listen(V4, port, MPTCP) as listener,
        connect(listener, protocol=MPTCP) as near,
    ):
        far = listener.accept()[0]
        begin, taken = opened(near), accepted(far)
        for one, other in ((near, far), (far, near)):
            one.sendall(UNIT)
            receive(other, len(UNIT))
        eventually(lambda: "127.0.0.2" in established(port), "the second path")
        near.close()
        until_closed(far)
        far.close()
    closes = closed(begin, "local"), closed(taken, "remote")
    return [begin, taken, *({**event, **ANY_FIGURES} for event in closes)]


CASES: dict[str, Callable[[int], list[Event]]] = {
    "IPv4": exchange(),
    "IPv4, the server closes": exchange(server_closes=True),
    "IPv6": exchange(V6),
    "IPv4-mapped": exchange(DUAL, MAPPED + V4),
    "IPv4-mapped on a dual-stack server": exchange(DUAL, V4),
    "established in a softirq": in_background,
    "left open at exit": left_open,
    "killed": killed,
    "reset by the peer": reset_by_peer,
    "reset after a half-close": reset_after_half_close,
    "unread data": unread_data,
    "half-closed": half_closed,
    "inherited": inherited,
    "finished by another": finished_by_another,
    "closed in a thread": closed_in_thread,
    "refused": refused,
    "used again": used_again,
    "to itself": to_itself,
    "fast open": fast_open,
    "put off for good": put_off_for_good,
    "never accepted": never_accepted,
    "reset before the accept": reset_before_accept,
    "reset after a close": reset_after_close,
    "reset while another uses it": reset_while_another_uses_it,
    "destroyed": destroyed,
    "MPTCP": on_mptcp,
    "MPTCP on two paths": on_two_paths,
}


def timeless(event: Event) -> Event:
    """Return `event` without what no test can foretell."""
    return {key: value for key, value in plain(event).items() if key not in TIMES | {"backend"}}


def in_order(events: list[Event]) -> list[Event]:
    """Return events by end of a connection; at each end they keep their order."""
    return sorted(events, key=lambda event: (event["lport"], event["rport"]))


def seen(tracer: Tracer, port: int, count: int = 0) -> list[Event]:
    """Return the events of a server's port, when all that happened until now has been shown.

    There are to be `count` of them. An X can come later than what was made after it: as late as
    the peer's answer to the last segment, which may have to be sent again.
    """

    def found() -> list[Event]:
        return [one for one in tracer.events if port in (one["lport"], one["rport"])]

    tracer.wait_until(lambda: len(found()) >= count, f"{count} events of port {port}")
    marker = accept_once()["lport"]
    tracer.wait_for(type="close", lport=marker)
    tracer.wait_for(type="close", rport=marker)
    return found()


def after_exit(begin: Event, ended_by: str) -> Event:
    """Return the event of an older connection that is closed at exit: namespaces are gone."""
    event = closed(begin, ended_by)
    event.pop("mntns", None)
    return event


class Older:
    """Connections that are open before the trace begins, and what is to become of them."""

    def __init__(self) -> None:
        """Connect."""
        self.ended = False
        self.orphan = pair(take_port())
        self.orphan_port, self.orphan_peer = map(port_of, self.orphan)
        self.orphan[0].setsockopt(socket.IPPROTO_TCP, socket.TCP_LINGER2, LINGER2_S)
        self.orphan[0].close()
        until_closed(self.orphan[1])
        self.to_close, self.to_reset, self.to_leave = (pair(take_port()) for _ in range(3))
        self._leaver = Worker(lambda: {**self.begin(self.to_leave[0]), **task_fields()})
        self.to_leave[0].close()

    def begin(self, sock: socket.socket) -> Event:
        """Return what events of this thread's `sock` have in common."""
        return {**task_fields(), **ends(sock)}

    def end(self) -> list[Event]:
        """Close them; return the events to expect where nothing is known of their beginning."""
        self.ended = True
        left = self._leaver.run()
        far = self.to_leave[1]
        events = [after_exit(left, "local"), closed(self.begin(far), "remote")]
        until_closed(far)
        far.close()
        near, far = self.to_close
        events += [closed(self.begin(near), "local"), closed(self.begin(far), "remote")]
        near.close()
        until_closed(far)
        far.close()
        near, far = self.to_reset
        unknown = {"netns": namespace_id("net"), **ends(far), "error": "ECONNRESET"}
        events += [closed(self.begin(near), "local"), {**closed({}, "reset"), **unknown}]
        reset(near)
        with pytest.raises(ConnectionResetError):
            far.recv(1)
        far.close()
        far = self.orphan[1]
        events.append(closed(self.begin(far), "remote"))
        far.close()
        return events


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One tracer of all connections in the tests' namespace, and connections older than it."""

    tracer: Tracer
    older: Older


@pytest.fixture(scope="module")
def run(backend: Backend, netns: str) -> Iterator[Run]:
    """Start a tracer when some connections are there already."""
    older = Older()
    with Tracer("--json", "--backend", backend, "-N", netns, command="tracer") as running:
        yield Run(running, older)
        if not older.ended:  # its test was not selected
            older.end()
        ended_well(running)


@pytest.mark.parametrize("case", CASES)
def test_connection_is_shown_once_from_beginning_to_end(
    run: Run, backend: Backend, case: str
) -> None:
    """A connection gives one event for each thing that happens to it, and all fields are right."""
    port = take_port()
    expected = CASES[case](port)
    actual = seen(run.tracer, port, len(expected))
    expected = [known(event, backend, TRACER) for event in expected]
    assert in_order(expected) == in_order([timeless(event) for event in actual])
    assert {event["backend"] for event in actual} <= {backend}
    assert {event["netns"] for event in actual} <= {namespace_id("net")}


def test_a_kernel_thread_is_no_closer(run: Run, backend: Backend) -> None:
    """Where the kernel closes a socket that no process can reach, X names the owner."""
    port = take_port()
    expected = in_order([known(event, backend, TRACER) for event in collected(port)])
    actual = in_order([timeless(event) for event in seen(run.tracer, port, len(expected))])
    for event in actual:
        assert "owner" == event.pop("closer", "owner")
    assert expected == actual


def test_older_connections_are_shown_when_they_end(run: Run, backend: Backend) -> None:
    """What was open before the trace gives one X, with its closer where there is one."""
    expected = [known(event, backend, TRACER) for event in run.older.end()]
    ports = {(event["lport"], event["rport"]) for event in expected}
    for lport, rport in ports:
        run.tracer.wait_for(type="close", lport=lport, rport=rport)
    seen(run.tracer, 0)
    actual = [one for one in run.tracer.events if (one["lport"], one["rport"]) in ports]
    assert in_order(expected) == in_order([timeless(event) for event in actual])
    assert [None] * len(actual) == [event.get("duration_ms") for event in actual]
    assert [] == run.tracer.where(lport=run.older.orphan_port, rport=run.older.orphan_peer)


def test_times(run: Run) -> None:
    """A row's time is that of what it tells; latency and duration are between such times."""
    port = take_port()
    start = time.monotonic_ns()
    near, far = pair(port)
    between = time.monotonic_ns()
    near.close()
    until_closed(far)
    far.close()
    begin, taken, *ended = seen(run.tracer, port, 4)
    assert start <= begin["ts_ns"] <= taken["ts_ns"] <= between
    assert 0 < begin["latency_ms"] * 1e6 <= begin["ts_ns"] - start
    for event in ended:
        assert between <= event["ts_ns"]
        assert 0 < event["duration_ms"] * 1e6 <= event["ts_ns"] - start


def test_latency_runs_from_the_syn(run: Run) -> None:
    """Where the first write sends the SYN (TCP_FASTOPEN_CONNECT), latency runs from there."""
    port = take_port()
    with fast_open_at_once(), listen(V4, port) as listener, socket.socket() as near:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        near.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        near.connect((V4, port))
        before = time.monotonic_ns()
        near.sendall(UNIT)
        (begin,) = run.tracer.wait_for(type="connect", rport=port)
    assert 0 < begin["latency_ms"] * 1e6 <= begin["ts_ns"] - before


@pytest.fixture
def other_host() -> Iterator[str]:
    """A network namespace behind a link, where `THEIRS` is; its name."""
    name = f"tcptrace-peer-{os.getpid()}"
    ip(f"netns add {name}")
    ip(f"link add tr0 type veth peer name tr1 address {THEIR_MAC} netns {name}")
    ip(f"address add {OURS}/24 dev tr0")
    ip(f"-n {name} address add {THEIRS}/24 dev tr1")
    ip("link set tr0 up")
    ip(f"-n {name} link set tr1 up")
    ip(f"-n {name} link set lo up")
    yield name
    ip("link delete tr0")
    ip(f"netns delete {name}")


def socket_in(namespace: str) -> socket.socket:
    """Return a socket of a network namespace, bound to `THEIRS`."""
    sock = in_namespace(namespace, socket.socket)
    sock.bind((THEIRS, take_port()))
    return sock


def pair_over_link(namespace: str) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection by this thread to `THEIRS`; that there is not traced."""
    with socket_in(namespace) as listener:
        listener.listen()
        return socket.create_connection(listener.getsockname()), listener.accept()[0]


def cut_link() -> None:
    """Let all that goes to `THEIRS` get lost."""
    ip(f"neighbour replace {THEIRS} lladdr {NO_MAC} dev tr0 nud permanent")


def mend_link() -> None:
    """Let it arrive again."""
    ip(f"neighbour replace {THEIRS} lladdr {THEIR_MAC} dev tr0 nud permanent")


def test_payload_is_counted_once_however_often_it_is_sent(
    run: Run, backend: Backend, other_host: str
) -> None:
    """TX is what was handed over and RETR what the kernel counts, when segments are lost."""
    near, far = pair_over_link(other_host)
    begin = opened(near)
    near.sendall(UNIT * 2)
    before = segments_sent_again()
    cut_link()
    near.sendall(UNIT * 3)
    eventually(lambda: segments_sent_again() > before + 1, "segments sent again")
    mend_link()
    near.shutdown(socket.SHUT_WR)
    receive(far, 5 * len(UNIT))
    until_closed(far)
    far.close()
    until_closed(near)
    near.close()
    again = segments_sent_again() - before
    expected = closed(begin, "local", tx=5 * len(UNIT), retransmits=again)
    events = [known(event, backend, TRACER) for event in (begin, expected)]
    assert events == [timeless(event) for event in seen(run.tracer, begin["rport"], 2)]


def tcp_state(sock: socket.socket) -> int:
    """Return a TCP socket's state: the first byte of `struct tcp_info`."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def test_both_ends_open(run: Run, backend: Backend, other_host: str) -> None:
    """Where both ends connect, and their SYNs cross, each socket has one C."""
    with socket_in(other_host) as far, socket.socket() as near:
        near.bind((OURS, take_port()))
        cut_link()
        for sock, peer in ((near, far), (far, near)):
            sock.settimeout(0)
            assert errno.EINPROGRESS == sock.connect_ex(peer.getsockname())
        eventually(lambda: TCP_SYN_RECV == tcp_state(near), "the peer's SYN")
        mend_link()
        select.select([], [near], [], limit(10))
        begin = opened(near)
        near.settimeout(limit(10))
        near.shutdown(socket.SHUT_WR)
        far.settimeout(limit(10))
        until_closed(far)
        far.close()
        until_closed(near)
    expected = (begin, closed(begin, "local", retransmits=ANY))
    events = [known(event, backend, TRACER) for event in expected]
    assert events == [timeless(event) for event in seen(run.tracer, begin["rport"], 2)]


def keep_alive(sock: socket.socket) -> None:
    """Probe an idle peer after a second, and wait for its answer as long."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def send_in_vain(sock: socket.socket) -> None:
    """Send, and give the peer a tenth of a second to confirm it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
    sock.sendall(UNIT)


@pytest.mark.parametrize("end", [keep_alive, send_in_vain])
def test_the_kernel_gives_a_silent_peer_up(
    run: Run, backend: Backend, other_host: str, end: Callable[[socket.socket], None]
) -> None:
    """The connection ends with its owner, and with the error ETIMEDOUT."""
    near, far = pair_over_link(other_host)
    begin = opened(near)
    cut_link()
    end(near)
    with pytest.raises(TimeoutError):
        near.recv(1)
    near.close()
    far.close()
    last = seen(run.tracer, begin["rport"], 2)[-1]
    expected = closed(begin, "local", error="ETIMEDOUT", closer="owner")
    figures = {key: last[key] for key in ANY_FIGURES}
    assert known({**expected, **figures}, backend, TRACER) == timeless(last)


def entries_of(name: str) -> int:
    """Return how many entries the newest BPF map of a name has."""
    shown = subprocess.run(["bpftool", "-j", "map"], capture_output=True, check=True).stdout
    number = max(one["id"] for one in json.loads(shown) if one.get("name") == name)
    dump = ["bpftool", "-j", "map", "dump", "id", str(number)]
    return len(json.loads(subprocess.run(dump, capture_output=True, check=True).stdout))


def many(namespace: str, port: int, count: int) -> None:
    """Make connections and end them in several ways; each leaves no port in TIME_WAIT."""
    enter(NAMED / namespace)
    with listen(V4, port) as listener:
        listener.settimeout(limit(10))
        for number in range(count):
            near = connect(listener)
            if number % 4 == 0:  # reset before it is accepted
                reset(near)
                listener.accept()[0].close()
                continue
            far = listener.accept()[0]
            if number % 4 == 1:
                far.close()
            reset(near)
            far.close()


def test_nothing_is_left_of_connections_that_have_ended(backend: Backend, other_host: str) -> None:
    """Of tens of thousands of connections each is shown, and none remains in the map."""
    port = take_port()
    arguments = ("--json", "--backend", backend, "-N", other_host, "--buffer-mb", "32")
    with Tracer(*arguments, command="tracer") as tracer:
        Worker(lambda: many(other_host, port, BURST)).run()
        last = Holder(take_port(), 1, namespace=other_host)
        assert backend == "ftrace" or 2 == entries_of("connections")
        last.end()
        assert backend == "ftrace" or 0 == entries_of("connections")
        tracer.wait_for_rows(4 * (BURST + 1))
        ended = ended_well(tracer)
    events = [event for event in tracer.events if port in (event["lport"], event["rport"])]
    kinds = collections.Counter((one["type"], one["lport"] == port) for one in events)
    whole = {("connect", False), ("accept", True), ("close", False), ("close", True)}
    assert dict.fromkeys(whole, BURST) == kinds
    assert 4 * (BURST + 1) == ended.summary[0]


def accept_all(server: socket.socket, count: int, room: threading.Semaphore) -> None:
    """Accept so many connections and close them at once."""
    for _ in range(count):
        server.accept()[0].close()
        room.release()


def resets(namespace: str, port: int, accepted: int, unaccepted: int) -> None:
    """Make connections that are reset at once, while a server accepts, and others that wait.

    The queue never fills up: the kernel would forget a connection that is reset before it has room.
    """
    enter(NAMED / namespace)
    room = threading.Semaphore(100)
    with listen(V4, port) as server:
        server.listen(128)
        acceptor = threading.Thread(target=accept_all, args=(server, accepted, room))
        acceptor.start()
        for _ in range(accepted):
            room.acquire()
            reset(connect(server))
        acceptor.join()
        for _ in range(unaccepted):
            reset(connect(server))


def test_reset_while_it_is_accepted(backend: Backend, other_host: str) -> None:
    """However close a reset comes to the accept, A and X are there; in the queue, neither is."""
    unaccepted = 5
    arguments = ("--json", "--backend", backend, "-N", other_host, "--buffer-mb", "32")
    with Tracer(*arguments, command="tracer") as tracer:
        Worker(lambda: resets(other_host, take_port(), RESETS, unaccepted)).run()
        if backend != "ftrace":
            eventually(
                lambda: (
                    entries_of("connections") + entries_of("undecided") == 0 or tracer.has_lost()
                ),
                "empty tables",
            )
        tracer.wait_for_rows(4 * RESETS + 2 * unaccepted)
        ended_well(tracer)
    kinds = collections.Counter(event["type"] for event in tracer.events)
    whole = {"connect": RESETS + unaccepted, "accept": RESETS, "close": 2 * RESETS + unaccepted}
    assert whole == kinds


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
        assert all(kept.port in (one["lport"], one["rport"]) for one in tracer.events)
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
        client = [(one["type"], one["pid"], one["uid"]) for one in tracer.where(rport=port)]
        assert [("connect", worker.pid, NOBODY), ("close", child_pid, NOBODY)] == client


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
        with listen(V4, self.port) as listener:

            def new() -> tuple[socket.socket, socket.socket]:
                return connect(listener), listener.accept()[0]

            def end(near: socket.socket, far: socket.socket) -> None:
                reset(near)
                far.close()

            held = [new() for _ in range(idle)]
            young = collections.deque(new() for _ in range(renewed))
            self._theirs.sendall(b"open")
            while not select.select([self._theirs], [], [], RENEWAL_S if renewed else None)[0]:
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
            expected = [{key: one[key] for key in one if key != "holders"} for one in expected]
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
