"""A table of what all rows came to, at the end: `SummarySink`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tcptrace.model.events import NewTable
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.model.summary import Summary
from tcptrace.sinks.sink import Sink

PATIENCE_S = 1.0
"""How long the result waits for a reader who stands still, in seconds."""


class SummarySink:
    """Adds rows up, and has another sink write the result when there are no more."""

    def __init__(self, summary: Summary, sink: Sink) -> None:
        """Write to `sink`."""
        self._summary = summary
        self._sink = sink

    def open(self, meta: Meta) -> None:
        """Open the other sink."""
        self._sink.open(meta)

    def write(self, rows: Sequence[Any]) -> None:
        """Add rows up."""
        self._summary.add(row for row in rows if not isinstance(row, NewTable))

    def note(self, losses: Losses) -> None:
        """Tell the other sink of losses."""
        self._sink.note(losses)

    def flush(self, seconds: float = 0) -> bool:
        """Hand over what the other sink has."""
        return self._sink.flush(seconds)

    def drop(self) -> int:
        """Forget nothing: what was added up is written at the end."""
        return self._sink.drop()

    def is_closed(self) -> bool:
        """Tell whether there is nobody to read the result any more."""
        return self._sink.is_closed()

    def close(self, losses: Losses) -> None:
        """Write the result."""
        self._sink.write([NewTable(), *self._summary.rows()])
        self._sink.flush(PATIENCE_S)
        self._sink.close(losses)
