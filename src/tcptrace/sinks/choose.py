"""Which sink writes a form of output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TextIO

from tcptrace.model.columns import Column
from tcptrace.sinks.color import palette
from tcptrace.sinks.sink import Sink
from tcptrace.sinks.table import TableSink
from tcptrace.sinks.text import PlainSink, TerminalSink

FORMATS = ("text", "json", "csv")


def make_sink(
    form: str,
    columns: Sequence[Column],
    stream: TextIO,
    *,
    tables: bool = False,
    color: str = "auto",
    wide: bool = False,
) -> Sink:
    """Return the sink for `form`, one of `FORMATS`.

    Args:
        form: text is laid out for a terminal where `stream` is one.
        columns: what text and CSV show.
        stream: where rows go.
        tables: whether rows come in tables, each behind a `NewTable`.
        color: one of `tcptrace.sinks.color.CHOICES`.
        wide: whether a row is one line, however long, on a terminal, too.

    """
    if form in {"json", "csv"}:
        from tcptrace.sinks.machine import CsvSink, JsonSink  # noqa: PLC0415 - slow to import

        return JsonSink(stream) if form == "json" else CsvSink(stream, columns)
    colors = palette(color, stream)
    if tables:
        return TableSink(stream, columns, colors, wide=wide)
    if stream.isatty():
        return TerminalSink(stream, columns, colors, wide=wide)
    return PlainSink(stream, columns, colors)
