"""DNS messages, as processes send and receive them: `DNS`, and `ANSWERS` for other probes."""

from __future__ import annotations

import dataclasses
import socket
from pathlib import Path
from typing import Any

from tcptrace.columns import COMMON
from tcptrace.events import U32, U64, Clock, Event, Tail
from tcptrace.kernel.hooks import Hook
from tcptrace.probes import ALL_FILTERS, Probe, Variant

SENT, TCP = 1, 2
CALLS_TO_RECEIVE = {
    "read": "receive",
    "readv": "receive",
    "recvfrom": "receive",
    "recvmsg": "recvmsg",
    "recvmmsg": "recvmmsg",
}
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
    """`SENT` and `TCP`."""
    payload: Tail
    """At most 4,096 bytes."""


def _joined(values: list[str] | None) -> str | None:
    return ",".join(values) if values else None


def _answers(event: Any, _clock: Clock) -> str | None:
    return _joined(event.answers)


def _latency(event: Any, _clock: Clock) -> str | None:
    return None if event.latency_ms is None else f"{event.latency_ms:.3f}"


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


def _syscalls(calls_to_send: tuple[str, ...]) -> tuple[Hook, ...]:
    """Return the hooks on the system calls."""

    def hook(way: str, call: str, program: str) -> Hook:
        return Hook("tracepoint", f"syscalls:sys_{way}_{call}", f"{way}_dns_{program}")

    return (
        *(hook("enter", call, call) for call in (*calls_to_send, *CALLS_TO_RECEIVE)),
        *(hook("exit", call, program) for call, program in CALLS_TO_RECEIVE.items()),
    )


DNS = Probe(
    name="dns",
    source=Path(__file__).with_name("dns.bpf.c"),
    records=(Message,),
    variants=(Variant("tracepoint", _syscalls(CALLS_TO_SEND)),),
    filters=ALL_FILTERS,
    columns=(),
    more_columns=COMMON,
    self_test=_ask_once,
)

ANSWERS = dataclasses.replace(
    DNS,
    variants=tuple(
        Variant(one, _syscalls(CALLS_TO_SEND_TO), ("ANSWERS_ONLY",)) for one in ("tracepoint",)
    ),
    self_test=None,
)
