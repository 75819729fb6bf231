"""What a run came to, by destination: `Summary` adds rows up, `Total` is a row of the result."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any, ClassVar

from tcptrace.model.columns import SLOW_MS, TIME, Column, Mark, Table, field, milliseconds
from tcptrace.model.events import Row

KINDS = {
    "ECONNREFUSED": "refused",
    "ETIMEDOUT": "timeout",
    "EHOSTUNREACH": "unreachable",
    "ENETUNREACH": "unreachable",
}
"""What errors are called; others have their own names."""
MOST_DESTINATIONS = 10_240
OTHERS = "(others)"
"""What is shown for all that came when there were so many."""
DIGITS = 3
"""Latencies are kept to so many digits, so that any number of them takes little memory."""


@dataclasses.dataclass(slots=True, eq=False)
class Total(Row):
    """What came of the attempts to connect to one destination."""

    type: ClassVar[str] = "destination"

    ts_ns: int
    """Of the latest event that counts."""
    query: str | None
    """The name that its addresses were asked for by, where it is known."""
    raddr: str | None
    """Where there is no name."""
    rport: int | None
    attempts: int = 0
    failed: int = 0
    failures: dict[str, int] | None = None
    """How many by kind."""
    latency_p50_ms: float | None = None
    """Of the attempts that succeeded, from the SYN to ESTABLISHED."""
    latency_p95_ms: float | None = None
    open: int | None = None
    """Connections whose end was not seen; what they carried is not known."""
    tx_bytes: int | None = None
    rx_bytes: int | None = None
    open_ms: float | None = None
    """How long they were open, all together."""


class _Destination:
    """Adds up what is about one destination."""

    def __init__(self, query: str | None, raddr: str | None, rport: int | None) -> None:
        self.total = Total(0, query, raddr, rport)
        self._failures: Counter[str] = Counter()
        self._latencies: Counter[float] = Counter()

    def attempt(self, row: Any) -> None:
        """Count an attempt."""
        self._note(row)
        self.total.attempts += 1
        kind = _failure(row)
        if kind:
            self._failures[kind] += 1
        elif row.latency_ms is not None:
            self._latencies[float(f"{row.latency_ms:.{DIGITS}g}")] += 1

    def close(self, row: Any) -> None:
        """Count the end of a connection."""
        total = self.total
        self._note(row)
        total.tx_bytes = (total.tx_bytes or 0) + row.tx_bytes
        total.rx_bytes = (total.rx_bytes or 0) + row.rx_bytes
        total.open_ms = (total.open_ms or 0.0) + (row.duration_ms or 0.0)

    def _note(self, row: Any) -> None:
        if row.ts_ns >= self.total.ts_ns:
            self.total.ts_ns, self.total.wall_ns = row.ts_ns, row.wall_ns

    def result(self, left: int | None) -> Total:
        """Return what it came to; `left` is how many connections are open."""
        open_ms = self.total.open_ms
        return dataclasses.replace(
            self.total,
            open_ms=None if open_ms is None else round(open_ms, 6),
            failed=self._failures.total(),
            failures=dict(self._failures.most_common()) or None,
            latency_p50_ms=_quantile(self._latencies, 0.5),
            latency_p95_ms=_quantile(self._latencies, 0.95),
            open=left,
        )


def _failure(row: Any) -> str | None:
    """Return how an attempt failed; None where it succeeded, or is under way."""
    error: str | None = row.error
    if row.outcome in {None, "error"}:
        return KINDS.get(error or "", error)
    return None if row.outcome == "established" else str(row.outcome)


def _quantile(values: Counter[float], part: float) -> float | None:
    """Return the least value that at least this part of all does not exceed."""
    wanted = values.total() * part
    below = 0
    for value in sorted(values):
        below += values[value]
        if below >= wanted:
            return value
    return None


class Summary:
    """Adds up attempts to connect, and what became of their connections."""

    def __init__(self, *, has_ends: bool, most: int = MOST_DESTINATIONS) -> None:
        """Have none.

        Args:
            has_ends: whether ends of connections will come, too.
            most: destinations beyond so many are one.

        """
        self._has_ends = has_ends
        self._most = most
        self._destinations: dict[tuple[str | None, int | None], _Destination] = {}
        self._open: dict[tuple[Any, ...], _Destination] = {}

    def add(self, rows: Iterable[Any]) -> None:
        """Take rows of `connect` or `tracer`; what was accepted is about no destination."""
        for row in rows:
            if row.type == "connect":
                self._attempt(row)
            elif row.type == "close":
                self._close(row)

    def _attempt(self, row: Any) -> None:
        destination = self._of(row)
        destination.attempt(row)
        if self._has_ends and row.outcome == "established":
            self._open[_ends(row)] = destination

    def _close(self, row: Any) -> None:
        destination = self._open.pop(_ends(row), None)
        if destination:
            destination.close(row)

    def _of(self, row: Any) -> _Destination:
        key = row.query or row.raddr, row.rport
        known = self._destinations
        if key not in known and len(known) >= self._most:
            return known.setdefault((None, None), _Destination(None, None, None))
        if key not in known:
            known[key] = _Destination(row.query, None if row.query else row.raddr, row.rport)
        return known[key]

    def rows(self) -> list[Total]:
        """Return a row for each destination, those with the most attempts first."""
        still_open = Counter(self._open.values())
        rows = [
            destination.result(still_open[destination] if self._has_ends else None)
            for destination in self._destinations.values()
        ]
        return sorted(rows, key=lambda row: (-row.attempts, _name(row, 0), row.rport or 0))


def _ends(row: Any) -> tuple[Any, ...]:
    return row.netns, row.laddr, row.lport, row.raddr, row.rport


def _name(row: Total, _first_ns: int) -> str:
    return row.query or row.raddr or OTHERS


def _why(row: Total, _first_ns: int) -> str | None:
    """Return the kinds of failures with their numbers."""
    return ", ".join(f"{kind} {number}" for kind, number in (row.failures or {}).items()) or None


def _has_failed(row: Total) -> Mark | None:
    """Find that some attempt failed."""
    return "failure" if row.failed else None


_ALWAYS = (
    Column(
        "destination",
        "DESTINATION",
        24,
        _name,
        "bold",
        meaning="name that the address was asked for by, or the address",
    ),
    field("rport", "DPORT", 5, meaning="remote port"),
    field("attempts", "ATTEMPTS", 8, meaning="how often a connection was tried"),
    field("failed", "FAILED", 6, concern=_has_failed, meaning="how many of them failed"),
    milliseconds(
        "lat",
        "LAT(ms)",
        9,
        name="latency_p50_ms",
        slow_ms=SLOW_MS,
        meaning="median of the milliseconds from the SYN to the connection",
    ),
    milliseconds(
        "p95",
        "P95(ms)",
        9,
        name="latency_p95_ms",
        slow_ms=SLOW_MS,
        meaning="how many milliseconds 95 of 100 did not exceed",
    ),
)
_OF_ENDS = (
    field("tx", "TX", 9, name="tx_bytes", meaning="payload bytes that were sent"),
    field("rx", "RX", 9, name="rx_bytes", meaning="payload bytes that were received"),
    milliseconds(
        "open_ms",
        "OPEN(ms)",
        10,
        name="open_ms",
        meaning="how long connections were open, all together",
    ),
)
_WHY = Column("why", "WHY", 16, _why, concern=_has_failed, meaning="how many failed in which way")
_OPEN = field("open", "OPEN", 5, meaning="connections that were open at the end")
OF_ATTEMPTS = Table((*_ALWAYS, _WHY), (TIME,))
OF_CONNECTIONS = Table((*_ALWAYS, *_OF_ENDS, _WHY), (TIME, _OPEN))
