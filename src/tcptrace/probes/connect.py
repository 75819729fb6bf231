"""Attempts to connect: `CONNECT`."""

from __future__ import annotations

import dataclasses
import socket
import struct
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tcptrace.columns import (
    COMM,
    COMMON,
    ERR,
    IP,
    LADDR,
    LPORT,
    PID,
    RADDR,
    RPORT,
    TIME,
    Column,
    Table,
    field,
)
from tcptrace.events import U32, Clock, Event, address_text, error_name
from tcptrace.kernel.hooks import Hook, How
from tcptrace.probes import ALL_FILTERS, Probe, Switch, Variant

ENDS = (None, "established", "closed")
OUTCOMES = {
    None: "aborted",
    "ECONNREFUSED": "refused",
    "ETIMEDOUT": "timeout",
    "EHOSTUNREACH": "unreachable",
    "ENETUNREACH": "unreachable",
}


SADDR = dataclasses.replace(LADDR, heading="SADDR")
DADDR = dataclasses.replace(RADDR, heading="DADDR")
DPORT = dataclasses.replace(RPORT, heading="DPORT")
LPORT_AFTER_SADDR = dataclasses.replace(LPORT, after="laddr")


def _ended(number: int) -> str | None:
    return ENDS[number] if number < len(ENDS) else None


def _milliseconds(ns: int) -> float | None:
    return ns / 1e6 if ns else None


@dataclasses.dataclass(slots=True, eq=False)
class Connect(Event):
    """One attempt to connect; `struct connect_event` in connect.bpf.c."""

    type = "connect"
    nullable = frozenset({"error"})

    latency_ms: Annotated[float | None, "Q", _milliseconds]
    """From SYN_SENT to the end, where the attempt was followed."""
    error: Annotated[str | None, "i", error_name]
    """Why it failed: inside the host, or where it was followed, in the end."""
    _end: Annotated[str | None, "I", _ended]
    retransmits: U32 | None
    """SYN retransmissions, where it was followed."""
    _padding2: U32
    outcome: str | None = None
    query: str | None = None
    query_age_ms: float | None = None

    def __post_init__(self) -> None:
        """Name the outcome."""
        if self._end is None:
            self.retransmits = None
        elif self._end == "established":
            self.outcome = "established"
        else:
            self.outcome = OUTCOMES.get(self.error, "error")


@dataclasses.dataclass(slots=True, eq=False)
class Count:
    """How many attempts there were between two addresses to one port; `struct count_key`."""

    type: ClassVar[str] = "count"
    nullable: ClassVar[frozenset[str]] = frozenset()

    ts_ns: int
    """When it was read."""
    family: int
    laddr: str | None
    lport: int | None
    """Absent unless they were counted by it."""
    raddr: str | None
    rport: int | None
    connects: int


_COUNT_KEY = struct.Struct("=16s16sHHI")


def read_counts(table: Mapping[bytes, bytes]) -> list[Count]:
    """Return the entries of the map `counts`."""
    now = time.monotonic_ns()
    rows = []
    for key, value in table.items():
        laddr, raddr, lport, rport, family = _COUNT_KEY.unpack(key)
        rows.append(
            Count(
                ts_ns=now,
                family=family,
                laddr=address_text(laddr, family) if any(laddr) else None,
                lport=lport or None,
                raddr=address_text(raddr, family),
                rport=rport,
                connects=int.from_bytes(value, sys.byteorder),
            )
        )
    return rows


def _result(event: Any, _clock: Clock) -> str | None:
    outcome: str | None = event.outcome
    error: str | None = event.error
    return error if outcome == "error" else outcome


def _latency(event: Any, _clock: Clock) -> str | None:
    return None if event.latency_ms is None else f"{event.latency_ms:.3f}"


OLD_MS = 100
LOCALHOST = ("127.0.0.1", "::1")


def _query(event: Any, _clock: Clock) -> str:
    if event.raddr in LOCALHOST:
        return "localhost"
    if event.query is None:
        return "No DNS Query"
    age = event.query_age_ms
    return f"{event.query} ({age:.3f}ms)" if age > OLD_MS else str(event.query)


def _connect_once() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=1),
    ):
        pass


_STATE = Hook("raw_tracepoint", "inet_sock_set_state", "on_state")
_SECURITY = "security_socket_connect"
_ENTRIES_AND_RETURNS = {
    "tcp_v4_connect": "v4_connect",
    "tcp_v6_connect": "v6_connect",
    "tcp_v4_pre_connect": "v4_connect",
    "tcp_v6_pre_connect": "v6_connect",
    _SECURITY: "security",
}


def _around(enter: How, leave: How, functions: Iterable[str]) -> tuple[Hook, ...]:
    """Return the hooks at entry and return; a kernel without IPv6 has but tcp_v4_connect."""
    return tuple(
        Hook(how, name, f"{way}_{_ENTRIES_AND_RETURNS[name]}", optional=name != "tcp_v4_connect")
        for name in functions
        for how, way in ((enter, "enter"), (leave, "exit"))
    )


COUNT_TABLE = Table(
    shown=(LADDR, RADDR, RPORT, field("connects", "CONNECTS", 8, "cyan")),
    more=(TIME, IP, LPORT_AFTER_SADDR),
)

CONNECT = Probe(
    name="connect",
    source=Path(__file__).with_name("connect.bpf.c"),
    records=(Connect,),
    variants=(
        Variant(
            "fentry",
            (
                _STATE,
                *_around("fentry", "fexit", ("tcp_v4_connect", "tcp_v6_connect")),
                Hook("fexit", "tcp_v4_pre_connect", "exit_pre_connect", optional=True),
                Hook("fexit", "tcp_v6_pre_connect", "exit_pre_connect", optional=True),
                Hook("fexit", _SECURITY, "exit_security", optional=True),
            ),
        ),
        Variant("kprobe", (_STATE, *_around("kprobe", "kretprobe", _ENTRIES_AND_RETURNS))),
        Variant(
            "tracepoint",
            (
                _STATE,
                Hook("raw_tracepoint", "sched_switch", "on_switch"),
                Hook("tracepoint", "syscalls:sys_enter_connect", "enter_connect_syscall"),
                Hook("tracepoint", "syscalls:sys_exit_connect", "exit_connect_syscall"),
            ),
        ),
    ),
    filters=ALL_FILTERS,
    ports="Destination ports",
    columns=(PID, COMM, IP, SADDR, DADDR, DPORT),
    more_columns=(
        *COMMON,
        LPORT_AFTER_SADDR,
        ERR,
        Column("result", "RESULT", 11, _result, "yellow"),
        Column("lat", "LAT(ms)", 9, _latency, "cyan"),
        field("retr", "RETR", 4, name="retransmits"),
        Column("query", "QUERY", 24, _query, "green"),
    ),
    switches={"COUNTS": Switch(maps=("counts",))},
    self_test=_connect_once,
)
