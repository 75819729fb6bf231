"""TCP sockets as sock_diag sends them: made of bytes, and of this machine."""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import ip_address

import pytest
from tests.unit.records import packed

from tcptrace.errors import TcptraceError
from tcptrace.kernel import sock_diag
from tcptrace.kernel.sock_diag import CLOSE_WAIT, ESTABLISHED, LISTEN, Socket

V4, V6 = socket.AF_INET, socket.AF_INET6
SHUTDOWN, INFO, MEMORY = 8, 2, 7  # enum INET_DIAG_* in include/uapi/linux/inet_diag.h
OLD, NEW = 192, 240  # sizes of struct tcp_info before bytes_sent was added, and since


def message(kind: int, body: bytes) -> bytes:
    """Return a netlink message."""
    return struct.pack("=IHHII", 16 + len(body), kind, 2, 0, 0) + body


def attribute(kind: int, data: bytes) -> bytes:
    """Return a netlink attribute, padded to four bytes."""
    head = struct.pack("=HH", 4 + len(data), kind)
    return (head + data).ljust((4 + len(data) + 3) & ~3, b"\0")


def tcp_info(size: int) -> bytes:
    """Return a `struct tcp_info` of 2,000 bytes sent, 500 of them again, and 700 received."""
    info = bytearray(size)
    struct.pack_into("=I", info, 68, 1234)
    struct.pack_into("=I", info, 100, 3)
    struct.pack_into("=QQ", info, 120, 1501, 700)
    if size == NEW:
        struct.pack_into("=QQ", info, 200, 2000, 500)
    return bytes(info)


def sent(
    *attributes: bytes,
    laddr: str = "192.0.2.1",
    raddr: str = "192.0.2.2",
    family: int = V4,
    state: int = ESTABLISHED,
) -> bytes:
    """Return the kernel's message about a socket of user 1000."""
    ports = struct.pack(">HH", 80, 40000)
    ends = packed(laddr) + packed(raddr)
    rest = struct.pack("=I8sIIIII", 0, b"cookie..", 0, 5, 16, 1000, 4711)
    head = struct.pack("=BBBB", family, state, 0, 0)
    return message(20, head + ports + ends + rest + b"".join(attributes))


DONE = message(3, struct.pack("=i", 0))


class Link:
    """A netlink socket that answers each dump with the same."""

    def __init__(self, *answers: bytes) -> None:
        """Prepare the answers, of which one may have several messages."""
        self._answers = answers
        self._left: list[bytes] = []

    def __call__(self, *_: int) -> Link:
        """Be the socket that is made."""
        return self

    def __enter__(self) -> Link:  # noqa: PYI034 - Self is in typing from Python 3.11 on
        """Be open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Be closed."""

    def send(self, _request: bytes) -> None:
        """Take a request."""
        self._left = list(self._answers)

    def recv(self, _room: int) -> bytes:
        """Return the next answer."""
        return self._left.pop(0)


def told(monkeypatch: pytest.MonkeyPatch, *answers: bytes) -> list[Socket]:
    """Return what is made of the answers, which are the same for IPv4 and IPv6: once."""
    monkeypatch.setattr(sock_diag, "socket", Link(*answers))
    both = list(sock_diag.sockets())
    half = len(both) // 2
    assert both[:half] == both[half:]
    return both[:half]


EXPECTED = Socket(
    state=ESTABLISHED,
    laddr="192.0.2.1",
    lport=80,
    raddr="192.0.2.2",
    rport=40000,
    uid=1000,
    inode=4711,
    tx_bytes=1500,
    rx_bytes=700,
    retransmits=3,
    rtt_us=1234,
    queue=5,
    queue_max=16,
)


def test_a_socket_with_its_counters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that were sent again are not counted; other attributes are passed over."""
    answer = sent(attribute(SHUTDOWN, b"\0"), attribute(INFO, tcp_info(NEW)))
    assert [EXPECTED] == told(monkeypatch, answer, DONE)


def test_kernels_that_do_not_count_what_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was acknowledged stands for it, with the byte that a connect counts."""
    answer = sent(attribute(INFO, tcp_info(OLD)))
    assert [EXPECTED._replace(tx_bytes=1501)] == told(monkeypatch, answer, DONE)


def test_the_peers_fin_is_no_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel counts it as one that was received."""
    answer = sent(attribute(INFO, tcp_info(NEW)), state=CLOSE_WAIT)
    assert [EXPECTED._replace(state=CLOSE_WAIT, rx_bytes=699)] == told(monkeypatch, answer, DONE)


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """IPv6 is read, and IPv4-mapped IPv6 is IPv4; a handshake has no counters."""
    mapped = str(ip_address("::ffff:192.0.2.1"))
    answer = sent(laddr="fd00::1", raddr=mapped, family=V6) + sent(laddr=mapped, family=V6) + DONE
    assert [("fd00::1", "192.0.2.1", 0), ("192.0.2.1", "c000:202::", 0)] == [
        (row.laddr, row.raddr, row.tx_bytes) for row in told(monkeypatch, answer)
    ]


def test_what_a_listener_has_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the last of the numbers on its memory; older kernels have fewer."""
    memory = [
        attribute(MEMORY, struct.pack(f"={count}I", *range(1, count + 1))) for count in (9, 8)
    ]
    sockets = [sent(attribute(SHUTDOWN, b"\0"), part, state=LISTEN) for part in memory]
    assert [9, 0] == [row.drops for row in told(monkeypatch, *sockets, DONE)]


def test_a_refusal_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without the module answers with an error."""
    refusal = message(2, struct.pack("=i", -errno.ENOENT) + bytes(16))
    monkeypatch.setattr(sock_diag, "socket", Link(refusal))
    with pytest.raises(TcptraceError, match=r"No such file or directory.*\n.*modprobe tcp_diag"):
        list(sock_diag.sockets())


def test_sockets_of_this_machine() -> None:
    """A connection is listed from both ends, with what was sent; a listener with its queue."""
    with socket.create_server(("127.0.0.1", 0), backlog=7) as server:
        port = server.getsockname()[1]
        with socket.create_connection(server.getsockname()) as near:
            (listener,) = (sock for sock in sock_diag.sockets({LISTEN}) if sock.lport == port)
            assert (1, 7) == (listener.queue, listener.queue_max)
            far = server.accept()[0]
            near.sendall(b"x" * 1000)
            far.sendall(b"y" * 50)
            assert 1000 == len(far.recv(1000, socket.MSG_WAITALL))
            assert 50 == len(near.recv(50, socket.MSG_WAITALL))
            ours = {
                sock.rport: sock for sock in sock_diag.sockets() if port in (sock.lport, sock.rport)
            }
            far.close()
    assert (1000, 50) == (ours[port].tx_bytes, ours.pop(port).rx_bytes)
    (other,) = ours.values()
    assert (50, 1000) == (other.tx_bytes, other.rx_bytes)
