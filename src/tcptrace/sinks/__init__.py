"""The renderers: events in, text, JSON Lines or CSV out.

A renderer writes nothing but data to its stream. `row` takes an event; `flush` is called whenever
no more events are waiting, so that rows leave in batches but never wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TextIO

from tcptrace.model.columns import Column
from tcptrace.model.events import Clock, Event
from tcptrace.sinks.color import palette
from tcptrace.sinks.machine import CsvRenderer, JsonRenderer
from tcptrace.sinks.table import TableRenderer
from tcptrace.sinks.text import PlainRenderer, TerminalRenderer

FORMATS = ("text", "json", "csv")


class Renderer(Protocol):
    """Writes events to a stream."""

    def start(self, backend: str) -> None:
        """Learn which backend the events come from."""

    def header(self, ts_ns: int | None = None) -> None:
        """Begin a table of rows, which was made at this time; a terminal shows but the last."""

    def row(self, event: Event) -> None:
        """Write one event."""

    def flush(self) -> None:
        """Hand all rows to the stream's reader."""


def make_renderer(
    form: str,
    columns: Sequence[Column],
    stream: TextIO,
    *,
    tables: bool = False,
    color: str = "auto",
    wide: bool = False,
) -> Renderer:
    """Return the renderer for `form`, one of `FORMATS`.

    Args:
        form: text is laid out for a terminal where `stream` is one.
        columns: what text and CSV show.
        stream: where rows go.
        tables: whether rows come in tables, each behind a call of `header`.
        color: one of `tcptrace.sinks.color.CHOICES`.
        wide: whether a row is one line, however long, on a terminal, too.

    """
    clock = Clock()
    if form == "json":
        return JsonRenderer(stream, clock)
    if form == "csv":
        return CsvRenderer(stream, clock, columns)
    colors = palette(color, stream)
    if tables:
        return TableRenderer(stream, clock, columns, colors)
    if stream.isatty():
        return TerminalRenderer(stream, clock, columns, colors, wide=wide)
    return PlainRenderer(stream, clock, columns, colors)
