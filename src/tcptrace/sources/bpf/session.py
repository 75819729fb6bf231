"""What is attached with BPF: events read, losses counted, until it is closed."""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from tcptrace.kernel import bpf
from tcptrace.kernel.keeper import Holdings, Keeper
from tcptrace.model.batch import Batch
from tcptrace.model.events import Decoder, Event
from tcptrace.model.losses import Losses
from tcptrace.probes.identities import IDENTITIES
from tcptrace.sources.bpf.loader import Answer
from tcptrace.sources.bpf.ringbuf import open_ring_buffer
from tcptrace.sources.counters import ASLEEP, Counter
from tcptrace.sources.live import LiveSource
from tcptrace.sources.plan import Plan
from tcptrace.sources.rest import Rest

if TYPE_CHECKING:
    from tcptrace.model.straight import LineMaker, Writer

READ_HERE = frozenset(("events", "counters"))
"""The maps that are read through mmap, which takes no rights."""
_COUNTER = struct.Struct("=Q")


def detach(links: Iterable[int]) -> None:
    """Close links, all at the same time.

    The kernel closes one only when no processor can be in its program, which takes some 60 ms. They
    can wait for that together.
    """
    closing = []
    for link in links:
        thread = threading.Thread(target=os.close, args=(link,))
        try:
            thread.start()
        except RuntimeError:  # no more threads are to be had
            os.close(link)
        else:
            closing.append(thread)
    for thread in closing:
        thread.join()


def detach_apart(links: Collection[int]) -> None:
    """Close links, and let a process of its own wait for the kernel.

    It holds them until they are closed here, or this process has ended. Then it ends: that closes
    them.
    """
    reading, writing = os.pipe()
    try:
        is_other = os.fork() == 0
    except OSError:  # there may be no more processes
        detach(links)
    else:
        if is_other:
            _hold(links, reading)
        for link in links:
            os.close(link)
    os.close(reading)
    os.close(writing)


def _hold(links: Iterable[int], until: int) -> NoReturn:
    """Hold nothing but links, until the other end of a pipe is closed."""
    kept = sorted({*links, until})
    for before, after in pairwise((-1, *kept, os.sysconf("SC_OPEN_MAX"))):
        os.closerange(before + 1, after)
    try:
        os.read(until, 1)
    finally:
        os._exit(0)


class BpfSession(LiveSource):
    """Holds the descriptors of what the loader attached; dying detaches, too."""

    def __init__(self, plan: Plan, answer: Answer) -> None:
        """Take over the descriptors of the loader's answer."""
        super().__init__(plan, answer.backend)
        self.notes = list(answer.notes)
        self.compiles = answer.compiled > 0
        self._maps = answer.maps
        self._programs = answer.programs
        self._links = answer.links
        self._decoder = Decoder(plan.records)
        self._ring = open_ring_buffer(answer.maps["events"], plan.buffer_mb * 1024 * 1024)
        self._counters = mmap.mmap(answer.maps["counters"], mmap.PAGESIZE)
        self._lines: LineMaker | None = None
        self.rest = Rest((answer.maps["events"],), self._say_asleep)
        self._skipped_before = self._skipped()
        self._lost_skips = 0

    def holdings(self) -> Holdings:
        """Return the programs, the links and the maps."""
        maps = {name: self._maps[name] for name in self._maps if name not in READ_HERE}
        return Holdings(self._programs, self._links, maps)

    def part(self, keeper: Keeper) -> None:
        """Leave the programs and maps to a keeper; what holds them attached stays here."""
        super().part(keeper)
        kept = self._maps.pop("events")  # which tells when something comes
        self._close_all()
        self._maps = {"events": kept}

    def _close_all(self) -> None:
        """Close what nothing hangs on."""
        for descriptor in (*self._programs, *self._maps.values()):
            os.close(descriptor)
        self._programs, self._maps = (), {}

    def let_go(self) -> None:
        """Detach, and do not wait until that is done; `close` is still to be called."""
        if self._keeper:
            for link in self._links:
                os.close(link)
            self._keeper.leave()  # it holds them, too, until it has ended
        else:
            detach_apart(self._links)
        self._links = []

    def close(self) -> None:
        """Detach and unmap."""
        if self._keeper:
            self._keeper.close()  # it holds links, too
        detach(self._links)
        if self.rest:
            self.rest.close()
        self._close_all()
        self._ring.close()
        self._counters.close()

    def _lost(self) -> Losses:
        # A stand-in that is at work has not counted yet, or has just now: what was told stays.
        self._lost_skips = max(self._lost_skips, self._skipped() - self._skipped_before)
        return Losses(
            self._count(Counter.LOST),
            self._lost_skips,
            untracked=self._count(Counter.UNTRACKED),
        )

    def _skipped(self) -> int:
        """Return how often the kernel skipped a program, and no stand-in did its work."""
        if self._keeper:
            skipped = self._keeper.skipped()
        else:
            skipped = sum(map(bpf.skipped, self._programs)) + sum(map(bpf.missed, self._links))
        return skipped - self._count(Counter.STOOD_IN)

    def _count(self, which: Counter) -> int:
        return int(_COUNTER.unpack_from(self._counters, which * _COUNTER.size)[0])

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return what one of the probe's hash maps holds now; sizes in bytes."""
        if self._keeper:
            return self._keeper.table(name, key_size, value_size)
        return bpf.read_hash(self._maps[name], key_size, value_size)

    def put(self, name: str, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Put entries, keys and values, into one of the probes' hash maps. Raises OSError."""
        if self._keeper is None:
            bpf.fill(self._maps[name], entries)
            return
        for key, value in entries:
            self._keeper.put(name, key, value)

    def write_for(self, writer: Writer) -> None:
        """Yield `Lines` in place of events, where a record's bytes tell all of its line."""
        from tcptrace.model.straight import line_maker  # noqa: PLC0415 - when attached

        if not self._places:
            self._lines = line_maker(self._decoder, writer, self._complete)

    def _complete(self, data: bytes) -> tuple[Event, bool]:
        """Return a record as it comes in, and whether all is known that will ever be."""
        (event,) = self._arrivals.fill([self._decoder.decode(data)], 0)
        return event, not IDENTITIES.expects_name(event.cgroup_id or 0)

    def _batch(self, before_ns: int, *, last: bool) -> Batch:
        if self._lines is None:
            return super()._batch(before_ns, last=last)
        offset_ns = self._arrivals.offset_ns()
        return Batch(self._lines.lines(self._ring.read(), offset_ns), before_ns, offset_ns)

    def _read(self, before_ns: int, *, last: bool) -> tuple[Iterator[Event], int]:
        return map(self._decoder.decode, self._ring.read()), before_ns

    def _waiting(self) -> int:
        return self._ring.waiting()

    def _taken(self) -> int:
        return self._ring.taken

    def _say_asleep(self, is_asleep: bool) -> None:  # noqa: FBT001 - there is nothing else to say
        """Tell the programs, which wake a reader that sleeps."""
        _COUNTER.pack_into(self._counters, ASLEEP * _COUNTER.size, is_asleep)
