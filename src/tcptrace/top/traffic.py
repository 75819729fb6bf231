"""Rows of `tcptrace top`: what an interval came to under one key, and the columns that show it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

from tcptrace.model.columns import SLOW_MS, Column, Mark, no_concern, repeated
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
LABELS = {"others": "(others)", "total": "(total)"}
FAILURE_KEYS = {
    "refused": REFUSED,
    "timed_out": TIMEOUT,
    "unreachable": UNREACHABLE,
    "aborted": ABORTED,
    "failed_otherwise": ERROR,
}
"""JSON keys of the kinds of failures."""
WORDS = {"timed_out": "timeout", "failed_otherwise": "other"}
"""As people read them, where they are others."""
KB = 1000


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


class Measure(NamedTuple):
    """A figure by which rows are shown and ordered."""

    key: str
    heading: str
    """On a screen, where units follow numbers."""
    value: Callable[[Traffic], float | None]
    unit: Literal["count", "rate", "bytes", "ms"]
    meaning: str
    concern: Callable[[Any], Mark | None] = no_concern


def _per_second(key: str) -> Callable[[Traffic], float | None]:
    def value(traffic: Traffic) -> float | None:
        count = getattr(traffic, key)
        return None if count is None or not traffic.interval_s else count / traffic.interval_s

    return value


def _count(key: str) -> Callable[[Traffic], float | None]:
    def value(traffic: Traffic) -> float | None:
        count: float | None = getattr(traffic, key)
        return count

    return value


def _of_run(key: str) -> Callable[[Traffic], float | None]:
    def value(traffic: Traffic) -> float | None:
        return (traffic.run or {}).get(key)

    return value


def _failed(traffic: Any) -> Mark | None:
    return "failure" if traffic.failed else None


def _failed_in_run(traffic: Any) -> Mark | None:
    return "failure" if (traffic.run or {}).get("failed") else None


def _slow(key: str) -> Callable[[Any], Mark | None]:
    def concern(traffic: Any) -> Mark | None:
        ms = getattr(traffic, key)
        return "slow" if ms is not None and ms >= SLOW_MS else None

    return concern


MEASURES = (
    Measure(
        "conn",
        "CONN/s",
        _per_second("attempts"),
        "rate",
        "attempts to connect that have ended, a second",
    ),
    Measure(
        "acc",
        "ACC/s",
        _per_second("accepts"),
        "rate",
        "connections that were accepted, a second",
    ),
    Measure(
        "fail",
        "FAIL",
        _count("failed"),
        "count",
        "attempts that failed, in the interval",
        _failed,
    ),
    Measure(
        "open",
        "OPEN",
        _count("open"),
        "count",
        "connections that are open",
    ),
    Measure(
        "rx",
        "RX/s",
        _per_second("rx_bytes"),
        "bytes",
        "payload received, a second",
    ),
    Measure(
        "tx",
        "TX/s",
        _per_second("tx_bytes"),
        "bytes",
        "payload sent, a second",
    ),
    Measure(
        "lat",
        "LAT",
        _count("latency_p50_ms"),
        "ms",
        "median of the time to connect",
        _slow("latency_p50_ms"),
    ),
    Measure(
        "p95",
        "P95",
        _count("latency_p95_ms"),
        "ms",
        "95th percentile of the time to connect.",
        _slow("latency_p95_ms"),
    ),
    Measure(
        "rtt",
        "RTT",
        _count("rtt_ms"),
        "ms",
        "median round-trip time of the open connections",
        _slow("rtt_ms"),
    ),
    Measure(
        "retr",
        "RETR",
        _count("retransmits"),
        "count",
        "segments sent again",
        repeated,
    ),
    Measure(
        "conns",
        "CONNS",
        _of_run("attempts"),
        "count",
        "attempts to connect since the start",
    ),
    Measure(
        "accs",
        "ACCS",
        _of_run("accepts"),
        "count",
        "connections accepted since the start",
    ),
    Measure(
        "fails",
        "FAILS",
        _of_run("failed"),
        "count",
        "attempts that failed since the start",
        _failed_in_run,
    ),
    Measure(
        "rxall",
        "RX",
        _of_run("rx_bytes"),
        "bytes",
        "payload received since the start",
    ),
    Measure(
        "txall",
        "TX",
        _of_run("tx_bytes"),
        "bytes",
        "payload sent since the start",
    ),
)
BY_KEY = {measure.key: measure for measure in MEASURES}
_HEADINGS = {"bytes": "KB", "ms": "ms"}
_SHOWN = ("conn", "acc", "fail", "open", "rx", "tx", "lat", "p95", "rtt", "retr")
_SPARE = frozenset(("lat", "p95", "rtt", "retr"))
"""Those that a narrow terminal has no room for."""


def why(traffic: Any) -> str | None:
    """Return the most frequent reason why attempts failed."""
    counts = {key: getattr(traffic, key) or 0 for key in FAILURE_KEYS}
    most = max(counts, key=lambda key: counts[key])
    return WORDS.get(most, most) if counts[most] else None


WHY = Column(
    "why",
    "WHY",
    11,
    lambda traffic, _: why(traffic),
    concern=_failed,
    meaning="why most of them failed",
    is_spare=True,
)


def _column(measure: Measure) -> Column:
    """Return a column of plain numbers, with their unit in the heading."""
    unit = _HEADINGS.get(measure.unit)
    heading = measure.heading
    if unit:
        name, _, per = heading.partition("/")
        heading = f"{name}({unit}{'/' if per else ''}{per})"

    def value(traffic: Any, _: object) -> str | None:
        number = measure.value(traffic)
        if number is None:
            return None
        if measure.unit == "count":
            return str(int(number))
        if measure.unit == "ms":
            return f"{number:.3f}"
        return f"{number / (KB if measure.unit == 'bytes' else 1):.1f}"

    return Column(
        measure.key,
        heading,
        len(heading),
        value,
        concern=measure.concern,
        meaning=measure.meaning,
        is_spare=measure.key in _SPARE,
    )


def key_columns(dimensions: Sequence[Dimension]) -> list[Column]:
    """Return one column for each dimension; the first names rows that have no key."""

    def column(at: int, dimension: Dimension) -> Column:
        def value(traffic: Any, _: object) -> str | None:
            if traffic.scope != "key":
                return LABELS[traffic.scope] if at == 0 else None
            return dimension.cell(*(getattr(traffic, key) for key in dimension.keys))

        style = "" if at else "bold"
        return Column(
            dimension.name,
            dimension.name.upper(),
            dimension.width,
            value,
            style,
            meaning=dimension.meaning,
        )

    return [column(at, dimension) for at, dimension in enumerate(dimensions)]


def figure_columns() -> tuple[list[Column], list[Column]]:
    """Return the columns of figures that text shows, and those that it can show besides."""
    columns = {measure.key: _column(measure) for measure in MEASURES}
    shown = [columns.pop(key) for key in _SHOWN]
    shown.insert(3, WHY)
    return shown, list(columns.values())


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
