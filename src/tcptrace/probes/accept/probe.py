"""Accepted TCP connections: `ACCEPT`."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from tcptrace.kernel.hooks import Hook
from tcptrace.model.columns import (
    COMM,
    COMMON,
    ERR,
    IP,
    LADDR,
    LPORT,
    PID,
    RADDR,
    RPORT,
    Column,
    Mark,
)
from tcptrace.model.events import U32, Event, OnLink, OptionalU32, Sequence32, error_name
from tcptrace.probes.probe import ALL_FILTERS, ALWAYS, Probe, Switch, Variant
from tcptrace.probes.trace_points import (
    IPPROTO_MPTCP,
    IPV6_FIELDS,
    IS_TCP,
    WITHOUT_TASK,
    Point,
    Sample,
    TraceEvent,
    TraceVariant,
    head,
    sock_fields,
)


@dataclasses.dataclass(slots=True, eq=False)
class Accept(OnLink, Event):
    """One accept(2) that ended; `struct accept_event` in accept.bpf.c."""

    type = "accept"

    backlog: OptionalU32
    """Connections that wait in the listener's queue, after this one was taken."""
    backlog_max: OptionalU32
    error: Annotated[str | None, "i", error_name]
    """errno's name for an accept that failed; its addresses are the listener's."""
    _link: U32
    iss: Sequence32
    """Initial send sequence number: of our end (RFC 9293)."""
    irs: Sequence32
    """Initial receive sequence number: of the peer's end. Together they are the other end's, in
    turn, also where addresses are translated."""


def _backlog(event: Any, _first_ns: int) -> str | None:
    return None if event.backlog is None else f"{event.backlog}/{event.backlog_max}"


def _crowded(event: Any) -> Mark | None:
    """Find a queue that is full, so that the kernel turns clients away, or half full."""
    if not event.backlog:
        return None
    if event.backlog >= event.backlog_max:
        return "failure"
    return "unusual" if event.backlog * 2 >= event.backlog_max else None


def _accept_once() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=1),
    ):
        server.accept()[0].close()


_SYSCALLS = tuple(
    Hook("tracepoint", f"syscalls:sys_{way}_{call}", f"accept_{way}_syscall")
    for way in ("enter", "exit")
    for call in ("accept", "accept4")
)
_URING = tuple(
    Hook("raw_tracepoint", f"io_uring_{event}", f"accept_on_{program}", optional=True)
    for event, program in (
        ("submit_req", "submit"),
        ("task_add", "wake"),
        ("complete", "complete"),
    )
)

NO_LISTENER = "the kernel has no `__inet_accept`"
# The inode of a new socket has the user who accepts.
_USER = "((struct socket_alloc *){})->vfs_inode.i_uid.val"
_FIRST_SUBFLOW = "((struct mptcp_sock *)sock->sk)->first"


def accepted(sample: Sample) -> Iterator[Accept]:
    """Yield the accept that a sample is of; nothing for a subflow of MPTCP."""
    fields = sample.fields
    if fields.get("parent_sk", fields["sk"]) != fields["sk"]:
        return  # its parent's own socket is another
    queue = "first" if fields.get("listener_protocol") == IPPROTO_MPTCP else "listener"
    yield Accept(
        **head(sample),
        backlog=fields.get(f"{queue}_backlog"),
        backlog_max=fields.get(f"{queue}_backlog_max"),
        error=None,
        _link=0,
        iss=None,
        irs=None,
    )


def _trace_variant(point: Point) -> TraceVariant:
    return TraceVariant(
        point.function,
        (TraceEvent("accept", (point,), condition=IS_TCP),),
        follow=lambda *_: accepted,
        ports=("lport",),
        may_lack={**IPV6_FIELDS, "first_backlog": 1, "first_backlog_max": 1},
    )


ACCEPT = Probe(
    name="accept",
    source=Path(__file__).with_name("accept.bpf.c"),
    records=(Accept,),
    variants=(
        *(
            variant
            for backend in ("fentry", "kprobe")
            for variant in (
                Variant(
                    backend,
                    (Hook(backend, "__inet_accept", "accept_enter_inet"),),
                    ("ACCEPT_INET",),
                ),
                Variant(
                    backend,
                    (
                        Hook(backend, "inet_csk_accept", "accept_enter_csk"),
                        Hook(backend, "security_sock_graft", "accept_enter_graft"),
                    ),
                    ("ACCEPT_GRAFT",),
                ),
            )
        ),
        Variant("tracepoint", (*_SYSCALLS, *_URING), ("ACCEPT_SYSCALLS",)),
    ),
    filters=ALL_FILTERS,
    ports="Local ports",
    port_fields=("lport",),
    columns=(PID, COMM, IP, RADDR, RPORT, LADDR, LPORT),
    extra_columns=(
        *COMMON,
        Column(
            "bl",
            "BL",
            7,
            _backlog,
            concern=_crowded,
            asks=("backlog", "backlog_max"),
            meaning="the listener's accept queue: length after this connection was taken / limit",
        ),
        ERR,
    ),
    switches={
        "ACCEPT_FAILED": Switch(
            tuple(
                Variant(backend, _SYSCALLS, ("ACCEPT_SYSCALLS",))
                for backend in ("fentry", "kprobe")
            )
        )
    },
    gaps={
        "tracepoint": dict.fromkeys(("backlog", "backlog_max"), "accept began before the trace"),
        "ftrace": {
            **dict.fromkeys((*WITHOUT_TASK, "error", "iss", "irs"), ALWAYS),
            **dict.fromkeys(("backlog", "backlog_max"), NO_LISTENER),
        },
    },
    self_test=_accept_once,
    trace_variants=tuple(
        map(
            _trace_variant,
            (
                Point(
                    "__inet_accept",
                    {
                        **sock_fields("newsk"),
                        "sk": "newsk",
                        "uid": _USER.format("newsock"),
                        "listener_protocol": "sock->sk->sk_protocol",
                        "listener_backlog": "sock->sk->sk_ack_backlog",
                        "listener_backlog_max": "sock->sk->sk_max_ack_backlog",
                        "first_backlog": f"{_FIRST_SUBFLOW}->sk_ack_backlog",
                        "first_backlog_max": f"{_FIRST_SUBFLOW}->sk_max_ack_backlog",
                    },
                ),
                Point(
                    "security_sock_graft",
                    {
                        **sock_fields("sk"),
                        "sk": "sk",
                        "uid": _USER.format("parent"),
                        "parent_sk": "parent->sk",
                    },
                ),
            ),
        )
    ),
)
