"""Sleeping until events come, on descriptors and memory that stand for the kernel's."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from tcptrace.sources import rest
from tcptrace.sources.rest import QUIET_LOOKS, Rest

LONG_S = 60.0


class Kernel:
    """What an event makes readable, and what the programs know of the reader."""

    def __init__(self) -> None:
        """Make them."""
        self.ring, self.writer = os.pipe()
        self.is_told_asleep = False

    def learn(self, is_asleep: bool) -> None:  # noqa: FBT001 - as the reader says it
        """Take note of whether the reader sleeps."""
        self.is_told_asleep = is_asleep

    def wake(self) -> None:
        """Wait until the reader sleeps, then have an event."""
        while not self.is_told_asleep:
            time.sleep(0.001)
        os.write(self.writer, b"event")


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """What the reader waits for."""
    kernel = Kernel()
    yield kernel
    os.close(kernel.ring)
    os.close(kernel.writer)


@pytest.fixture
def at_rest(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rest]:
    """A reader that sleeps until it is woken."""
    monkeypatch.setattr(rest, "REST_S", LONG_S)
    monkeypatch.setattr(rest, "LONG_REST_S", LONG_S)
    reader = Rest((kernel.ring,), kernel.learn)
    yield reader
    reader.close()


def test_an_event_wakes_a_reader_that_sleeps(kernel: Kernel, at_rest: Rest) -> None:
    """After a quiet while the reader says that it sleeps; an event ends that."""
    waker = threading.Thread(target=kernel.wake, daemon=True)
    waker.start()
    at_rest.sleep()
    waker.join()
    assert not kernel.is_told_asleep


def test_what_came_before_the_sleep_ends_it(kernel: Kernel, at_rest: Rest) -> None:
    """An event that nobody could wake the reader for is there when it would sleep."""
    os.write(kernel.writer, b"event")
    at_rest.sleep()
    assert not kernel.is_told_asleep


def test_a_quiet_while_is_one_without_events(at_rest: Rest) -> None:
    """Some looks at nothing make a quiet while, in a row."""
    looks = [*[0] * (QUIET_LOOKS - 1), 1, *[1] * QUIET_LOOKS]
    assert [False] * (len(looks) - 1) == [at_rest.is_quiet(taken) for taken in looks[:-1]]
    assert at_rest.is_quiet(looks[-1])


def test_another_descriptor_wakes_it_once(kernel: Kernel, at_rest: Rest) -> None:
    """What is waited for besides ends one rest, not all that follow."""
    other, writer = os.pipe()
    at_rest.wake_at(other)
    os.write(writer, b"once")
    at_rest.sleep()
    os.write(kernel.writer, b"event")
    at_rest.sleep()
    assert os.read(kernel.ring, 64) == b"event"
    os.close(other)
    os.close(writer)


def test_a_signal_ends_a_long_rest(kernel: Kernel, at_rest: Rest) -> None:
    """A handler that returns does not let the rest go on."""
    seen: list[int] = []

    def interrupt() -> None:
        while not kernel.is_told_asleep:
            time.sleep(0.001)
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        at_rest.lengthen()
        at_rest.lengthen()
        other = threading.Thread(target=interrupt, daemon=True)
        other.start()
        at_rest.sleep()
        other.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]
    assert not kernel.is_told_asleep
