"""What sources of recordings have in common: `KeptSource`."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from operator import attrgetter
from typing import Any

from tcptrace.model.batch import Batch
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta

_TS_NS = attrgetter("ts_ns")


class KeptSource(abc.ABC):
    """Rows that were kept; nothing more comes in, and there is nobody to ask."""

    meta: Meta
    others: Sequence[Meta] = ()
    """What holds for rows of further runs, where there are such."""
    given_up: int = 0
    warning: str = ""
    is_whole: bool | None = None
    """Whether the writer has ended it; else it may have been killed. None until it is known, which
    may take to read all of it."""
    can_rewind: bool = True
    """Whether it can be read from the beginning again; not so where it comes from a pipe."""

    def __init__(self, name: str) -> None:
        """Take the name of the file."""
        self.name = name
        self.notes: list[str] = []
        self._losses = NOTHING_LOST
        self._finished = False
        self._duration_ns: int | None = None

    @abc.abstractmethod
    def _groups(self) -> Iterator[list[Any]]:
        """Yield the rows that are wanted, some at a time; none where there are none yet."""

    def rewind(self) -> bool:
        """Let the next `batches` begin at the beginning; tell whether that can be."""
        return self.can_rewind

    def last(self, duration_ns: int) -> None:
        """Yield no rows that are more than so long after the start."""
        self._duration_ns = duration_ns

    def batches(self) -> Iterator[Batch]:
        """Yield what was kept, until all is read or `finish`."""
        until_ns, offset_ns = 0, 0
        for group in self._groups():
            rows = self._in_time(group)
            if rows:
                until_ns = max(until_ns, *map(_TS_NS, rows))
                offset_ns = rows[-1].wall_ns - rows[-1].ts_ns
            yield Batch(iter(rows), until_ns, offset_ns, self._boot_id())
            if self._finished:
                return

    def _boot_id(self) -> str:
        """Return which boot the last rows of `_groups` are of."""
        return self.meta.boot_id

    def _in_time(self, rows: list[Any]) -> list[Any]:
        if self._duration_ns is None or not rows:
            return rows
        if not self.meta.start_ns:  # what --json has printed does not tell
            self.meta = dataclasses.replace(self.meta, start_ns=rows[0].wall_ns)
        end_ns = self.meta.start_ns + self._duration_ns
        return [row for row in rows if row.wall_ns <= end_ns]

    def finish(self) -> None:
        """Read no more."""
        self._finished = True

    def abandon(self) -> None:
        """Read no more; what is not read stays in the recording."""
        self._finished = True

    def losses(self) -> Losses:
        """Return what the writer has missed."""
        return self._losses._replace(given_up=self._losses.given_up + self.given_up)

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return nothing: no map was kept."""
        return {}

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of the file."""
