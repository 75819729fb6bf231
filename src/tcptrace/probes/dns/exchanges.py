"""DNS questions with what became of them: the rows of `tcptrace dns`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cachetools import LRUCache

from tcptrace.model.events import Event
from tcptrace.probes.dns.messages import Packet, Streams, read_packet
from tcptrace.probes.dns.probe import MALFORMED, SENT, TCP, TIMEOUT, Message, Query, row


class _Question(NamedTuple):
    message: Message
    packet: Packet
    retry: bool


class Exchanges:
    """Pairs questions with their answers, by socket, id, name and type."""

    MOST = 16_384

    def __init__(self, timeout_ns: int) -> None:
        """Give up a question after `timeout_ns`."""
        self._timeout_ns = timeout_ns
        self._streams = Streams()
        self._waiting: dict[object, _Question] = {}
        """In the order in which they were asked."""
        self._truncated: LRUCache[object, int] = LRUCache(1024)

    def rows(self, events: Iterable[Event]) -> Iterator[Query]:
        """Yield a row for each exchange that `events` complete."""
        for event in events:
            if isinstance(event, Message):
                for data, length in self._streams.messages(event):
                    yield from self._pair(event, read_packet(data, length))

    def timed_out(self, now_ns: int) -> Iterator[Query]:
        """Yield a row for each question that has had no answer for too long."""
        while self._waiting:
            key, question = next(iter(self._waiting.items()))
            due_ns = question.message.ts_ns + self._timeout_ns
            if due_ns > now_ns and len(self._waiting) <= self.MOST:
                return
            del self._waiting[key]
            packet = question.packet
            yield row(
                question.message,
                question.message,
                ts_ns=min(due_ns, now_ns),
                query=packet.query,
                qtype=packet.qtype,
                rcode=TIMEOUT,
                retry=question.retry or None,
            )

    def _pair(self, message: Message, packet: Packet) -> Iterator[Query]:
        name = packet.query.lower() if packet.query is not None else None
        key = (message.socket, packet.id, name, packet.qtype)
        sent = message.flags & SENT
        if packet.query is None or (sent and packet.is_malformed):
            yield self._row(message, packet, None)
        elif sent and not packet.is_response:
            again = (message.pid, name, packet.qtype)
            truncated_ns = self._truncated.get(again, -self._timeout_ns)
            is_late = message.ts_ns - truncated_ns >= self._timeout_ns
            retry = bool(message.flags & TCP) and not is_late
            self._waiting.setdefault(key, _Question(message, packet, retry))
        elif packet.is_response and not sent:
            question = self._waiting.pop(key, None)
            asker = question.message if question else message
            if packet.is_truncated:
                self._truncated[asker.pid, name, packet.qtype] = message.ts_ns
            yield self._row(message, packet, question)

    def _row(self, message: Message, packet: Packet, question: _Question | None) -> Query:
        """Return what became of a question, which may not have been seen."""
        asker = question.message if question else message
        return row(
            asker,
            message,
            ts_ns=message.ts_ns,
            query=packet.query,
            qtype=packet.qtype,
            rcode=MALFORMED if packet.is_malformed else packet.rcode,
            truncated=packet.is_truncated or None,
            retry=(question and question.retry) or None,
            latency_ms=(message.ts_ns - asker.ts_ns) / 1e6 if question else None,
            answers=packet.answers or None,
        )
