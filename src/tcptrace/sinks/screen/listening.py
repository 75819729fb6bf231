"""What the screen of `tcptrace top --listen` shows: who listens, and how full the queues are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

from tcptrace.model.columns import Mark, clock_time, no_concern
from tcptrace.model.text import printable
from tcptrace.sinks.layout import Cell, cell_len
from tcptrace.sinks.screen.fit import GRAPH, GRAPH_WIDTH, Columns, Figures, columns
from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.history import INTERVALS, Graphed, History, graphs, with_graph
from tcptrace.sinks.screen.text import (
    NOTHING,
    WIDTH,
    Line,
    Unit,
    duration,
    filled,
    fitted,
    graph,
    number,
)
from tcptrace.top.keys import user_name
from tcptrace.top.listeners import Listener, Table, dropping, full
from tcptrace.top.order import CalmOrder, Figure

GRAPHED = (
    Graphed("ACC/s", "acc", "rate"),
    Graphed("QUEUE", "queue", "count"),
    Graphed("DROP/s", "drops", "rate", is_bad=True),
)


GONE = "it listens no more"


class _Text(NamedTuple):
    """A column of texts."""

    name: str
    width: int
    value: Callable[[Listener], str | None]


class _Figure(NamedTuple):
    """A column of numbers."""

    key: str
    heading: str
    value: Callable[[Listener], float]
    unit: Unit
    concern: Callable[[Any], Mark | None] = no_concern


def _process(listener: Listener) -> str | None:
    return None if listener.pid is None else f"{listener.comm}[{listener.pid}]"


def _container(listener: Listener) -> str | None:
    return listener.container_name or (listener.container and listener.container[:12])


_TEXTS = (
    _Text("process", 20, _process),
    _Text("unit", 20, lambda listener: listener.unit or _container(listener)),
    _Text("address", 15, lambda listener: listener.laddr),
    _Text("port", 5, lambda listener: str(listener.lport)),
)
_FIGURES = {
    figure.key: figure
    for figure in (
        _Figure("acc", "ACC/s", lambda row: row.accepts / row.interval_s, "rate"),
        _Figure("queue", "QUEUE", lambda row: row.backlog, "count", full),
        _Figure("limit", "LIMIT", lambda row: row.backlog_max, "count"),
        _Figure("drops", "DROPS", lambda row: row.drops, "count", dropping),
        _Figure("accs", "ACCS", lambda row: row.run_accepts, "count"),
        _Figure("alldrops", "ALLDROPS", lambda row: row.run_drops, "count", dropping),
    )
}


def _width_of(key: str) -> int:
    return GRAPH_WIDTH if key == GRAPH else max(len(_FIGURES[key].heading), WIDTH)


_OFFERED = Figures(
    first=("queue", "drops", "acc", "limit"),
    spare=("alldrops", "accs", GRAPH),
    order=("acc", "queue", "limit", "drops", "accs", "alldrops", GRAPH),
    width_of=_width_of,
)


class Listening(Grid[int]):
    """The state of the screen that shows who listens; a row is known by its socket."""

    sorts: ClassVar = {"a": "acc", "w": "queue", "d": "drops", "P": "port", "n": ""}
    help: ClassVar = (
        ("Enter →", "what is known of the listener"),
        ("a w d P", "sort by accepts, by who waits, by drops, by port"),
    )

    def __init__(self, title: str, *, most_rows: int | None = None) -> None:
        """Start with nothing to show; see `Grid`."""
        super().__init__(title, most_rows=most_rows)
        self._began_ns: int | None = None
        self._table: Table | None = None
        self._listeners: dict[int, Listener] = {}
        """Those that are shown, by their sockets."""
        self._orders: dict[str, CalmOrder[int]] = {}
        self._histories: dict[int, History] = {}
        self._total = History(GRAPHED)
        self._seen = [0] * len(_TEXTS)

    def update(self, table: Table) -> None:
        """Take a table; a paused picture stands still, but its graphs go on."""
        listeners = {listener.inode: listener for listener in table.rows}
        if self._began_ns is None:
            self._began_ns = table.begin_ns
        if not self.is_paused:
            self._table, self._listeners = table, listeners
            self.arrange()
        self._histories = {
            inode: self._histories.get(inode) or History(GRAPHED) for inode in listeners
        }
        for inode, history in self._histories.items():
            history.put(_graphed([listeners[inode]]))
        self._total.put(_graphed(table.rows))

    def _wanted(self) -> list[int]:
        """Return the listeners whose text the filter finds."""
        needle = self.needle.lower()
        return [inode for inode, row in self._listeners.items() if needle in _search_text(row)]

    def _in_order(self, wanted: list[int]) -> list[int]:
        """Return listeners in the order of `sorted_by`."""
        text = next((column for column in _TEXTS if column.name == self.sorted_by), None)
        if text:
            return sorted(wanted, key=lambda inode: _sort_text(text, self._listeners[inode]))
        order = self._orders.setdefault(self.sorted_by, CalmOrder())
        return order.arrange({inode: self._figure(self._listeners[inode]) for inode in wanted})

    def _figure(self, listener: Listener) -> Figure:
        """Return what a listener is ordered by: those in trouble first, where nothing is said."""
        figure = _FIGURES.get(self.sorted_by)
        if figure:
            return (figure.value(listener),)
        return (listener.drops, listener.backlog, listener.accepts, listener.run_drops)

    def _columns(self, width: int) -> Columns:
        """Return the columns that have room."""
        return columns(_TEXTS, self._seen, width, _OFFERED)

    def _heading(self, key: str) -> str:
        """Return a column's heading."""
        if key == GRAPH:
            return "LAST"
        return _FIGURES[key].heading if key in _FIGURES else key.upper()

    def _is_left(self, key: str) -> bool:
        """Tell whether a column is one of texts."""
        return key not in _FIGURES and key != GRAPH

    def _measure(self) -> None:
        """Look how wide the texts are."""
        for listener in self._listeners.values():
            for at, text in enumerate(_texts(listener)):
                self._seen[at] = max(self._seen[at], cell_len(text))

    def _cells(self, row: int, shown: Columns) -> list[Cell]:
        """Return the cells of a listener."""
        listener = self._listeners[row]
        texts = dict(zip((column.name for column in _TEXTS), _texts(listener), strict=True))
        return [
            Cell(fitted(texts[key], wide), None if at else "bold")
            if key in texts
            else self._cell(row, key, wide)
            for at, (key, wide) in enumerate(shown)
        ]

    def _cell(self, row: int, key: str, wide: int) -> Cell:
        """Return a figure of a listener, or the graph of its queue."""
        if key == GRAPH:
            return Cell(graph(self._histories[row].of["queue"], wide), "slow")
        figure, listener = _FIGURES[key], self._listeners[row]
        value = figure.value(listener)
        look = figure.concern(listener) or (None if value else "dim")
        return Cell(number(value, figure.unit).rjust(wide), look)

    def head(self, width: int) -> list[Line]:
        """Return the lines above the table."""
        table = self._table
        if table is None:
            return self._waiting(width)
        summary = "  ".join(self._summary(table))
        lines = [[Cell(fitted(summary, width), "heading")], graphs(self._total, width, GRAPHED)]
        state = "  ".join([*self._states(), *filter(None, [table.note])])
        return [*lines, filled([Cell(state, "unusual")], width)] if state else lines

    def _summary(self, table: Table) -> Iterator[str]:
        """Yield what holds for all listeners."""
        yield self._title
        yield clock_time(table.wall_ns)
        yield f"up {duration((table.end_ns - (self._began_ns or 0)) / 1e9)}"
        yield f"{len(table.rows)} listeners"
        yield f"{sum(listener.backlog for listener in table.rows)} wait"
        yield f"{sum(listener.run_drops for listener in table.rows)} dropped"

    def title_of(self, row: int) -> str:
        """Return what a listener is called."""
        listener = self._listeners.get(row)
        return "  ".join(_texts(listener)) if listener else GONE

    def behind(self, row: int, width: int) -> list[Line]:
        """Return graphs of a listener, and all that is known of it."""
        listener, history = self._listeners.get(row), self._histories.get(row)
        if listener is None or history is None:
            return [filled([Cell(GONE)], width)]
        lines = [
            filled(with_graph(figure, history, min(width, INTERVALS + 15)), width)
            for figure in GRAPHED
        ]
        known = [(name, value) for name, value in _known(listener) if value is not None]
        wide = max(len(name) for name, _ in known)
        return [
            *lines,
            [Cell("")],
            *(
                filled([Cell(f"{name:<{wide}}  ", "dim"), Cell(printable(str(value)))], width)
                for name, value in known
            ),
        ]


def _graphed(listeners: Sequence[Listener]) -> dict[str, float]:
    """Return what the graphs of some listeners are made of."""
    seconds = listeners[0].interval_s if listeners else 1.0
    return {
        "acc": sum(listener.accepts for listener in listeners) / seconds,
        "queue": sum(listener.backlog for listener in listeners),
        "drops": sum(listener.drops for listener in listeners) / seconds,
    }


def _texts(listener: Listener) -> list[str]:
    return [printable(column.value(listener) or NOTHING) for column in _TEXTS]


def _search_text(listener: Listener) -> str:
    return " ".join(_texts(listener)).lower()


def _sort_text(column: _Text, listener: Listener) -> tuple[Any, ...]:
    """Return what a listener is ordered by under a column; what is not known comes last."""
    text = column.value(listener)
    if text is None:
        return (2,)
    return (0, int(text)) if text.isdecimal() else (1, text.lower())


def _known(listener: Listener) -> Iterator[tuple[str, Any]]:
    """Yield all that is known of a listener, by name."""
    yield "process", _process(listener)
    yield "user", user_name(listener.uid)
    yield "unit", listener.unit
    yield "container", listener.container_name or listener.container
    yield "network namespace", listener.netns
    yield "address", listener.laddr
    yield "port", listener.lport
    yield "accepted", f"{listener.run_accepts} since the start"
    yield "queue", f"{listener.backlog} of {listener.backlog_max}"
    yield "dropped", f"{listener.run_drops} since the start"
