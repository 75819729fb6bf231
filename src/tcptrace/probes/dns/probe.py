"""DNS messages, as processes send and receive them: `DNS`, and `ANSWERS` for other probes."""

from __future__ import annotations

import dataclasses
import platform
import socket
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from tcptrace.kernel.hooks import Hook
from tcptrace.model.columns import (
    COMM,
    COMMON,
    IP,
    PID,
    RADDR,
    SLOW_MS,
    TIME_S,
    Column,
    Mark,
    field,
    milliseconds,
)
from tcptrace.model.events import U32, U64, Event, InCgroup, Tail
from tcptrace.model.filters import Filters
from tcptrace.model.ranges import Ranges
from tcptrace.probes.probe import ALL_FILTERS, Backend, Probe, Variant

SENT, TCP, FAILED, ASSUMED, CUT = 1, 2, 4, 8, 16
MULTICAST_PORT = 5353
FUNCTION_HOOKS: tuple[Literal["fentry", "kprobe"], ...] = ("fentry", "kprobe")
CALLS_TO_RECEIVE = {
    "read": "receive",
    "readv": "receive",
    "recvfrom": "receive",
    "recvmsg": "recvmsg",
    "recvmmsg": "recvmmsg",
}
CALLS_OF_FILES = frozenset(("read", "readv"))
"""Calls to receive that are others' as well as sockets'."""
CALLS_TO_SEND_TO = ("sendto", "sendmsg", "sendmmsg")
CALLS_TO_SEND = (*CALLS_TO_SEND_TO, "write", "writev")


@dataclasses.dataclass(slots=True, eq=False)
class Message(Event):
    """One message, or a piece of TCP's stream; `struct dns_event` in dns.bpf.c.

    The remote end is the server. An unconnected socket may leave it unknown.
    """

    type = "dns"

    socket: U64
    """Which one: its address in the kernel. Another may have it once this one is closed."""
    length: U32
    """Bytes; there may be more of them than `payload` has."""
    flags: U32
    """`SENT` and `TCP`; `CUT` for a datagram that filled its receiver's buffer; `ASSUMED` where the
    remote end is who was asked last, for nothing tells it; `FAILED` for no message but a failure:
    with `SENT`, of a call to send that began at `ts_ns`, else of what this socket has sent, within
    such a call where a thread is named."""
    error: U32
    """Of a failure: errno; 0 where the failure is ours: answers to this socket were missed."""
    sent: U32
    """Of a failure: how many messages the call had sent before."""
    payload: Tail
    """At most 4,096 bytes."""


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Query(InCgroup):
    """A question and what became of it: one row of `tcptrace dns`."""

    type: ClassVar[str] = "dns"

    ts_ns: int
    """CLOCK_MONOTONIC, nanoseconds: when the answer came, or was given up."""
    pid: int | None
    tid: int | None
    uid: int | None
    comm: str | None
    family: int
    laddr: str | None
    lport: int | None
    raddr: str | None
    rport: int | None
    netns: int | None
    mntns: int | None
    cgroup_id: int | None
    server: str | None
    protocol: str
    """udp or tcp."""
    query: str | None = None
    """The name asked for; None, with its type, where it could not be read."""
    qtype: str | None = None
    opcode: str | None = None
    """None for the usual one, QUERY."""
    rcode: str
    """The name of a response code, or of an errno, or `TIMEOUT` or `MALFORMED`."""
    truncated: bool | None = None
    """The answer is cut off, to be asked for again over TCP."""
    retry: bool | None = None
    """Asked over TCP after a truncated answer."""
    sent: bool | None = None
    """No question: an answer that the process sent, as responders of multicast DNS do."""
    latency_ms: float | None = None
    """From the question to its answer; None where the question was not seen."""
    answers: tuple[str, ...] | None = None
    partial: bool | None = None
    """There are more answers: not all of the message was captured."""


TIMEOUT, MALFORMED = "timeout", "malformed"


def row(asker: Message, message: Message, *, ts_ns: int, **values: Any) -> Query:
    """Return the row of the process that sent or received `asker`, with the ends of `message`.

    A socket that has not yet sent has no port: the answer has it.
    """
    return Query(
        ts_ns=ts_ns,
        wall_ns=message.wall_ns + ts_ns - message.ts_ns,
        **{name: getattr(asker, name) for name in _OF_TASK},
        **{name: getattr(message, name) for name in _OF_ENDS},
        server=message.raddr,
        protocol="tcp" if message.flags & TCP else "udp",
        **values,
    )


_OF_TASK = ("pid", "tid", "uid", "comm", "netns", "mntns", "cgroup_id", "identity", "program")
_OF_ENDS = ("family", "laddr", "lport", "raddr", "rport")


def _answers(event: Any, _first_ns: int) -> str | None:
    answers = (*(event.answers or ()), *(["…"] if event.partial else ()))
    return ",".join(answers) or None


def _rcode(event: Any, _first_ns: int) -> str:
    """Return the response code, and what is to be known of the way that it came."""
    if event.truncated:
        return f"{event.rcode}/truncated"
    if event.sent:
        return f"{event.rcode}/sent"
    if event.protocol == "tcp":
        return f"{event.rcode}/tcp-retry" if event.retry else f"{event.rcode}/tcp"
    return str(event.rcode)


def _not_answered(event: Any) -> Mark | None:
    """Find a question that failed, and one whose answer is no or came a long way."""
    if event.rcode not in {"NOERROR", "NXDOMAIN"}:
        return "failure"
    return "unusual" if event.rcode == "NXDOMAIN" or event.truncated or event.retry else None


def _ask_once() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        server.bind(("127.0.0.1", 0))
        client.sendto(b"question", server.getsockname())
        _, address = server.recvfrom(16)
        server.sendto(b"answer", address)
        client.recvfrom(16)


def _by_tracepoints(calls_to_send: tuple[str, ...]) -> Iterator[Variant]:
    """Yield the ways to see messages without functions, the best first."""
    received = Hook("raw_tracepoint", "sock_recv_length", "dns_on_received")
    if platform.machine() == "x86_64":  # whose registers it knows
        hooks = _syscalls(calls_to_send, CALLS_TO_RECEIVE.keys() - CALLS_OF_FILES)
        yield Variant("tracepoint", (*hooks, received), ("DNS_ON_RECEIVED",))
    yield Variant("tracepoint", _syscalls(calls_to_send, CALLS_TO_RECEIVE.keys()))


def _syscalls(to_send: Collection[str], to_receive: Collection[str]) -> tuple[Hook, ...]:
    """Return the hooks on the system calls."""
    received = {call: CALLS_TO_RECEIVE[call] for call in sorted(to_receive)}
    return (
        *(_syscall("enter", call, call) for call in (*to_send, *received)),
        *(_syscall("exit", call, program) for call, program in received.items()),
    )


def _syscall(way: str, call: str, program: str) -> Hook:
    return Hook("tracepoint", f"syscalls:sys_{way}_{call}", f"dns_{way}_{program}")


_CALLED = (
    *("udp_sendmsg", "udpv6_sendmsg", "tcp_sendmsg"),
    *("udp_recvmsg", "udpv6_recvmsg", "tcp_recvmsg", "skb_consume_udp"),
)
_FUNCTIONS = tuple(
    Variant(
        how,
        (
            *(Hook(how, name, f"dns_enter_{name}", optional="v6" in name) for name in _CALLED),
            Hook("raw_tracepoint", "tcp_rcv_space_adjust", "dns_on_copied"),
        ),
    )
    for how in FUNCTION_HOOKS
)


def _at_return(how: Literal["fexit", "kretprobe"]) -> tuple[Hook, ...]:
    names = ("udp_sendmsg", "udpv6_sendmsg")
    return tuple(Hook(how, name, f"dns_exit_{name}", optional="v6" in name) for name in names)


_RETURNS: Mapping[Backend, tuple[Hook, ...]] = {
    "fentry": _at_return("fexit"),
    "kprobe": _at_return("kretprobe"),
    "tracepoint": tuple(_syscall("exit", call, "send") for call in CALLS_TO_SEND),
}
"""Where a call to send returns."""
_SENT = (Hook("raw_tracepoint", "sock_send_length", "dns_on_sent"),)
"""The same where sockets alone pass it (net/socket.c, sock_sendmsg_nosec), from Linux 6.4 on."""
_ERROR = Hook("raw_tracepoint", "inet_sk_error_report", "dns_on_error", optional=True)
"""From Linux 5.14 on (net/core/sock.c, sk_error_report)."""


def _with_outcomes(variant: Variant) -> Iterator[Variant]:
    """Yield the ways to know as well whether messages could be sent, the best first."""
    for hooks in (_SENT, _RETURNS[variant.backend]):
        yield dataclasses.replace(variant, hooks=(*variant.hooks, *hooks, _ERROR))


DNS = Probe(
    name="dns",
    source=Path(__file__).with_name("dns.bpf.c"),
    more_sources=tuple(
        Path(__file__).with_name(f"{name}.bpf.c") for name in ("functions", "syscalls")
    ),
    records=(Message,),
    variants=tuple(
        with_outcomes
        for variant in (*_FUNCTIONS, *_by_tracepoints(CALLS_TO_SEND))
        for with_outcomes in _with_outcomes(variant)
    ),
    filters=ALL_FILTERS,
    columns=(
        TIME_S,
        PID,
        COMM,
        IP,
        dataclasses.replace(RADDR, key="server", heading="SERVER", meaning="the server's address"),
        field(
            "type",
            "TYPE",
            5,
            name="qtype",
            meaning="record type that was asked for, with its class where that is not IN",
        ),
        field("query", "QUERY", 32, "bold", sizes=(32, 48, 64), meaning="name that was asked for"),
        Column(
            "rcode",
            "RCODE",
            8,
            _rcode,
            concern=_not_answered,
            meaning="response code, timeout or malformed, and how the answer came",
        ),
        milliseconds(
            "lat",
            "LAT(ms)",
            8,
            name="latency_ms",
            slow_ms=SLOW_MS,
            meaning="milliseconds from the question to its answer",
        ),
        Column(
            "answers",
            "ANSWERS",
            16,
            _answers,
            meaning="data of the answer section, in the server's order",
        ),
    ),
    extra_columns=(*COMMON, field("proto", "PROTO", 5, name="protocol", meaning="udp or tcp")),
    defaults={"port": "53"},
    rows=(Query,),
    ports="Servers' ports",
    port_fields=("rport",),
    types=("sk_buff", "msghdr", "iovec", "iter_type"),
    numbers={
        "DNS_SENT": SENT,
        "DNS_TCP": TCP,
        "DNS_FAILED": FAILED,
        "DNS_ASSUMED": ASSUMED,
        "DNS_CUT": CUT,
    },
    self_test=_ask_once,
)

ANSWERS = dataclasses.replace(
    DNS,
    variants=tuple(
        dataclasses.replace(variant, defines=(*variant.defines, "DNS_ANSWERS_ONLY"))
        for variant in (*_FUNCTIONS, *_by_tracepoints(CALLS_TO_SEND_TO))
    ),
    own_filters=Filters({"port": Ranges(((53, 53),), ())}, DNS.port_fields),
    self_test=None,
)
