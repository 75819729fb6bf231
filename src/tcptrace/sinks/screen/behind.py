"""What is behind a row: its last failures, its processes and its connections."""

from __future__ import annotations

from collections.abc import Sequence

from tcptrace.model.text import printable
from tcptrace.sinks.layout import Cell, cell_len
from tcptrace.sinks.screen.text import NOTHING, Line, duration, filled, fitted, number
from tcptrace.top.aggregator import Connection, Failure, Row
from tcptrace.top.keys import endpoint

MOST_SHOWN = 200
"""Connections."""
MOST_PROCESSES = 10


def tables(row: Row, connections: Sequence[Connection], now_ns: int, width: int) -> list[Line]:
    """Return the tables of a row, as of a time by CLOCK_MONOTONIC."""
    return [
        *(_failures(row, now_ns, width) if row.failed else ()),
        *_processes(row, connections, width),
        *_connections(connections, now_ns, width),
    ]


def _table(
    heading: str, titles: Sequence[str], rows: Sequence[Sequence[Cell]], width: int
) -> list[Line]:
    """Return a small table below a heading; its first columns stand to the left."""
    lines: list[Line] = [[Cell("")], [Cell(heading, "heading")]]
    if not rows:
        return [*lines, [Cell("  none", "dim")]]
    head = [Cell(title, "dim") for title in titles]
    all_rows = [head, *rows]
    widths = [max(cell_len(row[at].text) for row in all_rows) for at in range(len(titles))]
    for row in all_rows:
        line: Line = [Cell("  ")]
        for cell, wide in zip(row, widths, strict=True):
            line += [Cell(fitted(cell.text, wide), cell.look), Cell("  ")]
        lines.append(filled(line, width))
    return lines


def _process_text(pid: int | None, comm: str | None) -> str:
    return NOTHING if pid is None else printable(f"{comm}[{pid}]")


def _processes(row: Row, connections: Sequence[Connection], width: int) -> list[Line]:
    held: dict[int, int] = {}
    for connection in connections:
        if connection.event.pid is not None:
            held[connection.event.pid] = held.get(connection.event.pid, 0) + 1
    rows = [
        [Cell(_process_text(pid, comm)), Cell(str(held.get(pid, 0)))]
        for pid, comm in reversed(row.processes.items())
    ]
    heading = f"Processes: the latest {MOST_PROCESSES}" if rows[MOST_PROCESSES:] else "Processes"
    return _table(heading, ("PROCESS", "OPEN"), rows[:MOST_PROCESSES], width)


def _connections(connections: Sequence[Connection], now_ns: int, width: int) -> list[Line]:
    rows = []
    for connection in connections[:MOST_SHOWN]:
        event = connection.event
        is_older = event.type == "open"
        age = "older" if is_older else duration((now_ns - event.ts_ns) / 1e9)
        tx, rx, again = connection.counted or (None, None, None)
        texts = (
            endpoint(event.laddr, event.lport) or NOTHING,
            endpoint(event.raddr, event.rport) or NOTHING,
            _process_text(event.pid, event.comm),
            age,
            number(rx, "bytes"),
            number(tx, "bytes"),
            number(connection.rtt_us / 1000 if connection.rtt_us else None, "ms"),
            number(again, "count"),
        )
        rows.append([Cell(text) for text in texts])
    titles = ("LOCAL", "REMOTE", "PROCESS", "AGE", "RX", "TX", "RTT", "RETR")
    heading = f"Open connections: {len(connections)}"
    if len(connections) > MOST_SHOWN:
        heading += f", the latest {MOST_SHOWN}"
    return _table(heading, titles, rows, width)


def _failures(row: Row, now_ns: int, width: int) -> list[Line]:
    rows = [_failure(failure, now_ns) for failure in reversed(row.failed)]
    return _table("Last failures", ("AGO", "WHY", "TO", "NAME", "PROCESS"), rows, width)


def _failure(failure: Failure, now_ns: int) -> list[Cell]:
    event = failure.event
    why = failure.kind if failure.kind != "error" else event.error or failure.kind
    return [
        Cell(duration(max(now_ns - event.ts_ns, 0) / 1e9)),
        Cell(str(why), "failure"),
        Cell(endpoint(event.raddr, event.rport) or NOTHING),
        Cell(printable(failure.name or NOTHING)),
        Cell(_process_text(event.pid, event.comm)),
    ]
