"""Which recordings are removed, for their age or their number: `Retention`."""

from __future__ import annotations

import datetime as dt
import time

from tcptrace.model import filenames
from tcptrace.model.limits import Limits
from tcptrace.sinks.tree import Kept, Tree

STEP_S = 60.0
"""A wall clock that moves by so many seconds at once was set."""
DOUBT_S = 3600.0
"""For how many seconds no file is removed for its age, after the clock was set."""


class Retention:
    """Removes the files of one probe on one host that are too old, or too many."""

    def __init__(self, tree: Tree, probe: str, limits: Limits) -> None:
        """Believe the wall clock as it is."""
        self._tree = tree
        self._probe = probe
        self._limits = limits
        self._offset_s = _offset_s()
        self._doubted_until = 0.0

    def apply(self) -> None:
        """Remove what is to go. Raises OSError."""
        if self._limits.kept_s is None and self._limits.kept_bytes is None:
            return
        own = sorted(
            (place.begun, kept)
            for kept in self._tree.files()
            if (place := filenames.place_of(kept.name)) and place.probe == self._probe
        )
        for kept in [*self._old(own), *self._surplus(own)]:
            self._tree.remove(kept)

    def _old(self, own: list[tuple[dt.datetime, Kept]]) -> list[Kept]:
        """Return files that were begun too long ago."""
        if self._limits.kept_s is None or self._is_in_doubt():
            return []
        oldest = time.time() - self._limits.kept_s
        return [kept for begun, kept in own if begun.timestamp() < oldest]

    def _surplus(self, own: list[tuple[dt.datetime, Kept]]) -> list[Kept]:
        """Return the oldest files, beyond the bytes that may be kept."""
        if self._limits.kept_bytes is None:
            return []
        left = self._limits.kept_bytes
        surplus = []
        for _, kept in reversed(own):
            left -= self._tree.size(kept)
            if left < 0:
                surplus.append(kept)
        return surplus

    def _is_in_doubt(self) -> bool:
        """Tell whether the wall clock was set, and may be wrong."""
        now, offset_s = time.monotonic(), _offset_s()
        if abs(offset_s - self._offset_s) > STEP_S:
            self._doubted_until = now + DOUBT_S
            self._offset_s = offset_s
        return now < self._doubted_until


def _offset_s() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
