"""Connections as they happen, each with the events that it is to be shown as."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import json
import os
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from unittest.mock import ANY

import pytest
from tests.kernel.backends import not_offered
from tests.kernel.harness import Event, Worker, eventually, limit, take_port
from tests.kernel.tracers import Tracer, plain
from tests.kernel.traffic import (
    BACKLOG,
    DUAL,
    MPTCP,
    TCP_FASTOPEN_CONNECT,
    V4,
    V6,
    accept_once,
    connect,
    established,
    fast_open_at_once,
    ip,
    listen,
    namespace_id,
    need_mptcp,
    port_of,
    reset,
    second_path,
    segments_sent_again,
    task_fields,
)

from tcptrace.kernel.syscalls import libc

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
        reading.settimeout(limit(20))

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

    thread = threading.Thread(target=close, daemon=True)
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
        listener.settimeout(limit(20))
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


def unless_sent_again(events: list[Event], before: int) -> list[Event]:
    """Return events, of which any may count segments that were sent again since `before`, if any.

    A peer that finds no time to answer, on a busy machine, is sent the last one again.
    """
    if segments_sent_again() == before:
        return events
    return [{**event, "retransmits": ANY} if "retransmits" in event else event for event in events]


def in_order(events: list[Event]) -> list[Event]:
    """Return events by end of a connection; at each end they keep their order."""
    return sorted(events, key=lambda event: (event["lport"], event["rport"]))


def seen(tracer: Tracer, port: int, count: int = 0) -> list[Event]:
    """Return the events of a server's port, when all that happened until now has been shown.

    There are to be `count` of them. An X can come later than what was made after it: as late as
    the peer's answer to the last segment, which may have to be sent again.
    """

    def found() -> list[Event]:
        return [event for event in tracer.events if port in (event["lport"], event["rport"])]

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
        self.half_closed = pair(take_port())
        self.half_closed[0].shutdown(socket.SHUT_WR)
        until_closed(self.half_closed[1])
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
        near, far = self.half_closed  # who sent the FIN is not known
        unknown = {"netns": namespace_id("net"), **ends(near)}
        events += [{**closed({}, "local"), **unknown}, closed(self.begin(far), "remote")]
        near.close()
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


def cut_link() -> None:
    """Let all that goes to `THEIRS` get lost."""
    ip(f"neighbour replace {THEIRS} lladdr {NO_MAC} dev tr0 nud permanent")


def mend_link() -> None:
    """Let it arrive again."""
    ip(f"neighbour replace {THEIRS} lladdr {THEIR_MAC} dev tr0 nud permanent")


def tcp_state(sock: socket.socket) -> int:
    """Return a TCP socket's state: the first byte of `struct tcp_info`."""
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
