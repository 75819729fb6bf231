"""What the shell asks of whatever events come from: `Source`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from tcptrace.model.batch import Batch
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta


class Source(Protocol):
    """Events in the order in which they happened, in batches."""

    meta: Meta
    notes: list[str]
    """How it came about, for people who ask."""
    given_up: int
    """What a command did not follow to its end; for it to say."""
    warning: str
    """Why it can do less than the user may expect."""

    def batches(self) -> Iterator[Batch]:
        """Yield what has come, again and again; a batch may be empty.

        Each batch is to be used up before the next is asked for. After `finish`, what still waits
        comes, and that is the end.
        """

    def finish(self) -> None:
        """Let nothing more come in."""

    def abandon(self) -> None:
        """Count as lost what waits to be read; there is no further batch."""

    def losses(self) -> Losses:
        """Return what may be missing since the start."""

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return what one of the probe's hash maps holds now; sizes in bytes."""

    def close(self) -> None:
        """Let go of all that it holds."""
