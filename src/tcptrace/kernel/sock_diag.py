"""The TCP sockets of a network namespace with their counters: a reader of sock_diag(7).

It asks for a dump and reads the binary answers (include/uapi/linux/inet_diag.h and tcp.h) itself:
of ten thousand sockets, in a fraction of the time that a general netlink library takes.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Collection, Iterator
from functools import lru_cache
from socket import AF_INET, AF_INET6, SOCK_RAW, inet_ntop, socket
from typing import NamedTuple

from tcptrace.errors import TcptraceError

# include/net/tcp_states.h: all between the handshake and the end.
ESTABLISHED, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING = 1, 3, 4, 5, 8, 9, 11
LISTEN = 10
OPEN = (ESTABLISHED, SYN_RECV, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING)
_FIN_RECEIVED = frozenset((CLOSE_WAIT, LAST_ACK, CLOSING))

_AF_NETLINK, _NETLINK_SOCK_DIAG, _SOCK_DIAG_BY_FAMILY = 16, 4, 20
_IPPROTO_TCP = 6
_REQUEST_AND_DUMP = 0x301
_ERROR, _DONE = 2, 3
_INFO = 2  # INET_DIAG_INFO: struct tcp_info
_MEMORY = 7  # INET_DIAG_SKMEMINFO: nine numbers, of which the last is SK_MEMINFO_DROPS
_DROPS_AT = 8 * 4
_NLMSG = struct.Struct("=IHHII")
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2
_MSG = struct.Struct("=BBxx2s2s16s16sI8sIIIII")  # struct inet_diag_msg
_ATTRIBUTE = struct.Struct("=HH")
_RTT = struct.Struct("=I")  # at 68; 100: total_retrans; 120: bytes_acked, bytes_received
_ACKED = struct.Struct("=QQ")
_RTT_AT, _RETRANSMITS_AT, _ACKED_AT, _SENT_AT = 68, 100, 120, 200
_SENT_END = _SENT_AT + 16
_MAPPED = bytes(10) + b"\xff\xff"
_ROOM = 1 << 16  # a dump's messages have 32 KiB at the most: netlink_recvmsg in af_netlink.c


class Socket(NamedTuple):
    """A TCP socket, IPv4-mapped IPv6 as IPv4."""

    state: int
    laddr: str
    lport: int
    raddr: str
    rport: int
    uid: int
    """The owner."""
    inode: int
    """0 where no process has it: it waits to be accepted, or was closed."""
    tx_bytes: int
    """Payload that was sent, each byte counted once."""
    rx_bytes: int
    """Payload that was received."""
    retransmits: int
    """Segments."""
    rtt_us: int
    """Smoothed round-trip time; 0 where it was not measured."""
    queue: int
    """Of a listener: how many connections wait to be accepted; else bytes to be read."""
    queue_max: int
    """Of a listener: how many may wait; else bytes not yet acknowledged."""
    link: int = 0
    """Index of the network interface that it is bound to; 0 for any."""
    drops: int = 0
    """Of a listener: connections that it has dropped, such as for want of room in its queue."""


@lru_cache(maxsize=16384)
def _text(raw: bytes, family: int) -> str:
    if family == AF_INET:
        return inet_ntop(AF_INET, raw[:4])
    return inet_ntop(AF_INET, raw[12:]) if raw[:12] == _MAPPED else inet_ntop(AF_INET6, raw)


def sockets(states: Collection[int] = OPEN) -> Iterator[Socket]:
    """Yield the TCP sockets of this thread's network namespace that are in these states.

    Raises:
        TcptraceError: the kernel does not tell.

    """
    wanted = sum(1 << state for state in states)
    try:
        with socket(_AF_NETLINK, SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
            for family in (AF_INET, AF_INET6):
                link.send(_request(family, wanted))
                yield from _answers(link)
    except OSError as error:
        raise TcptraceError(
            f"the kernel does not tell its TCP sockets ({error.strerror}).\n"
            "That needs CONFIG_INET_TCP_DIAG: try modprobe tcp_diag"
        ) from error


def _request(family: int, states: int) -> bytes:
    body = _REQUEST.pack(family, _IPPROTO_TCP, 1 << (_INFO - 1) | 1 << (_MEMORY - 1), states)
    size = _NLMSG.size + len(body)
    return _NLMSG.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_AND_DUMP, 0, 0) + body


def _answers(link: socket) -> Iterator[Socket]:
    """Yield what a dump tells until it is done. Raises OSError."""
    while True:
        data = link.recv(_ROOM)
        at = 0
        while at < len(data):
            size, kind, _, _, _ = _NLMSG.unpack_from(data, at)
            if kind in (_ERROR, _DONE):
                _check(data, at)
                return
            yield _socket(data, at + _NLMSG.size, at + size)
            at += size + 3 & ~3


def _check(data: bytes, at: int) -> None:
    """Raise OSError where a dump has failed: its last message has a negative errno."""
    (result,) = struct.unpack_from("=i", data, at + _NLMSG.size)
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def _socket(data: bytes, at: int, end: int) -> Socket:
    """Return the socket of the message whose body is at `at`."""
    family, state, lport, rport, laddr, raddr, link, _, _, queue, most, uid, inode = (
        _MSG.unpack_from(data, at)
    )
    return Socket(
        state,
        _text(laddr, family),
        int.from_bytes(lport, "big"),
        _text(raddr, family),
        int.from_bytes(rport, "big"),
        uid,
        inode,
        *_counters(data, at + _MSG.size, end, state),
        queue,
        most,
        link,
        _drops(data, at + _MSG.size, end) if state == LISTEN else 0,
    )


def _drops(data: bytes, at: int, end: int) -> int:
    """Return how many connections a listener has dropped: tcp_listendrop in include/net/tcp.h."""
    while at + _ATTRIBUTE.size <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _MEMORY and size >= _ATTRIBUTE.size + _DROPS_AT + _RTT.size:
            return int(_RTT.unpack_from(data, at + _ATTRIBUTE.size + _DROPS_AT)[0])
        at += max(size, _ATTRIBUTE.size) + 3 & ~3
    return 0


def _counters(data: bytes, at: int, end: int, state: int) -> tuple[int, int, int, int]:
    """Return bytes sent and received, retransmitted segments and the round-trip time."""
    while at < end:
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if kind == _INFO:
            return _of_tcp_info(data, at + _ATTRIBUTE.size, at + size, state)
        if size < _ATTRIBUTE.size:
            raise OSError(errno.EBADMSG, os.strerror(errno.EBADMSG))
        at += size + 3 & ~3
    return 0, 0, 0, 0  # a handshake's


def _of_tcp_info(data: bytes, at: int, end: int, state: int) -> tuple[int, int, int, int]:
    """Read a `struct tcp_info`, whose end newer kernels have moved (include/uapi/linux/tcp.h)."""
    (rtt,) = _RTT.unpack_from(data, at + _RTT_AT)
    (retransmits,) = _RTT.unpack_from(data, at + _RETRANSMITS_AT)
    tx, rx = _ACKED.unpack_from(data, at + _ACKED_AT)
    if at + _SENT_END <= end:
        sent, again = _ACKED.unpack_from(data, at + _SENT_AT)
        tx = sent - again
    if state in _FIN_RECEIVED and rx:  # it was counted as a byte
        rx -= 1
    return tx, rx, retransmits, rtt
