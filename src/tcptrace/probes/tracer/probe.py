"""Connections from beginning to end: `TRACER`."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tcptrace.kernel.hooks import with_stand_in
from tcptrace.model.columns import (
    COMM,
    COMMON,
    ERR,
    IP,
    LPORT,
    NETNS,
    PID,
    RADDR,
    RPORT,
    TIME_S,
    Column,
    Mark,
    field,
    milliseconds,
    repeated,
    since,
)
from tcptrace.model.events import (
    json_keys,
)
from tcptrace.model.identity import Program
from tcptrace.probes.accept.probe import ACCEPT, Accept
from tcptrace.probes.connect.columns import LATENCY, QUERY, RESULT, SADDR
from tcptrace.probes.probe import ALL_FILTERS, ALWAYS, BPF_BACKENDS, Probe, Switch, Variant
from tcptrace.probes.trace_points import (
    IS_TCP,
    MAY_LACK_SUBFLOWS,
    Point,
    TraceEvent,
    TraceVariant,
    sock_fields,
    subflow_fields,
)
from tcptrace.probes.tracer.connections import Connections
from tcptrace.probes.tracer.records import (
    ASKED,
    BY_CLOSER,
    BY_OPENER,
    BY_OWNER,
    ENDED_BY,
    OLDER,
    PASSED,
    Closed,
    Connected,
    Open,
)

LETTERS = {"connect": "C", "accept": "A", "close": "X", "open": "O", "failed": "F"}


def is_failure(event: Any) -> bool:
    """Tell whether a row is of an attempt that never became a connection."""
    return bool(event.type == "connect" and event.outcome != "established")


def _kind(event: Any, _first_ns: int = 0) -> str:
    """Return the type of a row, where an attempt that failed is one of its own."""
    return "failed" if is_failure(event) else str(event.type)


def _letter(event: Any, _first_ns: int) -> str:
    return LETTERS[_kind(event)]


def _broken(event: Any) -> Mark | None:
    """Find a connection that did not end as its processes wanted, or an attempt that failed."""
    if is_failure(event):
        return "failure"
    if event.type != "close":
        return None
    if event.error is not None:
        return "failure"
    return "unusual" if event.ended_by == "reset" else None


def _nanoseconds(event: Any, first_ns: int) -> int:
    return since(event, first_ns)


def _of(types: Collection[str], column: Column) -> Column:
    """Return the column with cells in rows of these types only."""

    def value(event: Any, first_ns: int) -> object:
        return column.value(event, first_ns) if event.type in types else None

    def concern(event: Any) -> Mark | None:
        return column.concern(event) if event.type in types else None

    reads = column.reads()
    asks = reads if reads is None else (*reads, "type")
    return dataclasses.replace(column, value=value, concern=concern, asks=asks)


def _of_close(column: Column) -> Column:
    return _of({"close"}, column)


VERBOSE = (
    Column(
        "type",
        "TYPE",
        7,
        _kind,
        concern=_broken,
        asks=("type", "outcome"),
        meaning="connect, accept, close, open at the start, or a failed attempt",
    ),
    dataclasses.replace(
        TIME_S,
        heading="TIME(ns)",
        width=14,
        value=_nanoseconds,
        meaning="nanoseconds since the first row",
    ),
    NETNS,
)
STATS = (
    _of_close(
        milliseconds(
            "ms",
            "MS",
            9,
            name="duration_ms",
            meaning="of X: milliseconds since the connection was established",
        )
    ),
    _of_close(field("tx", "TX", 9, name="tx_bytes", meaning="of X: payload bytes that were sent")),
    _of_close(
        field("rx", "RX", 9, name="rx_bytes", meaning="of X: payload bytes that were received")
    ),
    _of_close(
        field(
            "retr",
            "RETR",
            4,
            name="retransmits",
            concern=repeated,
            meaning="of X: segments that were sent again",
        )
    ),
)
_HOOKS = (
    *with_stand_in("inet_sock_set_state", "tracer_on_state"),
    *with_stand_in("tcp_destroy_sock", "tracer_on_destroyed"),
)


def _state_fields(sk: str) -> dict[str, str]:
    """Return what is fetched to follow a `struct sock *`; see tracer.bpf.c."""
    tcp = f"((struct tcp_sock *){sk})"
    return {
        "from": f"{sk}->__sk_common.skc_state",
        "socket": f"{sk}->sk_socket",
        "owned": f"{sk}->sk_lock.owned",
        "error": f"{sk}->sk_err",
        "flags": f"{sk}->__sk_common.skc_flags",
        **{
            name: f"{tcp}->{name}"
            for name in ("bytes_sent", "bytes_retrans", "bytes_received", "total_retrans")
        },
        "sent_ns": f"{tcp}->tcp_wstamp_ns",
        **subflow_fields(sk),
        "first_sk": f"((struct mptcp_sock *){sk})->first",
    }


_STATES = TraceEvent(
    "state",
    (
        Point(
            "tcp_set_state",
            {**sock_fields("sk"), "sk": "sk", "to": "state", **_state_fields("sk")},
        ),
    ),
    f"{IS_TCP} && from != 10 && (to == 1 || to == 2 || to == 4 || to == 7 || to == 9)",
    any_port="from == 2 || to == 2",
)


# The kernel closes the subflows of an MPTCP connection itself, in a worker.
_CLOSES = TraceEvent(
    "close",
    (
        Point(
            "mptcp_close",
            {**sock_fields("sk"), "sk": "((struct mptcp_sock *)sk)->first"},
            optional=True,
        ),
    ),
)


_MAY_LACK = {**MAY_LACK_SUBFLOWS, "first_sk": 1, "sent_ns": 1}


def _followed(variant: TraceVariant) -> TraceVariant:
    """Return a way to see accepts as one to follow connections."""
    (accept,) = variant.events
    (point,) = accept.points
    fetch = {**point.fetch, **_state_fields(point.fetch["sk"])}
    accept = dataclasses.replace(accept, points=(dataclasses.replace(point, fetch=fetch),))
    return dataclasses.replace(
        variant,
        events=(accept, _STATES, _CLOSES),
        follow=Connections,
        ports=("lport", "rport"),
        may_lack={**variant.may_lack, **_MAY_LACK},
        in_softirq=True,
    )


_NOT_BY_TRACEFS = {
    **{key: when for key, when in ACCEPT.gaps["ftrace"].items() if key != "error"},
    "accept.error": ALWAYS,
    **{f"connect.{key}": ALWAYS for key in ("retransmits", "query", "query_age_ms")},
    **{f"open.{key}": ALWAYS for key in json_keys(Open)},
}

TRACER = Probe(
    name="tracer",
    source=Path(__file__).with_name("tracer.bpf.c"),
    records=(Connected, Closed),
    variants=tuple(Variant(backend, _HOOKS, ("TRACER",)) for backend in BPF_BACKENDS),
    filters=ALL_FILTERS,
    columns=(
        Column(
            "type",
            "T",
            2,
            _letter,
            concern=_broken,
            asks=("type", "outcome"),
            meaning="C connect, A accept, X close, O open at the start, F failed attempt",
        ),
        *(PID, COMM, IP, SADDR),
        dataclasses.replace(RADDR, heading="DADDR"),
        dataclasses.replace(LPORT, heading="SPORT"),
        dataclasses.replace(RPORT, heading="DPORT"),
    ),
    extra_columns=(
        *COMMON,
        *STATS,
        _of_close(
            field(
                "ended",
                "ENDED",
                6,
                name="ended_by",
                concern=_broken,
                meaning="of X: who sent the first FIN, local or remote, or reset",
            )
        ),
        _of_close(
            field(
                "closer",
                "CLOSER",
                6,
                meaning="of X: owner, where the process that closed it is not known",
            )
        ),
        _of({"close", "connect"}, ERR),
        _of({"connect"}, RESULT),
        _of({"connect"}, LATENCY),
        _of({"connect", "open"}, QUERY),
    ),
    companions=(ACCEPT,),
    rows=(Connected, Accept, Closed, Open),
    gaps={
        backend: {
            **ACCEPT.gaps.get(backend, {}),
            "accept.error": ALWAYS,
            "open.tid": ALWAYS,
            **{f"open.{key}": ALWAYS for key in Program._fields},
            **dict.fromkeys(("open.query", "open.query_age_ms"), "answered before the trace"),
        }
        for backend in BPF_BACKENDS
    }
    | {"ftrace": _NOT_BY_TRACEFS},
    trace_variants=tuple(map(_followed, ACCEPT.trace_variants)),
    switches={"MOST_CONNECTIONS": Switch(entries_of="connections")},
    numbers={
        **{f"TRACER_{name.upper()}": number for number, name in enumerate(ENDED_BY) if name},
        "TRACER_BY_OWNER": BY_OWNER,
        "TRACER_OLDER": OLDER,
        "TRACER_PASSED": PASSED,
        "TRACER_BY_OPENER": BY_OPENER,
        "TRACER_BY_CLOSER": BY_CLOSER,
        "TRACER_ASKED": ASKED,
    },
    self_test=ACCEPT.self_test,
)
