"""What graphs are made of, and how they look."""

from __future__ import annotations

from collections import deque

from tcptrace.sinks.layout import Cell
from tcptrace.sinks.screen.text import WIDTH, Line, filled, graph, number
from tcptrace.top.traffic import BY_KEY, Traffic

INTERVALS = 120
"""That graphs remember."""
GRAPHS = (("CONN/s", "conn"), ("ACC/s", "acc"), ("FAIL/s", "fail"), ("RX/s", "rx"), ("TX/s", "tx"))
"""Headings, and keys of measures."""
_LEAST = 16
"""Cells of a graph with its heading, for it to be worth its room."""


class History:
    """What the graphs of a row are made of."""

    def __init__(self) -> None:
        """Start empty."""
        self.of = {key: deque[float](maxlen=INTERVALS) for _, key in GRAPHS}

    def add(self, traffic: Traffic) -> None:
        """Take an interval."""
        for key, values in self.of.items():
            value = BY_KEY[key].value(traffic) or 0
            values.append(value / (traffic.interval_s or 1) if key == "fail" else value)


def graphs(history: History, width: int) -> Line:
    """Return the graphs in one line, as many as have room."""
    many = max(1, min(len(GRAPHS), width // _LEAST))
    line = []
    for heading, key in GRAPHS[:many]:
        line += with_graph(heading, key, history, width // many)
    return filled(line, width)


def with_graph(heading: str, key: str, history: History, width: int) -> Line:
    """Return a heading, the last figure and a graph, in so many cells."""
    values = history.of[key]
    measure = BY_KEY[key]
    unit = "rate" if key == "fail" else measure.unit
    text = number(values[-1] if values else None, unit)
    is_bad = key == "fail" and bool(values) and values[-1] > 0
    room = width - len(heading) - WIDTH - 3
    look = "failure" if key == "fail" else "good"
    return [
        Cell(f"{heading} ", "dim"),
        Cell(f"{text:>{WIDTH}} ", "failure" if is_bad else "bold"),
        Cell(graph(values, room) + " ", look),
    ]
