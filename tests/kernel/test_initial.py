"""Initial sequence numbers: both ends of a connection tell the same two, crosswise."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kernel.backends import not_offered
from tests.kernel.connections import UNIT, disconnect, fast_open, on_mptcp, receive, seen
from tests.kernel.harness import TIME_SCALE, Event, limit, take_port
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import V4, V6, connect, in_namespace, ip, listen, setting

from tcptrace.probes.probe import BPF_BACKENDS, Backend

pytestmark = pytest.mark.command("tracer")

SYN_COOKIES = Path("/proc/sys/net/ipv4/tcp_syncookies")
ALWAYS = "2"
MANY = int(1000 / min(TIME_SCALE, 10))
TCP_REPAIR, TCP_REPAIR_QUEUE, TCP_QUEUE_SEQ = 19, 20, 21  # include/uapi/linux/tcp.h
RECEIVED, SENT = 1, 2
TYPES = ("connect", "accept", "close")


class Numbers(NamedTuple):
    """What one end knows."""

    iss: int
    irs: int


def numbers(event: Event) -> Numbers:
    """Return what an event tells."""
    return Numbers(event["iss"], event["irs"])


def sequence(sock: socket.socket, queue: int) -> int:
    """Return the next sequence number of a queue, as the kernel tells who repairs a socket."""
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR_QUEUE, queue)
    number = sock.getsockopt(socket.IPPROTO_TCP, TCP_QUEUE_SEQ)
    sock.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, -1)
    return number & 0xFFFFFFFF


@pytest.fixture(scope="module")
def tracer(backend: Backend, netns: str) -> Iterator[Tracer]:
    """A tracer of this namespace."""
    if backend not in BPF_BACKENDS:
        not_offered(f"{backend} does not tell sequence numbers")
    with Tracer("--json", "--backend", backend, "-N", netns, command="tracer") as tracer:
        yield tracer


def exchange(address: str) -> Callable[[int], object]:
    """Return a case: the client has sent before the server accepts."""

    def work(port: int) -> None:
        with listen(address, port) as listener, connect(listener, address) as near:
            near.sendall(UNIT)
            far = listener.accept()[0]
            receive(far, len(UNIT))
            far.sendall(UNIT * 2)
            receive(near, len(UNIT) * 2)
            far.close()

    return work


def with_cookies(port: int) -> None:
    """Connect where the server keeps nothing of a SYN, but makes a number of it."""
    with setting(SYN_COOKIES, ALWAYS):
        exchange(V4)(port)


def connected_again(port: int) -> None:
    """Connect a socket twice."""
    with listen(V4, port) as listener, socket.socket() as near:
        for _ in range(2):
            near.connect((V4, port))
            near.sendall(UNIT)
            far = listener.accept()[0]
            receive(far, len(UNIT))
            disconnect(near)
            far.close()


CASES: dict[str, Callable[[int], object]] = {
    "IPv4": exchange(V4),
    "IPv6": exchange(V6),
    "data with the SYN": fast_open,
    "MPTCP": on_mptcp,
    "SYN cookies": with_cookies,
    "a socket that connects again": connected_again,
}


@pytest.mark.parametrize("case", CASES)
def test_both_ends_tell_the_same(tracer: Tracer, case: str) -> None:
    """What one has sent first, the other has received first; X says what C and A have said."""
    port = take_port()
    CASES[case](port)
    events = seen(tracer, port, 4)
    of = {kind: [event for event in events if event["type"] == kind] for kind in TYPES}
    connects, accepts = ([numbers(event) for event in of[kind]] for kind in ("connect", "accept"))
    assert connects == [Numbers(irs, iss) for iss, irs in accepts]
    assert sorted(connects + accepts) == sorted(numbers(event) for event in of["close"])
    assert len({*connects, *accepts}) == len(connects + accepts)


def test_numbers_are_those_on_the_wire(tracer: Tracer) -> None:
    """The first byte of data has the number behind that of the SYN."""
    port = take_port()
    with listen(V4, port) as listener, connect(listener) as near:
        far = listener.accept()[0]
        expected = [
            Numbers(sequence(sock, SENT) - 1, sequence(sock, RECEIVED) - 1) for sock in (near, far)
        ]
        far.close()
    events = seen(tracer, port, 4)
    assert expected == [numbers(event) for event in events if event["type"] != "close"]


def test_data_that_comes_in_meanwhile_changes_nothing(tracer: Tracer) -> None:
    """Numbers are right also where the client's data comes while the server accepts."""
    port = take_port()

    def send() -> None:
        for _ in range(MANY):
            with socket.create_connection((V4, port)) as near, contextlib.suppress(OSError):
                for _ in range(5):
                    near.send(b"x")  # until the server has closed

    with listen(V4, port) as listener:
        listener.settimeout(limit(20))
        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        for _ in range(MANY):
            listener.accept()[0].close()
        thread.join(limit(10))
    events = seen(tracer, port, 2 * MANY)
    ends = {kind: [numbers(row) for row in events if row["type"] == kind] for kind in TYPES}
    assert MANY == len(ends["connect"])
    assert sorted(ends["connect"]) == sorted(Numbers(irs, iss) for iss, irs in ends["accept"])


@contextlib.contextmanager
def translated(name: str, public: str, server: str) -> Iterator[None]:
    """Have a router translate a public address to a server's, and clients' to its own."""
    rules = f"""
table ip translation {{
    chain in {{ type nat hook prerouting priority dstnat; ip daddr {public} dnat to {server}; }}
    chain out {{ type nat hook postrouting priority srcnat; ip daddr {server} masquerade; }}
}}"""
    done = subprocess.run(
        ("ip", "netns", "exec", name, "nft", "-f", "-"), input=rules, text=True, check=False
    )
    if done.returncode:
        not_offered("this kernel does not translate addresses")
    yield


@pytest.fixture
def router(netns: str) -> Iterator[str]:
    """A namespace between this one and a server's; the name of the latter."""
    name, far = f"{netns}-router", f"{netns}-server"
    for namespace in (name, far):
        ip(f"netns add {namespace}")
    try:
        ip(f"link add tn0 type veth peer name tn1 netns {name}")
        ip(f"-n {name} link add tn2 type veth peer name tn3 netns {far}")
        for where, link, address in (
            ("", "tn0", "10.9.1.1/24"),
            (f"-n {name}", "tn1", "10.9.1.2/24"),
            (f"-n {name}", "tn2", "10.9.2.2/24"),
            (f"-n {far}", "tn3", "10.9.2.1/24"),
        ):
            ip(f"{where} address add {address} dev {link}")
            ip(f"{where} link set {link} up")
        ip("route add 10.9.9.9/32 via 10.9.1.2")
        in_namespace(name, lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text("1"))
        with translated(name, "10.9.9.9", "10.9.2.1"):
            yield far
    finally:
        subprocess.run(("ip", "link", "delete", "tn0"), check=False)
        for namespace in (name, far):
            ip(f"netns delete {namespace}")


def test_numbers_pass_through_translation(backend: Backend, router: str) -> None:
    """Client and server, in namespaces of their own, see other addresses, and the same numbers."""
    if backend not in BPF_BACKENDS:
        not_offered(f"{backend} does not tell sequence numbers")
    port = take_port()
    with Tracer("--json", "--backend", backend, "-P", str(port), command="tracer") as tracer:
        listener = in_namespace(router, lambda: listen("10.9.2.1", port))
        with listener, socket.create_connection(("10.9.9.9", port), limit(10)) as near:
            listener.accept()[0].close()
            near.recv(1)
        (begin,) = tracer.wait_for(1, type="connect", rport=port)
        (taken,) = tracer.wait_for(1, type="accept", lport=port)
    assert ("10.9.9.9", "10.9.2.2") == (begin["raddr"], taken["raddr"])
    assert numbers(begin) == Numbers(taken["irs"], taken["iss"])
