"""Rows of `tcptrace top`: what an interval came to under one key."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal

from tcptrace.model.events import Row
from tcptrace.top import aggregator
from tcptrace.top.aggregator import FAILED, Interval
from tcptrace.top.figures import (
    ABORTED,
    ERROR,
    MEDIAN,
    P95,
    REFUSED,
    TIMEOUT,
    UNREACHABLE,
    Distribution,
    Figures,
)
from tcptrace.top.keys import Dimension, cells, json_keys

Scope = Literal["key", "others", "total"]
FAILURE_KEYS = {
    "refused": REFUSED,
    "timed_out": TIMEOUT,
    "unreachable": UNREACHABLE,
    "aborted": ABORTED,
    "failed_otherwise": ERROR,
}
"""JSON keys of the kinds of failures."""


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Traffic(Row):
    """What happened under one key in an interval."""

    type: ClassVar[str] = "top"

    ts_ns: int
    """The interval's end, CLOCK_MONOTONIC, nanoseconds."""
    scope: Scope
    """Whether it is of a key, of all that has fallen out, or of all there is."""
    interval_s: float
    pid: int | None = None
    uid: int | None = None
    comm: str | None = None
    netns: int | None = None
    cgroup: str | None = None
    unit: str | None = None
    container: str | None = None
    container_name: str | None = None
    pod: str | None = None
    pod_namespace: str | None = None
    destination: str | None = None
    name: str | None = None
    port: int | None = None
    peer: str | None = None
    listener: str | None = None
    attempts: int
    accepts: int
    closes: int
    failed: int | None
    """Absent, as the kinds are, where a recording was made without."""
    refused: int | None
    timed_out: int | None
    unreachable: int | None
    aborted: int | None
    failed_otherwise: int | None
    open: int
    """Connections, at the interval's end."""
    tx_bytes: int | None
    """Of a recording, those of connections that have ended; absent where none has."""
    rx_bytes: int | None
    retransmits: int | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    rtt_ms: float | None
    """Median of the open connections."""
    run: dict[str, Any] | None = None
    """The same, but for what is open, since the start."""

    @property
    def weight(self) -> int:
        """How many attempts and accepts it counts in the summary: those of the whole run, once."""
        run = (self.run if self.scope == "total" else None) or {"attempts": 0, "accepts": 0}
        return int(run["attempts"] + run["accepts"])


def _quantile(distribution: Distribution, share: float, divisor: float = 1) -> float | None:
    value = distribution.quantile(share)
    return None if value is None else float(f"{value / divisor:.4g}")


def _counts(figures: Figures, count: int, interval: Interval) -> dict[str, Any]:
    """Return figures, by JSON key, of a row with so many open connections."""
    knows_failures = FAILED not in interval.lacking
    knows_bytes = interval.knows_bytes(figures, count)
    kinds = figures.failures if knows_failures else {}
    return {
        "attempts": figures.attempts,
        "accepts": figures.accepts,
        "closes": figures.closes,
        "failed": figures.failed if knows_failures else None,
        **{
            key: kinds.get(kind, 0 if knows_failures else None)
            for key, kind in FAILURE_KEYS.items()
        },
        "tx_bytes": figures.tx_bytes if knows_bytes else None,
        "rx_bytes": figures.rx_bytes if knows_bytes else None,
        "retransmits": figures.retransmits if knows_bytes else None,
        "latency_p50_ms": _quantile(figures.latency_ms, MEDIAN),
        "latency_p95_ms": _quantile(figures.latency_ms, P95),
    }


def _known(counts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in counts.items() if value is not None}


def traffic_of(
    row: aggregator.Row,
    interval: Interval,
    dimensions: Sequence[Dimension],
    scope: Scope = "key",
    *,
    wall_ns: int = 0,
    whole_run: bool = True,
) -> Traffic:
    """Return what an interval came to in one row; with that of the whole run if wanted."""
    return Traffic(
        wall_ns=wall_ns,
        ts_ns=interval.end_ns,
        scope=scope,
        interval_s=interval.seconds,
        **dict(zip(json_keys(dimensions), row.key or (), strict=False)),
        **_counts(row.last, row.open, interval),
        open=row.open,
        rtt_ms=_quantile(row.rtt_us, MEDIAN, 1000),
        run=_known(_counts(row.run, row.open, interval)) if whole_run else None,
    )


def is_alive(row: aggregator.Row) -> bool:
    """Tell whether a row has something to say of the last interval."""
    return row.open > 0 or not row.last.is_quiet


def table(
    interval: Interval,
    dimensions: Sequence[Dimension],
    rows: Iterable[aggregator.Row],
    wall_ns: int = 0,
) -> Iterator[Traffic]:
    """Yield some rows of an interval, then that of what fell out, if any, and the total.

    `wall_ns` is the interval's end by the wall clock.
    """

    def of(row: aggregator.Row, scope: Scope) -> Traffic:
        return traffic_of(row, interval, dimensions, scope, wall_ns=wall_ns)

    for row in rows:
        yield of(row, "key")
    if interval.fallen_out:
        yield of(interval.others, "others")
    yield of(interval.total, "total")


def activity(row: aggregator.Row) -> tuple[float, float, float]:
    """Return by what rows are ordered where nothing is said: the busiest first."""
    last = row.last
    return last.attempts + last.accepts, last.rx_bytes + last.tx_bytes, row.open


def search_text(row: aggregator.Row, dimensions: Sequence[Dimension]) -> str:
    """Return what a row is found by."""
    return " ".join(filter(None, cells(dimensions, row.key or ()))).lower()


def sort_text(dimensions: Sequence[Dimension], row: aggregator.Row, at: int) -> tuple[Any, ...]:
    """Return what a row is ordered by under one of its dimensions; what is not known comes last."""
    text = cells(dimensions, row.key or ())[at]
    if text is None:
        return (2,)
    return (0, int(text)) if text.isdecimal() else (1, text.lower())
