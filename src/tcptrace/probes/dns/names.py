"""The DNS cache: answers in, names of addresses out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from cachetools import LRUCache

from tcptrace.model.events import Event
from tcptrace.probes.dns.flows import Flows
from tcptrace.probes.dns.probe import SENT, Message

DAY_NS = 24 * 3600 * 1_000_000_000


class _Answer(NamedTuple):
    name: str
    ts_ns: int
    until_ns: int


def _few(answers: Sequence[_Answer], name: str) -> Iterator[_Answer]:
    """Yield answers, but of many with this name only the latest and the very first."""
    same = [answer for answer in answers if answer.name == name]
    return (answer for answer in answers if answer not in same[3:-1])


class Names:
    """The names that addresses were asked for by, as the answers passed.

    Answers of the last 10,240 addresses, of 24 hours at most, kept for each process, each network
    namespace and for all. Of several answers with an address the latest are kept, for attempts that
    began before the last one came.
    """

    MOST = 10_240
    KEPT = 8

    def __init__(self, *, own_ttl: bool = False) -> None:
        """Start empty; with `own_ttl` an answer ends when its time to live does."""
        self._own_ttl = own_ttl
        self._flows = Flows()
        self._answers: tuple[LRUCache[object, tuple[_Answer, ...]], ...] = tuple(
            LRUCache(self.MOST) for _ in range(3)
        )
        self._latest_ns = 0
        self.malformed = 0
        """How many messages could not be read."""

    @property
    def given_up(self) -> int:
        """How often messages were not read, since a bound was reached."""
        return self._flows.given_up

    def learn(self, message: Message) -> None:
        """Take the names from what was received."""
        if message.flags & SENT:
            return
        self._latest_ns = max(self._latest_ns, message.ts_ns)
        for packet in self._flows.packets(message):
            self.malformed += packet.is_malformed
            if packet.is_response and packet.query is not None:
                for address, ttl in packet.addresses:
                    self._add(message, address, packet.query, ttl)

    def name(self, event: Any) -> None:
        """Name the remote end of an event, if its answer was seen."""
        self._name(event, event.ts_ns)

    def name_late(self, row: Any) -> None:
        """Name the remote end of what began before the first answer, by those seen since."""
        self._name(row, max(row.ts_ns, self._latest_ns))

    def _name(self, event: Any, ts_ns: int) -> None:
        found = self.find(event, ts_ns)
        if found:
            event.query, event.query_age_ms = found[0], found[1] / 1e6

    def named(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield events but answers, from which it learns; those that can have a name are named."""
        for event in events:
            if isinstance(event, Message):
                self.learn(event)
            else:
                if hasattr(event, "query"):
                    self.name(event)
                yield event

    def _keys(self, event: Event, address: str) -> tuple[object, ...]:
        return ((event.pid, address), (event.netns, address), address)

    def _add(self, message: Message, address: str, name: str, ttl: int) -> None:
        ns = min(DAY_NS, ttl * 1_000_000_000) if self._own_ttl else DAY_NS
        answer = _Answer(name, message.ts_ns, message.ts_ns + ns)
        for cache, key in zip(self._answers, self._keys(message, address), strict=True):
            cache[key] = (answer, *_few(cache.get(key, ()), name))[: self.KEPT]

    def find(self, event: Event, ts_ns: int | None = None) -> tuple[str, int] | None:
        """Return the name of the event's remote address and the age of its answer in nanoseconds.

        The latest answer that its process has seen, else its network namespace, else anyone; of
        those that came before the event, or before `ts_ns`.
        """
        ts_ns = event.ts_ns if ts_ns is None else ts_ns
        if event.raddr is None or not self._answers[-1]:
            return None
        for cache, key in zip(self._answers, self._keys(event, event.raddr), strict=True):
            for answer in cache.get(key, ()):
                if answer.ts_ns <= ts_ns <= answer.until_ns:
                    return answer.name, ts_ns - answer.ts_ns
        return None
