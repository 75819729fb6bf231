"""DNS questions with what became of them: the rows of `tcptrace dns`."""

from __future__ import annotations

import dataclasses
import errno
import functools
import itertools
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import Any, NamedTuple

from cachetools import LRUCache

from tcptrace.probes.dns.flows import Flows
from tcptrace.probes.dns.messages import Packet
from tcptrace.probes.dns.probe import (
    ASSUMED,
    FAILED,
    MALFORMED,
    MULTICAST_PORT,
    SENT,
    TCP,
    TIMEOUT,
    Message,
    Query,
    row,
)
from tcptrace.probes.dns.reader import Question, Record

TRANSFERS = frozenset({"AXFR", "IXFR"})
NOT_YET = frozenset({errno.EAGAIN, errno.EINTR, errno.EINPROGRESS, errno.EALREADY})
"""Why nothing was sent, where the sender is to try again. The kernel's own codes for that are
above 511, see include/linux/errno.h."""
_KERNELS_OWN = 511

Server = tuple[str | None, int | None]


@dataclasses.dataclass(slots=True, eq=False)
class _Asked:
    """A question that waits for its answer."""

    asker: Message
    """How it was asked, without its bytes."""
    server: Server
    id: int | None
    question: Question | None
    """None for a message without one, such as RFC 8490's."""
    opcode: str
    retry: bool


class _Found(NamedTuple):
    """A question, or none that was seen, with the records of its answer."""

    asked: _Asked | None
    question: Question | None
    records: tuple[Record, ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """The records' data."""
        return tuple(record.text for record in self.records)


class Transactions:
    """Pairs questions with their answers, by socket, server, id and question."""

    MOST = 65_536
    """Questions that wait; the oldest are given up for more."""
    MOST_RETRIES = 16_384
    """Truncated answers and zone transfers that are remembered, each."""
    MOST_ALIKE = 1024
    """Waiting questions of one socket, server and id that an answer is compared with."""
    MOST_ROWS = 64
    """Rows of one answer that nobody asked for."""
    LATE_NS = 200_000_000
    """Events come so late that losses are known before."""
    MOST_TASKS, MOST_OF_TASK = 4096, 64
    """Threads, and of each the latest questions, that a failure to send can be about."""

    def __init__(self, timeout_ns: int) -> None:
        """Give up a question after `timeout_ns`."""
        self._timeout_ns = timeout_ns
        self._flows = Flows(self._lose_answers)
        self._waiting: OrderedDict[_Asked, None] = OrderedDict()
        """In the order in which they were asked."""
        self._asked: dict[int, dict[Server, dict[int | None, list[_Asked]]]] = {}
        """The same by socket, server and id."""
        self._latest: LRUCache[int | None, deque[_Asked]] = LRUCache(self.MOST_TASKS)
        self._truncated: LRUCache[object, int] = LRUCache(self.MOST_RETRIES)
        self._transfers: LRUCache[object, None] = LRUCache(self.MOST_RETRIES)
        self._strangers: LRUCache[object, None] = LRUCache(Flows.MOST_STRANGERS)
        self._given_up = 0
        self._lost = 0
        self._unsure_ns = -1

    @property
    def given_up(self) -> int:
        """How many exchanges are not shown, since a bound was reached."""
        return self._given_up + self._flows.given_up

    def rows(self, events: Iterable[Any]) -> Iterator[Query]:
        """Yield a row for each exchange that `events` complete; those that were kept are whole."""
        for event in events:
            if isinstance(event, Query):
                yield event
            elif isinstance(event, Message):
                yield from self._failed(event) if event.flags & FAILED else self._read(event)

    def timed_out(self, now_ns: int) -> Iterator[Query]:
        """Yield a row for each question that has had no answer for too long."""
        while self._waiting:
            asked = next(iter(self._waiting))
            due_ns = asked.asker.ts_ns + self._timeout_ns
            if due_ns > now_ns:
                return
            if asked.asker.ts_ns <= self._unsure_ns:
                self._give_up([asked])
                continue
            self._forget(asked)
            yield self._unanswered(asked, TIMEOUT, due_ns)

    def note_lost(self, count: int, now_ns: int) -> None:
        """Say how many events have been lost so far: answers may be among them.

        What waits now for one is given up when its time is over, for nobody knows.
        """
        if count != self._lost:
            self._lost = count
            self._unsure_ns = now_ns + self.LATE_NS

    def _read(self, message: Message) -> Iterator[Query]:
        for packet in self._flows.packets(message):
            if packet.is_response:
                yield from self._answer(message, packet)
            elif message.flags & SENT:
                yield from self._question(message, packet)
            elif packet.is_malformed:
                yield from self._unreadable(message, packet)

    def _question(self, message: Message, packet: Packet) -> Iterator[Query]:
        """Let the questions of a message wait for their answer."""
        if packet.is_malformed:
            yield from self._unreadable(message, packet)
            return
        self._given_up += packet.more_questions
        asker = dataclasses.replace(message, payload=b"")
        server = _server(message)
        for question in packet.questions or (None,):
            retry = bool(message.flags & TCP) and self._was_truncated(message, question)
            self._wait(_Asked(asker, server, packet.id, question, packet.opcode, retry))

    def _was_truncated(self, message: Message, question: Question | None) -> bool:
        since_ns = self._truncated.get(_retried(message, question))
        return since_ns is not None and message.ts_ns - since_ns < self._timeout_ns

    def _wait(self, asked: _Asked) -> None:
        self._waiting[asked] = None
        by_server = self._asked.setdefault(asked.asker.socket, {})
        by_server.setdefault(asked.server, {}).setdefault(asked.id, []).append(asked)
        latest = self._latest.get(asked.asker.tid)
        if latest is None:
            latest = self._latest[asked.asker.tid] = deque(maxlen=self.MOST_OF_TASK)
        latest.append(asked)
        if len(self._waiting) > self.MOST:
            self._give_up([next(iter(self._waiting))])

    def _forget(self, asked: _Asked) -> None:
        """Take a question from those that wait."""
        del self._waiting[asked]
        by_server = self._asked[asked.asker.socket]
        by_id = by_server[asked.server]
        alike = by_id[asked.id]
        alike.remove(asked)
        if not alike:
            del by_id[asked.id]
        if not by_id:
            del by_server[asked.server]
        if not by_server:
            del self._asked[asked.asker.socket]

    def _give_up(self, several: Iterable[_Asked]) -> None:
        """Forget questions of which nobody will know what became of them."""
        for asked in several:
            self._forget(asked)
            self._given_up += 1

    def _lose_answers(self, socket: int) -> None:
        """Give up the questions of a socket whose answers may have been missed."""
        self._give_up(self._of_socket(socket))

    def _of_socket(self, socket: int) -> list[_Asked]:
        servers = self._asked.get(socket, {}).values()
        return [asked for by_id in servers for alike in by_id.values() for asked in alike]

    def _answer(self, message: Message, packet: Packet) -> Iterator[Query]:
        """Yield what an answer says to the questions that it is about."""
        found = list(self._found(message, packet))
        if not any(match.asked for match in found):
            if packet.is_malformed:
                yield from self._unreadable(message, packet)
                return
            if _transfer(message, packet) in self._transfers:
                return
        for match in found:
            if match.asked:
                self._end(match.asked, message, packet)
            yield self._row(message, packet, match)

    def _end(self, asked: _Asked, message: Message, packet: Packet) -> None:
        """Take an answered question from those that wait, and note what is to follow."""
        self._forget(asked)
        if packet.is_truncated:
            self._truncated[_retried(asked.asker, asked.question)] = message.ts_ns
        if asked.question and asked.question.qtype in TRANSFERS:
            self._transfers[_transfer(message, packet)] = None

    def _found(self, message: Message, packet: Packet) -> Iterator[_Found]:
        """Yield the questions that an answer is about, those that nobody has asked as well."""
        alike = [] if message.flags & SENT else self._alike(message, packet)
        if packet.questions:
            yield from _by_questions(alike, packet)
        elif alike and message.rport == MULTICAST_PORT:
            yield from self._by_records(alike, packet)
        elif alike:
            newest = alike[0].asker
            for asked in (candidate for candidate in alike if candidate.asker is newest):
                yield _Found(asked, asked.question, packet.records)
        else:
            yield from self._unasked(packet.records)

    def _alike(self, message: Message, packet: Packet) -> list[_Asked]:
        """Return the questions that have the answer's socket, server and id, the newest first."""
        by_server = self._asked.get(message.socket)
        if not by_server:
            return []
        servers: Iterable[Server] = ((message.raddr, message.rport), (None, message.rport))
        if message.flags & ASSUMED or message.raddr is None:
            servers = dict.fromkeys((*servers, *itertools.islice(by_server, self.MOST_ALIKE)))
        lists = (by_server.get(server, {}).get(packet.id, ()) for server in servers)
        newest_first = itertools.chain.from_iterable(map(reversed, lists))
        return list(itertools.islice(newest_first, self.MOST_ALIKE))

    def _by_records(self, alike: list[_Asked], packet: Packet) -> Iterator[_Found]:
        """Yield the questions that the records of an answer without questions are about."""
        by_owner: defaultdict[str, list[Record]] = defaultdict(list)
        for record in packet.records:
            by_owner[record.owner.lower()].append(record)
        known = set()
        taken: set[Record] = set()
        for asked in alike:
            key = _key(asked.question)
            if asked.question is None or key in known:
                continue
            records = by_owner.get(asked.question.name.lower(), ())
            own = tuple(record for record in records if record.answers(asked.question))
            if own:
                known.add(key)
                taken.update(own)
                yield _Found(asked, asked.question, own)
        rest = tuple(record for record in packet.records if record not in taken)
        if rest or not taken:
            yield from self._unasked(rest)

    def _unasked(self, records: tuple[Record, ...]) -> Iterator[_Found]:
        """Yield what an answer without questions tells of, by name and type."""
        groups: defaultdict[object, list[Record]] = defaultdict(list)
        for record in records:
            groups[record.owner.lower(), record.qtype].append(record)
        self._given_up += max(0, len(groups) - self.MOST_ROWS)
        for group in itertools.islice(groups.values(), self.MOST_ROWS):
            yield _Found(None, Question(group[0].owner, group[0].qtype), tuple(group))
        if not groups:
            yield _Found(None, None, ())

    def _unreadable(self, message: Message, packet: Packet) -> Iterator[Query]:
        """Yield a message that cannot be read, as the answer to all that a stream has asked.

        Nothing that can be read follows there. Of datagrams that are not DNS one is shown.
        """
        is_stream = message.flags & TCP and not message.flags & SENT
        waiting = self._of_socket(message.socket) if is_stream else []
        for asked in waiting:
            self._forget(asked)
            yield self._row(message, packet, _Found(asked, asked.question, ()))
        if not waiting and not self._is_known(message, packet):
            yield self._row(message, packet, _Found(None, _first(packet), packet.records))

    def _is_known(self, message: Message, packet: Packet) -> bool:
        """Tell whether a socket's datagrams that are not DNS have been shown, and remember it."""
        if message.flags & TCP or packet.is_dns:
            return False
        ends = (message.socket, message.raddr, message.rport, message.flags & SENT)
        is_known = ends in self._strangers
        self._strangers[ends] = None
        return is_known

    def _failed(self, message: Message) -> Iterator[Query]:
        """Yield the questions that the kernel could not send, or that it was told have failed."""
        if not message.error and not message.flags & SENT:
            self._lose_answers(message.socket)
            return
        unsent = self._unsent(message)
        if message.flags & SENT:
            yield from self._end_all(unsent, message, again=_is_sent_again(message))
            return
        by_id = self._asked.get(message.socket, {}).get(_server(message), {})
        sent = {asked: None for alike in by_id.values() for asked in alike}
        for asked in unsent:
            sent.pop(asked, None)
        yield from self._end_all(sent, message, again=False)

    def _end_all(
        self, several: Iterable[_Asked], message: Message, *, again: bool
    ) -> Iterator[Query]:
        """Let questions end with an error, or forget them where they are to be asked again."""
        name = errno.errorcode.get(message.error, str(message.error))
        for asked in several:
            self._forget(asked)
            if not again:
                yield self._unanswered(asked, name, max(message.ts_ns, asked.asker.ts_ns))

    def _unsent(self, message: Message) -> list[_Asked]:
        """Return the questions of a call, which began at `message.ts_ns`, that were not sent."""
        if message.tid is None:
            return []
        of_call: dict[int, list[_Asked]] = {}
        for asked in self._latest.get(message.tid, ()):
            if asked.asker.socket == message.socket and asked.asker.ts_ns >= message.ts_ns:
                of_call.setdefault(id(asked.asker), []).append(asked)
        unsent = itertools.islice(of_call.values(), message.sent, None)
        return [asked for questions in unsent for asked in questions if asked in self._waiting]

    def _unanswered(self, asked: _Asked, rcode: str, ts_ns: int) -> Query:
        return row(
            asked.asker,
            asked.asker,
            ts_ns=ts_ns,
            query=asked.question and asked.question.name,
            qtype=asked.question and asked.question.qtype,
            opcode=_unusual(asked.opcode),
            rcode=rcode,
            retry=asked.retry or None,
        )

    def _row(self, message: Message, packet: Packet, found: _Found) -> Query:
        """Return what became of a question, which may not have been seen."""
        asked = found.asked
        asker = asked.asker if asked else message
        if asked and message.flags & ASSUMED:
            message = dataclasses.replace(message, raddr=asker.raddr, rport=asker.rport)
        return row(
            asker,
            message,
            ts_ns=message.ts_ns,
            query=found.question and found.question.name,
            qtype=found.question and found.question.qtype,
            opcode=_unusual(packet.opcode),
            rcode=MALFORMED if packet.is_malformed else packet.rcode,
            truncated=(packet.is_response and packet.is_truncated) or None,
            retry=(asked and asked.retry) or None,
            sent=(packet.is_response and bool(message.flags & SENT)) or None,
            latency_ms=max(0, message.ts_ns - asker.ts_ns) / 1e6 if asked else None,
            answers=(not packet.is_malformed and found.texts) or None,
            partial=(packet.is_response and packet.is_partial) or None,
        )


def _by_questions(alike: list[_Asked], packet: Packet) -> Iterator[_Found]:
    """Yield the questions that an answer repeats, with those of `alike` that they are.

    One of those may not be known, for the message that asked it was not captured whole.
    """
    waiting: dict[object, _Asked] = {}
    for asked in reversed(alike):  # the newest is what is answered; an older one was lost
        waiting[_key(asked.question), asked.opcode] = asked
    for question in packet.questions:
        own = packet.records
        if len(packet.questions) > 1:
            own = tuple(record for record in own if record.answers(question))
        keys = ((_key(question), packet.opcode), (None, packet.opcode))
        found = next((waiting.pop(key) for key in keys if key in waiting), None)
        # As it was asked: a server may answer in other case.
        yield _Found(found, (found and found.question) or question, own)


def _key(question: Question | None) -> object:
    return question and (question.name.lower(), question.qtype)


def _first(packet: Packet) -> Question | None:
    return packet.questions[0] if packet.questions else None


def _retried(asker: Message, question: Question | None) -> object:
    """Return what a question over TCP has in common with the one whose answer was truncated."""
    return asker.pid, _key(question)


def _transfer(message: Message, packet: Packet) -> object:
    """Return what the messages of a zone transfer have in common (RFC 5936, 2.2)."""
    return message.flags & TCP, message.socket, message.lport, packet.id


def _is_sent_again(failure: Message) -> bool:
    """Tell whether a call that has failed will be made again, as where it has sent a part."""
    return bool(failure.sent) or failure.error in NOT_YET or failure.error > _KERNELS_OWN


def _unusual(opcode: str) -> str | None:
    return opcode if opcode != "QUERY" else None


@functools.lru_cache(maxsize=4096)
def _is_one_host(address: str) -> bool:
    """Tell whether nobody but `address` answers from it."""
    ip = ip_address(address)
    return not (ip.is_multicast or ip.is_unspecified or address == "255.255.255.255")


def _server(message: Message) -> Server:
    """Return who is to answer a question; any address where it was sent to several hosts."""
    address = message.raddr
    return address if address and _is_one_host(address) else None, message.rport
