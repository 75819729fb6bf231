"""A recording that is told as its time passes: `Paced`."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tcptrace.model.batch import Batch
from tcptrace.model.losses import Losses
from tcptrace.model.pace import Pace
from tcptrace.sources.recording.kept import KeptSource

POLL_S = 0.03
"""So often it is looked what is to be told, as where things happen now."""
MOST_APART_NS = 60_000_000_000
"""More than clocks are set by in a run: the host was started anew."""
MOST = 4096
"""Rows of a batch."""


class _Boot(NamedTuple):
    """Stands before the first row of another boot."""

    ts_ns: int
    """That row's."""
    boot_id: str


class Paced:
    """Tells what a recording has when its time has come, some 30 times a second.

    When the pace goes back, all is told from the beginning again, up to there.
    """

    def __init__(
        self, source: KeptSource, pace: Pace, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """Tell `source` at a pace; `sleep` waits so many seconds."""
        self.meta = source.meta
        self.notes = source.notes
        self.warning = source.warning
        self.given_up = 0
        self._source = source
        self._pace = pace
        self._sleep = sleep
        self._finished = False
        self._rows: deque[Any] = deque()
        """Those whose time has not come, with a `_Boot` before those of another boot."""
        self._read_boot = self._boot = ""
        """Of the last rows that were read, and of those that were told."""
        self._kept: Iterator[Batch] = iter(())
        self._is_read = False
        self._last_ns = 0
        self._offset_ns = 0

    def batches(self) -> Iterator[Batch]:
        """Yield what has come, again and again; a batch may be empty."""
        self._kept = self._source.batches()
        while not self._finished:
            if self._pace.until_ns() < self._pace.told_ns:
                self._begin_anew()
            has_waited = not (self._rows or self._is_read or self._read())
            until_ns = self._pace.until_ns()
            yield self._due(until_ns)
            if self._pace.has_ended() and not self._pace.lasts:
                return
            if not (has_waited or self._is_behind(until_ns)):
                self._sleep(POLL_S)

    def _begin_anew(self) -> None:
        if self._source.rewind():
            self._kept, self._is_read = self._source.batches(), False
            self._rows.clear()
            self._read_boot = self._boot = ""
            self._pace.begin_anew()
        else:  # from a pipe: there is no way back
            self._pace.move((self._pace.told_ns - self._pace.until_ns()) / 1e9)

    def _read(self) -> bool:
        """Read some rows, or find that there are no more; tell whether either was so."""
        batch = next(self._kept, None)
        rows = [*batch.events] if batch else []
        if batch and rows:
            rows = self._in_one_time(rows)
            if batch.boot_id != self._read_boot:
                self._read_boot = batch.boot_id
                self._rows.append(_Boot(rows[0].ts_ns, batch.boot_id))
            self._rows.extend(rows)
            self._last_ns = max(self._last_ns, *(row.ts_ns for row in rows))
            if self._pace.begin_ns is None:
                self._pace.begin(rows[0].ts_ns)
        elif batch is None:
            self._is_read = True
            self._pace.end_ns = self._last_ns
        return bool(rows) or self._is_read

    def _in_one_time(self, rows: list[Any]) -> list[Any]:
        """Return rows with the times of the first boot, also those of after a reboot."""
        if self._pace.begin_ns is None:
            self._offset_ns = rows[0].wall_ns - rows[0].ts_ns
        for row in rows:
            ts_ns = row.wall_ns - self._offset_ns
            if abs(ts_ns - row.ts_ns) > MOST_APART_NS:
                row.ts_ns = ts_ns
        return rows

    def _is_behind(self, until_ns: float) -> bool:
        """Tell whether there is, or may be, more whose time has come."""
        return self._rows[0].ts_ns <= until_ns if self._rows else not self._is_read

    def _due(self, until_ns: float) -> Batch:
        """Return the rows whose time has come."""
        due: list[Any] = []
        while self._rows and self._rows[0].ts_ns <= until_ns and len(due) < MOST:
            if not isinstance(self._rows[0], _Boot):
                due.append(self._rows.popleft())
            elif due:
                break
            else:
                self._boot = self._rows.popleft().boot_id
        if due and self._is_behind(until_ns):
            known_ns = due[-1].ts_ns
        else:
            known_ns = self._last_ns if until_ns == math.inf else int(until_ns)
        self._pace.told_ns = max(self._pace.told_ns, known_ns)
        return Batch(iter(due), self._pace.told_ns, self._offset_ns, self._boot)

    def finish(self) -> None:
        """Tell no more."""
        self._finished = True
        self._source.finish()

    def abandon(self) -> None:
        """Tell no more; what is not told stays in the recording."""
        self.finish()

    def losses(self) -> Losses:
        """Return what the writer has missed."""
        losses = self._source.losses()
        return losses._replace(given_up=losses.given_up + self.given_up)

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return nothing: no map was kept."""
        return {}

    def close(self) -> None:
        """Let go of the file."""
        self._source.close()
