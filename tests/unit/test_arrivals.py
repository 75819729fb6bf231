"""What is asked of the system when an event comes in."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from tests.unit.records import DECODER, accept_bytes, made

from tcptrace.model.identity import UNKNOWN, Identity
from tcptrace.sources import arrivals
from tcptrace.sources.arrivals import Arrivals

SECOND = 1_000_000_000


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """Return a function that sets both clocks, in seconds."""

    def set_clocks(monotonic: int, wall: int) -> None:
        monkeypatch.setattr(time, "monotonic_ns", lambda: monotonic * SECOND)
        monkeypatch.setattr(time, "time_ns", lambda: wall * SECOND)

    return set_clocks


def test_the_wall_clock_s_steps_are_followed(clocks: Callable[[int, int], None]) -> None:
    """A step of the wall clock is seen a second later; within one, times keep their distance."""
    arrivals = Arrivals()
    clocks(10, 100)
    assert 90 * SECOND == arrivals.offset_ns()
    clocks(10, 500)
    assert 90 * SECOND == arrivals.offset_ns()
    clocks(12, 502)
    assert 490 * SECOND == arrivals.offset_ns()


def test_an_event_keeps_what_was_known_when_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time and identity are in the event, also when the system has forgotten them."""
    known = Identity("/docker/x", container="0123")
    monkeypatch.setattr(arrivals, "identity_of", {4242: known}.get)
    (event,) = Arrivals().fill([DECODER.decode(accept_bytes(ts_ns=5, cgroup_id=4242))], 100)
    monkeypatch.setattr(arrivals, "identity_of", lambda _: UNKNOWN)
    assert (105, "/docker/x", "0123") == (event.wall_ns, event.cgroup, event.container)


def test_an_event_without_cgroup_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel knows no cgroup, none is looked for."""
    monkeypatch.setattr(arrivals, "identity_of", lambda _: pytest.fail("asked"))
    (event,) = Arrivals().fill([DECODER.decode(accept_bytes(cgroup_id=0))], 0)
    assert (None, None) == (event.cgroup, event.container)


def test_a_new_cgroup_is_known_by_what_the_kernel_told() -> None:
    """Its path serves when it is gone; what told of it is no row."""
    number, path = 1 << 62, "/system.slice/blink.service"
    event = DECODER.decode(accept_bytes(cgroup_id=number))
    assert [event] == [*Arrivals().fill([made(number, ""), made(number, path), event], 0)]
    assert (path, "blink.service") == (event.cgroup, event.unit)
