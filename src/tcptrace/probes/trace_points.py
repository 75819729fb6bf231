"""What probes ask of tracefs alone, without BPF: data, and what its events mean."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tcptrace.kernel.fetch import COMM
from tcptrace.model.events import Event, address_text
from tcptrace.model.identity import Identity, Program

AF_INET, AF_INET6 = 2, 10
IPPROTO_TCP, IPPROTO_MPTCP = 6, 262
IS_TCP = f"(protocol == {IPPROTO_TCP} || protocol == {IPPROTO_MPTCP})"
IPV6_FIELDS: Mapping[str, int] = {"laddr6": 4, "raddr6": 4}
WITHOUT_TASK = ("mntns", "cgroup_id", *Identity._fields, *Program._fields)
"""What needs the task's own structs, which tracefs does not reach."""
_MAPPED = b"\0" * 10 + b"\xff\xff"


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """A kernel function at whose entry, or return, an event is recorded."""

    function: str
    fetch: Mapping[str, str]
    """By the names of the fields, C expressions over the function's parameters; see
    `tcptrace.kernel.fetch`. All points of an event fetch the same fields."""
    at_return: bool = False
    optional: bool = False
    """Left out where the kernel has no such function."""


@dataclasses.dataclass(frozen=True, slots=True)
class TraceEvent:
    """An event to be defined in tracefs."""

    name: str
    points: tuple[Point, ...]
    condition: str = ""
    """The filter of its own, in tracefs's syntax."""
    is_filtered: bool = True
    """Whether it has the fields that the user's filters are about."""
    any_port: str = ""
    """Where this holds, ports are not known yet, and not compared."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """An event that was recorded; arrays and ports as their bytes, in network order."""

    name: str
    ts_ns: int
    pid: int
    tid: int
    fields: Mapping[str, Any]
    is_kernel: bool = False
    """Whether the task is a kernel thread."""


Wants = Callable[[Sample], bool]
"""Tells whether filters keep a sample: those by process, name and user, or that by port."""
Follow = Callable[[Sample], Iterable[Event]]
"""Makes records of a sample, or remembers it until another one completes it."""


@dataclasses.dataclass(frozen=True, slots=True)
class TraceVariant:
    """One way to hook a probe with tracefs alone."""

    name: str
    """What it hooks, for people."""
    events: tuple[TraceEvent, ...]
    follow: Callable[[Wants, Wants], Follow]
    """Takes the filters by task and by port."""
    ports: tuple[str, ...]
    """The fields that ``-P`` is about."""
    may_lack: Mapping[str, int] = dataclasses.field(default_factory=lambda: IPV6_FIELDS)
    """Fields that are 0 where a kernel has no such members, with their number of words."""
    in_softirq: bool = False
    """Whether some events come in softirq context, where the current task is any: then `follow`
    applies the filters by task, not the kernel."""
    options: frozenset[str] = frozenset()
    """Switches that it can honour; see `tcptrace.probes.Probe.switches`."""


def sock_fields(sk: str) -> dict[str, str]:
    """Return what is fetched of a `struct sock *`, which is a C expression."""
    common = f"{sk}->__sk_common"
    return {
        "family": f"{common}.skc_family",
        "protocol": f"{sk}->sk_protocol",
        "laddr": f"{common}.skc_rcv_saddr",
        "raddr": f"{common}.skc_daddr",
        "laddr6": f"{common}.skc_v6_rcv_saddr.in6_u.u6_addr32",
        "raddr6": f"{common}.skc_v6_daddr.in6_u.u6_addr32",
        "lport": f"((struct inet_sock *){sk})->inet_sport",
        "rport": f"{common}.skc_dport",
        "netns": f"{common}.skc_net.net->ns.inum",
        "uid": f"{sk}->sk_uid.val",
        "comm": COMM,
    }


# The MPTCP connection that a socket is a subflow of.
_SUBFLOW = (
    "((struct mptcp_subflow_context *)((struct inet_connection_sock *){})->icsk_ulp_data)->conn"
)


def subflow_fields(sk: str) -> dict[str, str]:
    """Return what tells whether a `struct sock *` is one that the kernel added to MPTCP."""
    return {
        "is_mptcp": f"((struct tcp_sock *){sk})->is_mptcp",
        "mptcp_sk": _SUBFLOW.format(sk),
        "path_sk": f"((struct mptcp_sock *){_SUBFLOW.format(sk)})->first",
    }


MAY_LACK_SUBFLOWS: Mapping[str, int] = dict.fromkeys(subflow_fields("sk"), 1)


def is_added_subflow(sample: Sample) -> bool:
    """Tell whether the kernel has added it to an MPTCP connection, which has another first one."""
    fields = sample.fields
    if not fields["is_mptcp"] or not fields["mptcp_sk"]:
        return False
    return bool(fields["path_sk"] != fields["sk"])


def is_mapped(raddr6: bytes) -> bool:
    """Tell whether an address is an IPv4-mapped one."""
    return raddr6[:12] == _MAPPED


def _ends(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the family and both ends; an end without address and port is absent."""
    is_ipv4 = fields["family"] == AF_INET or is_mapped(fields["raddr6"])
    ends: dict[str, Any] = {"family": 4 if is_ipv4 else 6}
    for end in "lr":
        number = fields[f"{end}addr"].to_bytes(4, sys.byteorder)
        address = number if is_ipv4 else fields[f"{end}addr6"]
        port = int.from_bytes(fields[f"{end}port"], "big")
        is_known = port or any(address)
        ends[f"{end}addr"] = address_text(address, ends["family"]) if is_known else None
        ends[f"{end}port"] = port if is_known else None
    ends["lport"] = ends["lport"] or None
    return ends


def head(sample: Sample) -> dict[str, Any]:
    """Return the values that every record begins with; tracefs knows no cgroup, no mount namespace.

    The user is the socket's: who made it, or accepted it.
    """
    return {
        "ts_ns": sample.ts_ns,
        "cgroup_id": None,
        "pid": sample.pid,
        "tid": sample.tid,
        "uid": sample.fields["uid"],
        "netns": sample.fields["netns"],
        "mntns": None,
        "comm": sample.fields["comm"],
        "who": 0,
        **_ends(sample.fields),
    }
