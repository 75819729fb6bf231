"""Attempts to connect by kprobes of tracefs, without BPF: `BY_TRACEFS`."""

from __future__ import annotations

from collections.abc import Iterator

from tcptrace.kernel.fetch import RETURN_VALUE
from tcptrace.model.events import error_name
from tcptrace.probes.connect.records import Connect
from tcptrace.probes.trace_points import (
    AF_INET,
    AF_INET6,
    IPV6_FIELDS,
    IS_TCP,
    MAY_LACK_SUBFLOWS,
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

SECURITY = "security_socket_connect"


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
BY_TRACEFS = TraceVariant(
    "tcp_connect",
    (
        TraceEvent(
            "request",
            (Point(SECURITY, _to("sock->sk", "address"), optional=True),),
            _IS_TCP_ADDRESS,
        ),
        _returns("answer", SECURITY),
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
