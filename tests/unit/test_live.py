"""A source on a running kernel: when it looks at its buffer."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tcptrace.model.events import Event
from tcptrace.model.filters import Filters
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.sources import live
from tcptrace.sources.live import LiveSource
from tcptrace.sources.plan import Plan


class Quiet(LiveSource):
    """A source to which nothing comes."""

    def close(self) -> None:
        """Have nothing attached."""

    def _read(self, before_ns: int, *, last: bool) -> tuple[Iterator[Event], int]:
        return iter(()), before_ns

    def _waiting(self) -> int:
        return 0

    def _lost(self) -> Losses:
        return NOTHING_LOST


def test_it_can_be_woken(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told of can be read: it looks at once, and then as seldom as before."""
    source = Quiet(Plan(ACCEPT, Filters({})), "fentry")
    reading, writing = os.pipe()
    source.wake_at(reading)
    os.write(writing, b"x")
    monkeypatch.setattr(live, "POLL_S", 3600)
    batches = source.batches()
    next(batches)
    monkeypatch.setattr(live, "POLL_S", 0.2)
    began = time.monotonic()
    next(batches)
    assert 0.1 < time.monotonic() - began
    os.close(reading)
    os.close(writing)
