"""Which columns a screen of some width has room for."""

from __future__ import annotations

from collections.abc import Sequence

from tcptrace.sinks.screen.text import WIDTH
from tcptrace.top.keys import Dimension
from tcptrace.top.traffic import BY_KEY, WHY

GRAPH = "graph"
"""Stands for a small graph of a row's connections."""
WITHOUT_ORDER = frozenset((GRAPH, WHY.key))
_LEAST_KEY, _MOST_KEY = 8, 60
"""Cells of a key, to leave room for others and at the most."""
_GRAPH_WIDTH = 12
# What a narrow screen shows first; what is from the first of `_SPARE` on, when names have room.
_PRIORITY = (
    *("conn", "fail", "acc", "open", "rx", "tx", "lat", "rtt", "p95", "retr"),
    *("why", GRAPH, "conns", "fails", "rxall", "txall", "accs"),
)
_SPARE = frozenset(_PRIORITY[_PRIORITY.index(GRAPH) :])
_ORDER = (
    *("conn", "acc", "fail", "why", "open", "rx", "tx", "lat", "p95", "rtt", "retr"),
    *("conns", "accs", "fails", "rxall", "txall", GRAPH),
)

Columns = list[tuple[str, int]]
"""Keys of columns, and their widths."""


def heading_of(key: str) -> str:
    """Return a column's heading."""
    if key == GRAPH:
        return "LAST"
    if key == WHY.key:
        return WHY.heading
    return BY_KEY[key].heading if key in BY_KEY else key.upper()


def _width_of(key: str) -> int:
    """Return the width of a column of figures, with room for the mark of the order."""
    if key == GRAPH:
        return _GRAPH_WIDTH
    return WHY.width if key == WHY.key else max(len(BY_KEY[key].heading), WIDTH)


def columns(dimensions: Sequence[Dimension], seen: Sequence[int], width: int) -> Columns:
    """Return the columns that have room, one for each dimension first.

    Args:
        dimensions: what rows are of.
        seen: how wide the values of each are.
        width: of the screen, in cells.

    """
    names = [dimension.name for dimension in dimensions]
    pairs = zip(names, seen, strict=True)
    needed = [min(max(len(name) + 1, wide), _MOST_KEY) for name, wide in pairs]
    least = [
        min(wide, max(_LEAST_KEY, dimension.width * 2 // 3))
        for wide, dimension in zip(needed, dimensions, strict=True)
    ]
    left = width - sum(least) - len(least) + 1
    wanting = sum(needed) - sum(least)
    chosen = set()
    for key in _PRIORITY:
        takes = _width_of(key) + 1
        if takes + (wanting if key in _SPARE else 0) > left:
            break
        chosen.add(key)
        left -= takes
    widths = _shared(least, needed, left)
    figures = [(key, _width_of(key)) for key in _ORDER if key in chosen]
    return [*zip(names, widths, strict=True), *figures]


def _shared(least: Sequence[int], needed: Sequence[int], left: int) -> list[int]:
    """Return the widths of columns that share so many cells beside their least widths."""
    widths = list(least)
    while left > 0:
        wanting = [at for at, wide in enumerate(widths) if wide < needed[at]][:left]
        if not wanting:
            break
        for at in wanting:
            widths[at] += 1
        left -= len(wanting)
    return widths
