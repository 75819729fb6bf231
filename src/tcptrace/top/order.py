"""An order that is calm: rows do not jump about while their figures flicker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from tcptrace.top.aggregator import Row

Measure = Callable[[Row], float | None]

_DECAY = 0.6
"""What a figure keeps of its past in an interval when it falls; it rises at once."""
_STEP = math.log(1.3)
"""Figures closer than this count as equal; those that were equal stay so a little longer."""
_STICKY = 0.75


class CalmOrder:
    """Orders rows by a figure, largest first; of equal ones, what was above stays above."""

    def __init__(self, measure: Measure) -> None:
        """Order by `measure`."""
        self._measure = measure
        self._smooth: dict[Row, float] = {}
        self._levels: dict[Row, float] = {}
        self._places: dict[Row, int] = {}

    def arrange(self, rows: Iterable[Row]) -> list[Row]:
        """Return the rows in order; call it once an interval."""
        smooth, levels = {}, {}
        for row in rows:
            now = self._measure(row) or 0.0
            before = self._smooth.get(row, 0.0)
            smooth[row] = now if now >= before else now + (before - now) * _DECAY
            levels[row] = self._level(row, smooth[row])
        last = len(self._places)
        arranged = sorted(levels, key=lambda row: (-levels[row], self._places.get(row, last)))
        self._smooth, self._levels = smooth, levels
        self._places = {row: place for place, row in enumerate(arranged)}
        return arranged

    def _level(self, row: Row, value: float) -> float:
        """Return the class of a value; it changes when the value has left its class clearly."""
        if value < 1e-6:  # on its way to nothing
            return -math.inf
        exact = math.log(value) / _STEP
        before = self._levels.get(row, -math.inf)
        return before if abs(exact - before) < _STICKY else float(round(exact))
