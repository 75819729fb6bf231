"""What the shell asks of whatever rows go to: `Sink`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta


class Sink(Protocol):
    """Takes rows; it alone knows where they go.

    A sink that goes on where rows cannot be written counts their events in `unwritten`. A sink that
    has much to import does so in `prepare`, which is called before the first rows, and after
    processes were forked that are to stay small.
    """

    def open(self, meta: Meta) -> None:
        """Learn what holds for all rows, before the first of them."""

    def write(self, rows: Sequence[Any]) -> None:
        """Write rows in one piece; a `NewTable` among them begins a table of those behind it."""

    def note(self, losses: Losses) -> None:
        """Learn what may be missing so far."""

    def flush(self, seconds: float = 0) -> bool:
        """Hand what was written to whoever reads it; tell whether all of it was taken.

        It waits so many seconds for a reader that stands still. For the rest, it is called again.
        """

    def drop(self) -> int:
        """Forget what was not taken; return of how many events it tells."""

    def is_closed(self) -> bool:
        """Tell whether there is nobody to read it any more."""

    def close(self, losses: Losses) -> None:
        """Write nothing more; `losses` are what may be missing among all rows."""
