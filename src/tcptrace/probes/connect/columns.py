"""Columns of attempts to connect, and of their counts."""

from __future__ import annotations

import dataclasses
from typing import Any

from tcptrace.model.columns import (
    IP,
    LADDR,
    LPORT,
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
)

SADDR = dataclasses.replace(LADDR, heading="SADDR")
DADDR = dataclasses.replace(RADDR, heading="DADDR", concern=failed)
DPORT = dataclasses.replace(RPORT, heading="DPORT", concern=failed)
LPORT_AFTER_SADDR = dataclasses.replace(LPORT, after="laddr")


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
    asks=("outcome", "error"),
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
    asks=("raddr", "query", "query_age_ms"),
    meaning="name that the address was asked for by",
)
