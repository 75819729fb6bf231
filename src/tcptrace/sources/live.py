"""What sources on a running kernel have in common: `LiveSource`."""

from __future__ import annotations

import abc
import os
import select
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tcptrace.kernel import clock
from tcptrace.kernel.keeper import Holdings, Keeper
from tcptrace.model.batch import Batch
from tcptrace.model.events import Event
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.probes.places import VERDICTS
from tcptrace.sources.arrivals import Arrivals
from tcptrace.sources.places import Places
from tcptrace.sources.plan import Plan
from tcptrace.sources.rest import Rest

if TYPE_CHECKING:
    from tcptrace.model.straight import Writer

POLL_S = 0.03
"""How often the buffer is looked at; rows are to be out within 100 ms of their event."""
HOST = "TCPTRACE_HOST"
"""In the environment, the host's name for recordings, where its own is a container's."""
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def describe(plan: Plan, backend: str) -> Meta:
    """Return what holds for all events of a plan on this host."""
    system = os.uname()
    return Meta(
        probe=plan.probe.name,
        backend=backend,
        host=_text(os.environ.get(HOST) or system.nodename),
        boot_id=BOOT_ID.read_text(encoding="ascii").strip(),
        kernel=system.release,
        start_ns=time.time_ns(),
        filters=plan.filters.texts(),
        switches={
            define: plan.probe.switch_text(define, int(text))
            for define, text in plan.switches.items()
        },
        companions=tuple(companion.name for companion in plan.companions),
    )


def _text(name: str) -> str:
    """Return a name as it can be kept: what is not UTF-8 in it is escaped."""
    return os.fsencode(name).decode(errors="backslashreplace")


class LiveSource(abc.ABC):
    """What is attached; closing it detaches."""

    notes: list[str]
    """How the backend was chosen."""
    warning: str = ""
    """Why it can do less than the user may expect."""
    rest: Rest | None = None
    """Sleeps while nothing comes, where something wakes it."""
    may_rest: bool = False
    """Whether batches may come seldom while nothing happens, for nobody asks them for the time."""
    compiles: bool | None = None
    """Whether something had to be compiled; None where there is nothing to compile."""

    def __init__(self, plan: Plan, backend: str) -> None:
        """Describe what will be attached; nothing has come in."""
        self.meta = describe(plan, backend)
        self.backend = backend
        self.given_up = 0
        self._unread = 0
        self._finished = False
        self._arrivals = Arrivals()
        self._places: Places | None = None
        self._poller = select.poll()
        self._keeper: Keeper | None = None

    def judge_by(self, places: Places) -> None:
        """Drop events as `places` says, and tell the kernel which."""
        self._places = places
        self.put(VERDICTS, places.verdicts())

    def batches(self) -> Iterator[Batch]:
        """Yield what has come, in order, some 30 times a second until `finish`, or less often."""
        while True:
            last = self._finished
            before_ns = clock.now_ns()
            if not last:
                self._sleep()
            yield self._batch(before_ns, last=last)
            if last and not self._has_more():
                return

    def _batch(self, before_ns: int, *, last: bool) -> Batch:
        """Return what has come; see `_read`."""
        events, until_ns = self._read(before_ns, last=last)
        if self._places:
            kept, until_ns = self._places.sift(events, until_ns, is_last=last)
            events = iter(kept)
            self.put(VERDICTS, self._places.verdicts())
        offset_ns = self._arrivals.offset_ns()
        return Batch(self._arrivals.fill(events, offset_ns), until_ns, offset_ns)

    def _sleep(self) -> None:
        """Sleep until the next look, or until what `wake_at` was told of, for once."""
        if self.rest and self.rest.is_quiet(self._taken()) and not self._holds_back():
            if self.may_rest:
                self.rest.lengthen()
            self.rest.sleep()
            return
        for descriptor, _ in self._poller.poll(POLL_S * 1000):
            self._poller.unregister(descriptor)

    def _holds_back(self) -> bool:
        """Tell whether what came in is still to be passed on, after some time."""
        return bool(self._places and self._places.waiting)

    def wake_at(self, descriptor: int) -> None:
        """Look at once when a descriptor can be read."""
        self._poller.register(descriptor, select.POLLIN)
        if self.rest:
            self.rest.wake_at(descriptor)

    def rest_long(self) -> None:
        """Let batches come seldom while nothing happens, where something can wake it."""
        self.may_rest = True

    def write_for(self, writer: Writer) -> None:  # noqa: B027 - events will do
        """Yield `Lines` as `writer` wants them in place of events, if the source can.

        To be called where each event is a row that nobody looks at.
        """

    def finish(self) -> None:
        """Let the next batch be the last."""
        self._finished = True

    def abandon(self) -> None:
        """Count as lost what waits in the buffer."""
        self._unread += self._waiting() + (self._places.waiting if self._places else 0)

    def losses(self) -> Losses:
        """Return what may be missing since the start."""
        return self._lost()._replace(given_up=self.given_up, unread=self._unread)

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return what one of the probe's hash maps holds now; sizes in bytes."""
        raise NotImplementedError

    def put(self, name: str, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Put entries, keys and values, into one of the probes' hash maps."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Detach, and do not wait until that is done; `close` is still to be called."""
        raise NotImplementedError

    def holdings(self) -> Holdings:
        """Return what a keeper is to have of this."""
        return Holdings()

    def part(self, keeper: Keeper) -> None:
        """Ask a keeper, from now on, for what takes rights; it ends with `close`."""
        self._keeper = keeper

    @abc.abstractmethod
    def close(self) -> None:
        """Detach."""

    @abc.abstractmethod
    def _read(self, before_ns: int, *, last: bool) -> tuple[Iterator[Event], int]:
        """Return the events that have come, in order; all of them if no more are to be read.

        Args:
            before_ns: a moment so long ago that all of before is in the buffer.
            last: whether nothing more is to come in.

        Returns:
            The events, and the time up to which nothing more will come.

        """

    def _has_more(self) -> bool:
        """Tell whether the last look has left some of what was in the buffer."""
        return False

    def _taken(self) -> int:
        """Return a number that grows with what was taken out of the buffer."""
        return 0

    @abc.abstractmethod
    def _waiting(self) -> int:
        """Return how many events nobody has read, in a fraction of a second."""

    @abc.abstractmethod
    def _lost(self) -> Losses:
        """Return what may be missing since the start, as the kernel counts."""
