"""What graphs are made of, and how they look."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tcptrace.sinks.layout import Cell
from tcptrace.sinks.screen.text import WIDTH, Line, Unit, filled, graph, number
from tcptrace.top.measures import BY_KEY
from tcptrace.top.traffic import Traffic

INTERVALS = 120
"""That graphs remember."""
_LEAST = 16
"""Cells of a graph with its heading, for it to be worth its room."""


class Graphed(NamedTuple):
    """A figure that has a graph."""

    heading: str
    key: str
    unit: Unit
    is_bad: bool = False
    """Whether anything above 0 is."""


GRAPHS = (
    Graphed("CONN/s", "conn", "rate"),
    Graphed("ACC/s", "acc", "rate"),
    Graphed("FAIL/s", "fail", "rate", is_bad=True),
    Graphed("RX/s", "rx", "bytes"),
    Graphed("TX/s", "tx", "bytes"),
)
"""Those of traffic; their keys are of measures."""


class History:
    """What the graphs of a row are made of."""

    def __init__(self, figures: Sequence[Graphed] = GRAPHS) -> None:
        """Start empty."""
        self.of = {figure.key: deque[float](maxlen=INTERVALS) for figure in figures}

    def put(self, figures: Mapping[str, float]) -> None:
        """Take the figures of an interval, by key."""
        for key, values in self.of.items():
            values.append(figures[key])


def figures_of(traffic: Traffic) -> dict[str, float]:
    """Return what the graphs of traffic are made of."""
    figures = {figure.key: BY_KEY[figure.key].value(traffic) or 0.0 for figure in GRAPHS}
    return {**figures, "fail": figures["fail"] / (traffic.interval_s or 1)}


def graphs(history: History, width: int, figures: Sequence[Graphed] = GRAPHS) -> Line:
    """Return the graphs in one line, as many as have room."""
    many = max(1, min(len(figures), width // _LEAST))
    line = []
    for figure in figures[:many]:
        line += with_graph(figure, history, width // many)
    return filled(line, width)


def with_graph(figure: Graphed, history: History, width: int) -> Line:
    """Return a heading, the last value and a graph, in so many cells."""
    values = history.of[figure.key]
    text = number(values[-1] if values else None, figure.unit)
    is_bad = figure.is_bad and bool(values) and values[-1] > 0
    room = width - len(figure.heading) - WIDTH - 3
    return [
        Cell(f"{figure.heading} ", "dim"),
        Cell(f"{text:>{WIDTH}} ", "failure" if is_bad else "bold"),
        Cell(graph(values, room) + " ", "failure" if figure.is_bad else "good"),
    ]
