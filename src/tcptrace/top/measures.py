"""Figures of `tcptrace top` by which rows are shown and ordered, and the columns of tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from tcptrace.model.columns import SLOW_MS, Column, Mark, no_concern, repeated
from tcptrace.top.keys import Dimension
from tcptrace.top.traffic import FAILURE_KEYS, Traffic

LABELS = {"others": "(others)", "total": "(total)"}
WORDS = {"timed_out": "timeout", "failed_otherwise": "other"}
"""As people read them, where they are others."""
KB = 1000


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
