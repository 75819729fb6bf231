"""Which columns a screen of some width has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from tcptrace.sinks.screen.text import WIDTH
from tcptrace.top.measures import BY_KEY, WHY

GRAPH = "graph"
"""Stands for a small graph of a row's connections."""
WITHOUT_ORDER = frozenset((GRAPH, WHY.key))
_LEAST_KEY, _MOST_KEY = 8, 60
"""Cells of a key, to leave room for others and at the most."""
GRAPH_WIDTH = 12


class Named(Protocol):
    """What a column of texts is of."""

    @property
    def name(self) -> str:
        """Its key."""

    @property
    def width(self) -> int:
        """Its usual width."""


class Figures(NamedTuple):
    """The columns of figures that a table can have."""

    first: Sequence[str]
    """Their keys, the most wanted first."""
    spare: Sequence[str]
    """Those that come when texts have room, the most wanted first."""
    order: Sequence[str]
    """From the left."""
    width_of: Callable[[str], int]
    """With room for the mark of the order."""


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
    if key == GRAPH:
        return GRAPH_WIDTH
    return WHY.width if key == WHY.key else max(len(BY_KEY[key].heading), WIDTH)


TRAFFIC = Figures(
    first=("conn", "fail", "acc", "open", "rx", "tx", "lat", "rtt", "p95", "retr", "why"),
    spare=(GRAPH, "conns", "fails", "rxall", "txall", "accs"),
    order=(
        *("conn", "acc", "fail", "why", "open", "rx", "tx", "lat", "p95", "rtt", "retr"),
        *("conns", "accs", "fails", "rxall", "txall", GRAPH),
    ),
    width_of=_width_of,
)
FAILURES = TRAFFIC._replace(
    first=("conn", "fail", "why", "open", "acc", "rx", "tx", "lat", "rtt", "p95", "retr")
)
"""Why attempts fail before what the others do."""
RUN = TRAFFIC._replace(
    first=("conns", "fails", "accs", "open", "rxall", "txall", "conn", "fail", "acc", "rx", "tx"),
    spare=("lat", "rtt", "p95", "retr", "why", GRAPH),
)
"""The whole run first."""


def columns(
    dimensions: Sequence[Named], seen: Sequence[int], width: int, offered: Figures = TRAFFIC
) -> Columns:
    """Return the columns that have room, one for each dimension first.

    Args:
        dimensions: what rows are of.
        seen: how wide the values of each are.
        width: of the screen, in cells.
        offered: the columns behind these.

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
    for key in (*offered.first, *offered.spare):
        takes = offered.width_of(key) + 1
        if takes + (wanting if key in offered.spare else 0) > left:
            break
        chosen.add(key)
        left -= takes
    widths = _shared(least, needed, left)
    figures = [(key, offered.width_of(key)) for key in offered.order if key in chosen]
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
