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
from tcptrace.sources.rest import QUIET_LOOKS, Rest


class Quiet(LiveSource):
    """A source to which nothing comes."""

    is_holding_back = False

    def _holds_back(self) -> bool:
        return self.is_holding_back

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


def test_a_host_s_name_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: recordings have to keep it."""
    for name, kept in ((b"db\xff", "db\\xff"), ("dé1".encode(), "dé1")):
        monkeypatch.setitem(os.environb, live.HOST.encode(), name)
        assert kept == Quiet(Plan(ACCEPT, Filters({})), "fentry").meta.host


@pytest.mark.parametrize("is_holding_back", [False, True])
def test_it_rests_unless_it_holds_something_back(
    monkeypatch: pytest.MonkeyPatch, *, is_holding_back: bool
) -> None:
    """After a quiet while it waits for its buffers, and no longer looks by the clock."""
    source = Quiet(Plan(ACCEPT, Filters({})), "fentry")
    source.is_holding_back = is_holding_back
    reading, writing = os.pipe()
    slept: list[bool] = []
    source.rest = Rest((reading,), slept.append)
    os.write(writing, b"an event ends each rest")
    monkeypatch.setattr(live, "POLL_S", 0)
    batches = source.batches()
    for _ in range(QUIET_LOOKS + 1):
        next(batches)
    assert ([] if is_holding_back else [True, False]) == slept[:2]
    source.rest.close()
    os.close(reading)
    os.close(writing)
