"""The renderers: events in, text, JSON Lines or CSV out.

A renderer writes nothing but data to its stream. `row` takes an event; `flush` is called whenever
no more events are waiting, so that rows leave in batches but never wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TextIO

from tcptrace.model.columns import Column
from tcptrace.model.events import Clock, Event
from tcptrace.sinks.machine import CsvRenderer, JsonRenderer
from tcptrace.sinks.text import PlainRenderer

FORMATS = ("text", "json", "csv")


class Renderer(Protocol):
    """Writes events to a stream."""

    def start(self, backend: str) -> None:
        """Learn which backend the events come from."""

    def header(self) -> None:
        """Begin a table of rows; a terminal shows nothing but the last."""

    def row(self, event: Event) -> None:
        """Write one event."""

    def flush(self) -> None:
        """Hand all rows to the stream's reader."""


def make_renderer(form: str, columns: Sequence[Column], stream: TextIO) -> Renderer:
    """Return the renderer for `form`, one of `FORMATS`; text is rich on a terminal."""
    clock = Clock()
    if form == "json":
        return JsonRenderer(stream, clock)
    if form == "csv":
        return CsvRenderer(stream, clock, columns)
    if stream.isatty():
        from tcptrace.sinks.terminal import TerminalRenderer  # noqa: PLC0415 - rich is slow to import

        return TerminalRenderer(stream, clock, columns)
    return PlainRenderer(stream, clock, columns)
