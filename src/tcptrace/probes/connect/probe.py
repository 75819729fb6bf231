"""Attempts to connect: `CONNECT`."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterable
from pathlib import Path

from tcptrace.kernel.hooks import Hook, How, with_stand_in
from tcptrace.model.columns import COMM, COMMON, ERR, IP, PID, field, repeated
from tcptrace.probes.connect.by_tracefs import BY_TRACEFS, SECURITY
from tcptrace.probes.connect.columns import (
    DADDR,
    DPORT,
    LATENCY,
    LPORT_AFTER_SADDR,
    QUERY,
    RESULT,
    SADDR,
)
from tcptrace.probes.connect.counts import COUNT_KEY
from tcptrace.probes.connect.records import ENDS, Connect
from tcptrace.probes.connect.under_way import UNDER_WAY
from tcptrace.probes.probe import ALL_FILTERS, ALWAYS, Probe, Switch, Variant
from tcptrace.probes.trace_points import WITHOUT_TASK


def _connect_once() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=1),
    ):
        pass


_STATE = (
    *with_stand_in("inet_sock_set_state", "connect_on_state"),
    Hook("raw_tracepoint", "tcp_retransmit_skb", "connect_on_retransmit"),
)
_ENTRIES_AND_RETURNS = {
    "tcp_v4_connect": "v4",
    "tcp_v6_connect": "v6",
    "tcp_v4_pre_connect": "v4",
    "tcp_v6_pre_connect": "v6",
    SECURITY: "security",
}


def _around(enter: How, leave: How, functions: Iterable[str]) -> tuple[Hook, ...]:
    """Return the hooks at entry and return; a kernel without IPv6 has but tcp_v4_connect."""
    return tuple(
        Hook(
            how,
            name,
            f"connect_{way}_{_ENTRIES_AND_RETURNS[name]}",
            optional=name != "tcp_v4_connect",
        )
        for name in functions
        for how, way in ((enter, "enter"), (leave, "exit"))
    )


CONNECT = Probe(
    name="connect",
    source=Path(__file__).with_name("connect.bpf.c"),
    more_sources=tuple(
        Path(__file__).with_name(f"{name}.bpf.c") for name in ("functions", "syscalls")
    ),
    records=(Connect,),
    variants=(
        Variant(
            "fentry",
            (
                *_STATE,
                *_around("fentry", "fexit", ("tcp_v4_connect", "tcp_v6_connect")),
                Hook("fexit", "tcp_v4_pre_connect", "connect_exit_pre", optional=True),
                Hook("fexit", "tcp_v6_pre_connect", "connect_exit_pre", optional=True),
                Hook("fexit", SECURITY, "connect_exit_security", optional=True),
            ),
        ),
        Variant("kprobe", (*_STATE, *_around("kprobe", "kretprobe", _ENTRIES_AND_RETURNS))),
        Variant(
            "tracepoint",
            (
                *_STATE,
                Hook("raw_tracepoint", "sched_switch", "connect_on_switch"),
                Hook("tracepoint", "syscalls:sys_enter_connect", "connect_enter_syscall"),
                Hook("tracepoint", "syscalls:sys_exit_connect", "connect_exit_syscall"),
            ),
        ),
    ),
    filters=ALL_FILTERS,
    ports="Destination ports",
    port_fields=("rport",),
    columns=(PID, COMM, IP, SADDR, DADDR, DPORT),
    extra_columns=(
        *COMMON,
        LPORT_AFTER_SADDR,
        ERR,
        RESULT,
        LATENCY,
        field(
            "retr",
            "RETR",
            4,
            name="retransmits",
            concern=repeated,
            meaning="SYNs that were sent again",
        ),
        QUERY,
    ),
    switches={
        "CONNECT_COUNTS": Switch(maps=("counts",)),
        "CONNECT_OUTCOME": Switch(is_flag=True, maps=(UNDER_WAY,)),
        "CONNECT_SLOWER_NS": Switch(is_value=True),
    },
    numbers={
        **{f"CONNECT_{name.upper()}": number for number, name in enumerate(ENDS) if name},
        "SIZE_COUNT_KEY": COUNT_KEY.size,
    },
    self_test=_connect_once,
    trace_variants=(BY_TRACEFS,),
    gaps={
        "ftrace": dict.fromkeys(
            (
                *WITHOUT_TASK,
                *("latency_ms", "iss", "irs", "retransmits", "outcome"),
                *("query", "query_age_ms"),
            ),
            ALWAYS,
        )
    },
)

FAILED = dataclasses.replace(
    CONNECT,
    variants=tuple(
        dataclasses.replace(
            variant, defines=(*variant.defines, "CONNECT_OUTCOME", "CONNECT_FAILED_ONLY")
        )
        for variant in CONNECT.variants
    ),
    trace_variants=(),
    gaps={},
    self_test=None,
    maps=(UNDER_WAY,),
)
"""Attempts that never became connections, for other probes."""
