"""Attempts to connect: `CONNECT`."""

from __future__ import annotations

import dataclasses
import socket
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tcptrace.kernel.fetch import RETURN_VALUE
from tcptrace.kernel.hooks import Hook, How, with_stand_in
from tcptrace.model.batch import Batch
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
    SLOW_MS,
    TIME,
    Column,
    Mark,
    Table,
    failed,
    field,
    milliseconds,
    repeated,
)
from tcptrace.model.events import (
    U32,
    Event,
    Layout,
    Milliseconds,
    Row,
    Sequence32,
    address_text,
    error_name,
    one_of,
)
from tcptrace.model.filters import BY_PLACE, Filters
from tcptrace.probes.identities import identity_of
from tcptrace.probes.probe import ALL_FILTERS, ALWAYS, Probe, Switch, Variant
from tcptrace.probes.trace_points import (
    AF_INET,
    AF_INET6,
    IPV6_FIELDS,
    IS_TCP,
    MAY_LACK_SUBFLOWS,
    WITHOUT_TASK,
    Point,
    Sample,
    TraceEvent,
    TraceVariant,
    Wants,
    head,
    is_added_subflow,
    sock_fields,
    subflow_fields,
)

OUTCOMES = {
    None: "aborted",
    "ECONNREFUSED": "refused",
    "ETIMEDOUT": "timeout",
    "EHOSTUNREACH": "unreachable",
    "ENETUNREACH": "unreachable",
}


ENDS = (None, "established", "closed")
"""How an attempt that was followed left SYN_SENT, by number."""
SADDR = dataclasses.replace(LADDR, heading="SADDR")
DADDR = dataclasses.replace(RADDR, heading="DADDR", concern=failed)
DPORT = dataclasses.replace(RPORT, heading="DPORT", concern=failed)
LPORT_AFTER_SADDR = dataclasses.replace(LPORT, after="laddr")


@dataclasses.dataclass(slots=True, eq=False)
class Connect(Event):
    """One attempt to connect; `struct connect_event` in connect.bpf.c."""

    type = "connect"
    nullable = frozenset({"error"})

    latency_ms: Milliseconds
    """From the SYN to the end, where the attempt was followed."""
    iss: Sequence32
    """Initial send sequence number: of our end, once it is established (RFC 9293)."""
    irs: Sequence32
    """Initial receive sequence number: of the peer's end."""
    error: Annotated[str | None, "i", error_name]
    """Why it failed: inside the host, or where it was followed, in the end."""
    _end: Annotated[str | None, "I", one_of(*ENDS)]
    retransmits: U32 | None
    """SYN retransmissions, where it was followed."""
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
class Count(Row):
    """How many attempts there were between two addresses to one port; `struct count_key`."""

    type: ClassVar[str] = "count"

    ts_ns: int
    """When it was read."""
    family: int
    laddr: str | None
    lport: int | None
    """Absent unless they were counted by it."""
    raddr: str | None
    rport: int | None
    connects: int

    @property
    def weight(self) -> int:
        """How many attempts the row stands for."""
        return self.connects


COUNT_KEY = struct.Struct("=16s16sHHI")


def read_counts(table: Mapping[bytes, bytes], batch: Batch) -> list[Count]:
    """Return the entries of the map `counts`, as of the end of a batch."""
    rows = []
    for key, value in table.items():
        laddr, raddr, lport, rport, family = COUNT_KEY.unpack(key)
        rows.append(
            Count(
                ts_ns=batch.until_ns,
                wall_ns=batch.wall_ns(batch.until_ns),
                family=family,
                laddr=address_text(laddr, family) if any(laddr) else None,
                lport=lport or None,
                raddr=address_text(raddr, family),
                rport=rport,
                connects=int.from_bytes(value, sys.byteorder),
            )
        )
    return rows


UNDER_WAY = "attempts"
"""The map of attempts that have not ended, by socket; `struct connect_attempt`."""
_ATTEMPT = Layout(Connect)
_BEHIND_EVENT = 8
_KEY = 8


def with_under_way(
    batches: Iterable[Batch],
    table: Callable[[str, int, int], Mapping[bytes, bytes]],
    filters: Filters,
) -> Iterator[Batch]:
    """Yield batches, then what is under way when there are no more: attempts without an outcome.

    `table` returns what a map holds; see `tcptrace.shell.trace.Trace.table`. Of `filters`, those by
    unit, container and pod may not have judged it yet.
    """
    keeps = filters.only(BY_PLACE).predicate()
    last = Batch(iter(()), 0)
    for last in batches:
        yield last
    left = table(UNDER_WAY, _KEY, _ATTEMPT.size + _BEHIND_EVENT).values()
    attempts = list(map(_ATTEMPT.decode, left))
    for attempt in attempts:
        attempt.wall_ns = last.wall_ns(attempt.ts_ns)
        attempt.identity = identity_of(attempt.cgroup_id)
    yield last._replace(events=filter(keeps, attempts))


def merged(rows: Iterable[Count]) -> list[Count]:
    """Return rows with those of the same ends added up."""
    known: dict[tuple[Any, ...], Count] = {}
    for row in rows:
        ends = row.family, row.laddr, row.lport, row.raddr, row.rport
        if ends in known:
            known[ends].connects += row.connects
        else:
            known[ends] = row
    return list(known.values())


class Counted:
    """Counts attempts that come as events, as the kernel counts them."""

    def __init__(self, *, by_lport: bool) -> None:
        """Have none; count by local port, too, where that is wanted."""
        self._by_lport = by_lport
        self._counts: Counter[tuple[Any, ...]] = Counter()

    def add(self, attempts: Iterable[Any]) -> None:
        """Count attempts."""
        self._counts.update(map(self._key, attempts))

    def _key(self, attempt: Any) -> tuple[Any, ...]:
        lport = attempt.lport if self._by_lport else None
        return attempt.family, attempt.laddr, lport, attempt.raddr, attempt.rport

    def rows(self, batch: Batch) -> list[Count]:
        """Return the counts, as of the end of a batch."""
        now_ns = batch.until_ns
        return [
            Count(
                ts_ns=now_ns,
                wall_ns=batch.wall_ns(now_ns),
                family=family,
                laddr=laddr,
                lport=lport,
                raddr=raddr,
                rport=rport,
                connects=count,
            )
            for (family, laddr, lport, raddr, rport), count in self._counts.items()
        ]


def _result(event: Any, _first_ns: int) -> str | None:
    outcome: str | None = event.outcome
    error: str | None = event.error
    return error if outcome == "error" else outcome


def _not_established(event: Any) -> Mark | None:
    """Find an attempt that failed, or that was given up."""
    if event.outcome == "aborted":
        return "unusual"
    return None if event.outcome in {None, "established"} else "failure"


OLD_MS = 100
LOCALHOST = ("127.0.0.1", "::1")


def _query(event: Any, _first_ns: int) -> str:
    if event.raddr in LOCALHOST:
        return "localhost"
    if event.query is None:
        return "No DNS Query"
    age = event.query_age_ms
    is_old = age is not None and age > OLD_MS
    return f"{event.query} ({age:.3f}ms)" if is_old else str(event.query)


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
_SECURITY = "security_socket_connect"
_ENTRIES_AND_RETURNS = {
    "tcp_v4_connect": "v4",
    "tcp_v6_connect": "v6",
    "tcp_v4_pre_connect": "v4",
    "tcp_v6_pre_connect": "v6",
    _SECURITY: "security",
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


class _Attempts:
    """Makes one record of the samples of one attempt.

    A thread passes several points until the call returns; the latest has the most of the tuple.
    Where the first data are to open the connection (TCP_FASTOPEN_CONNECT), the call returns before
    there is a SYN: such a socket is waited for at tcp_connect.
    """

    def __init__(self, *_: Wants) -> None:
        self._requests: dict[int, Sample] = {}
        self._calls: dict[int, Sample] = {}
        self._deferred: set[int] = set()

    def __call__(self, sample: Sample) -> Iterator[Connect]:
        """Yield what the next sample completes."""
        calls = self._requests if sample.name in {"request", "answer"} else self._calls
        if "result" in sample.fields:
            call = calls.pop(sample.tid, None)
            if call:
                yield from self._returned(call, sample)
            return
        if sample.name != "request" and is_added_subflow(sample):
            return
        sk = sample.fields["sk"]
        is_late = sk in self._deferred and sample.name == "syn"
        self._deferred.discard(sk)
        if is_late:
            yield _attempt(sample)
        else:
            calls[sample.tid] = sample

    def _returned(self, call: Sample, sample: Sample) -> Iterator[Connect]:
        """Yield the attempt of a call that returned, unless a request was granted."""
        result = sample.fields["result"]
        if result or call.name == "syn":
            yield _attempt(call, result)
        elif call.name == "attempt":
            self._deferred.add(call.fields["sk"])


def _attempt(sample: Sample, result: int = 0) -> Connect:
    return Connect(
        **head(sample),
        latency_ms=None,
        iss=None,
        irs=None,
        error=error_name(result),
        _end=None,
        retransmits=None,
    )


def _to(sk: str, address: str) -> dict[str, str]:
    """Return what is fetched where the remote end is a `struct sockaddr *`."""
    ipv6 = f"((struct sockaddr_in6 *){address})"
    return {
        **sock_fields(sk),
        "family": f"{address}->sa_family",
        "raddr": f"((struct sockaddr_in *){address})->sin_addr.s_addr",
        "raddr6": f"{ipv6}->sin6_addr.in6_u.u6_addr32",
        "rport": f"{ipv6}->sin6_port",
        "sk": sk,
    }


def _returns(name: str, *functions: str, condition: str = "") -> TraceEvent:
    return TraceEvent(
        name,
        tuple(
            Point(
                function, {"result": RETURN_VALUE}, at_return=True, optional=_is_optional(function)
            )
            for function in functions
        ),
        condition,
        is_filtered=False,
    )


def _is_optional(function: str) -> bool:
    """Tell whether a kernel can be without it: one without IPv6, or security modules."""
    return function not in {"tcp_v4_connect", "inet_hash_connect"}


_CONNECT = ("tcp_v4_connect", "tcp_v6_connect")
_PRE_CONNECT = ("tcp_v4_pre_connect", "tcp_v6_pre_connect")
_SUBFLOW = subflow_fields("sk")
_OF_SOCK = {**sock_fields("sk"), "sk": "sk", **_SUBFLOW}
_IS_TCP_ADDRESS = f"(family == {AF_INET} || family == {AF_INET6}) && {IS_TCP}"
_BY_TRACEFS = TraceVariant(
    "tcp_connect",
    (
        TraceEvent(
            "request",
            (Point(_SECURITY, _to("sock->sk", "address"), optional=True),),
            _IS_TCP_ADDRESS,
        ),
        _returns("answer", _SECURITY),
        TraceEvent(
            "attempt",
            (
                *(
                    Point(function, _to("sk", "uaddr") | _SUBFLOW, optional=_is_optional(function))
                    for function in (*_PRE_CONNECT, *_CONNECT)
                ),
                *(
                    Point(function, _OF_SOCK, optional=_is_optional(function))
                    for function in ("inet_hash_connect", "inet6_hash_connect")
                ),
            ),
            _IS_TCP_ADDRESS,
        ),
        TraceEvent("syn", (Point("tcp_connect", _OF_SOCK),), _IS_TCP_ADDRESS),
        _returns("denied", *_PRE_CONNECT, condition="result < 0"),
        _returns("result", *_CONNECT),
    ),
    follow=_Attempts,
    ports=("rport",),
    may_lack={**IPV6_FIELDS, **MAY_LACK_SUBFLOWS},
)


COUNT_TABLE = Table(
    columns=(
        LADDR,
        RADDR,
        RPORT,
        field("connects", "CONNECTS", 8, meaning="how many attempts there were"),
    ),
    extra_columns=(TIME, IP, LPORT_AFTER_SADDR),
    of="attempt",
)

RESULT = Column(
    "result",
    "RESULT",
    11,
    _result,
    concern=_not_established,
    meaning="how it ended: established, refused, timeout, unreachable, aborted or an error",
)
LATENCY = milliseconds(
    "lat",
    "LAT(ms)",
    9,
    name="latency_ms",
    slow_ms=SLOW_MS,
    meaning="milliseconds from the SYN to the end of the attempt",
)
QUERY = Column(
    "query",
    "QUERY",
    24,
    _query,
    sizes=(24, 48),
    meaning="name that the address was asked for by",
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
                Hook("fexit", _SECURITY, "connect_exit_security", optional=True),
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
    trace_variants=(_BY_TRACEFS,),
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
