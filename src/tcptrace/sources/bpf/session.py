"""A session: probes attached, events read, losses counted, until it is stopped."""

from __future__ import annotations

import abc
import mmap
import os
import select
import struct
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tcptrace.kernel import bpf
from tcptrace.model.events import Decoder, Event
from tcptrace.sources.bpf.loader import Answer
from tcptrace.sources.bpf.ringbuf import open_ring_buffer
from tcptrace.sources.plan import Plan

# enum counter of probes/c/prelude.bpf.c
LOST, UNTRACKED, STOOD_IN = 0, 1, 3
_COUNTER = struct.Struct("=Q")
POLL_MS = 30
"""How often the buffer is looked at; rows are to be out within 100 ms of their event."""


class Losses(NamedTuple):
    """What may be missing, as the kernel counts."""

    no_room: int
    """Events that found no room in the buffer."""
    skipped: int
    """How often the kernel did not run a probe; each time may have been an event."""
    given_up: int = 0
    """What a command did not follow to its end, for more was under way than it keeps."""
    untracked: int = 0
    """What found no room in a probe's own table; not all that was to be shown of it is missing."""

    @property
    def total(self) -> int:
        """How many events may be missing, beside those of what was not tracked."""
        return self.no_room + self.skipped + self.given_up

    def since(self, before: Losses) -> Losses:
        """Return those that `before` has not."""
        return Losses(*(now - then for now, then in zip(self, before, strict=True)))

    def __str__(self) -> str:
        """Say what was lost, and what to do."""
        reasons = []
        if self.no_room:
            reasons.append(f"{_lost(self.no_room)}; try a larger --buffer-mb")
        if self.skipped:
            reasons.append(f"{_lost(self.skipped)}: the kernel skipped the probe")
        if self.given_up:
            reasons.append(f"{_lost(self.given_up)}: more was under way than is kept")
        if self.untracked:
            reasons.append(f"{self.untracked} not tracked: a table is full")
        return "; ".join(reasons)


def _lost(count: int) -> str:
    return "1 event was lost" if count == 1 else f"{count} events were lost"


NOTHING_LOST = Losses(0, 0)


class Session(abc.ABC):
    """What is attached; closing it detaches."""

    backend: str
    notes: list[str]
    """How the backend was chosen."""
    warning: str = ""
    """Why it can do less than the user may expect."""
    given_up: int = 0
    """For a command to say, see `Losses`."""

    @abc.abstractmethod
    def close(self) -> None:
        """Detach."""

    @abc.abstractmethod
    def lost(self) -> Losses:
        """Return what may be missing since the start."""

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return what one of the probe's hash maps holds now; sizes in bytes."""
        raise NotImplementedError

    @abc.abstractmethod
    def _read(self, *, last: bool) -> Iterator[Event]:
        """Yield the events that have come, in order; all of them if no more are to be read."""

    def batches(
        self, stopped: Callable[[], bool], before_wait: Callable[[], None]
    ) -> Iterator[Iterator[Event]]:
        """Yield what has come, in order, some 30 times a second until `stopped`.

        Each batch is to be used up before the next is asked for; it may be empty. What was in the
        buffer when `stopped` became true still comes. `before_wait` is called after each batch.
        """
        poller = select.poll()
        poller.register(sys.stdout.fileno(), 0)  # tells when the reader of our pipe is gone
        while True:
            last = stopped()
            yield self._read(last=last)
            before_wait()
            if last:
                return
            if poller.poll(POLL_MS):
                raise BrokenPipeError


class BpfSession(Session):
    """Holds the descriptors of what the loader attached; dying detaches, too."""

    def __init__(self, plan: Plan, answer: Answer) -> None:
        """Take over the descriptors of the loader's answer."""
        self.backend = answer.backend
        self.notes = list(answer.notes)
        self._maps = answer.maps
        self._programs = answer.programs
        self._links = answer.links
        self._decoder = Decoder(plan.records)
        self._ring = open_ring_buffer(answer.maps["events"], plan.buffer_mb * 1024 * 1024)
        self._counters = mmap.mmap(
            answer.maps["counters"], mmap.PAGESIZE, mmap.MAP_SHARED, mmap.PROT_READ
        )
        self._skipped_before = self._skipped()
        self._lost_skips = 0

    def close(self) -> None:
        """Detach and unmap."""
        for descriptor in (*self._links, *self._programs, *self._maps.values()):
            os.close(descriptor)
        self._ring.close()
        self._counters.close()

    def lost(self) -> Losses:
        """Return what may be missing since the start."""
        # A stand-in that is at work has not counted yet, or has just now: what was told stays.
        self._lost_skips = max(self._lost_skips, self._skipped() - self._skipped_before)
        return Losses(self._count(LOST), self._lost_skips, self.given_up, self._count(UNTRACKED))

    def _skipped(self) -> int:
        """Return how often the kernel skipped a program, and no stand-in did its work."""
        skipped = sum(map(bpf.skipped, self._programs)) + sum(map(bpf.missed, self._links))
        return skipped - self._count(STOOD_IN)

    def _count(self, which: int) -> int:
        return int(_COUNTER.unpack_from(self._counters, which * _COUNTER.size)[0])

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return what one of the probe's hash maps holds now; sizes in bytes."""
        return bpf.read_hash(self._maps[name], key_size, value_size)

    def _read(self, *, last: bool) -> Iterator[Event]:
        return map(self._decoder.decode, self._ring.read())
