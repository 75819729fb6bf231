"""An order that is calm: rows do not jump about while their figures flicker."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

Row = TypeVar("Row", bound=Hashable)
Figure = tuple[float, ...]
"""By what a row is ordered; of those with equal numbers, the next decide."""

_DECAY = 0.35
"""What a number keeps of its past in an interval when it falls; it rises at once."""
_STEP = math.log(1.3)
"""Numbers closer than this count as equal; those that were equal stay so a little longer."""
_STICKY = 0.75
_NOTHING = 1e-6


class CalmOrder(Generic[Row]):
    """Orders rows by figures, largest first; of equal ones, what was above stays above."""

    def __init__(self) -> None:
        """Start with no order."""
        self._smooth: dict[Row, Figure] = {}
        self._levels: dict[Row, Figure] = {}
        self._places: dict[Row, int] = {}

    def arrange(self, figures: Mapping[Row, Figure]) -> list[Row]:
        """Return the rows in order; call it once an interval."""
        smooth, levels = {}, {}
        for row, figure in figures.items():
            before = self._smooth.get(row, figure)
            smooth[row] = tuple(map(_smoothed, figure, before))
            stood = self._levels.get(row) or (-math.inf,) * len(figure)
            levels[row] = tuple(map(_level, smooth[row], stood))
        last = len(self._places)
        self._smooth, self._levels = smooth, levels
        arranged = sorted(levels, key=lambda row: (_down(levels[row]), self._places.get(row, last)))
        self._places = {row: place for place, row in enumerate(arranged)}
        return arranged


def _smoothed(now: float, before: float) -> float:
    return now if now >= before else now + (before - now) * _DECAY


def _level(value: float, before: float) -> float:
    """Return the class of a number; it changes when the number has left its class clearly."""
    if value < _NOTHING:
        return -math.inf
    exact = math.log(value) / _STEP
    return before if abs(exact - before) < _STICKY else float(round(exact))


def _down(levels: Figure) -> Figure:
    return tuple(-level for level in levels)
