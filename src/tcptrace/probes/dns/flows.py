"""What sockets carry, taken apart into DNS messages; what is not DNS is given up."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tcptrace.probes.dns.messages import LONGEST, Packet, is_header, read_packet
from tcptrace.probes.dns.probe import CUT, SENT, TCP, Message
from tcptrace.probes.dns.reader import HEADER_SIZE

PREFIX = 2
"""Bytes of length before each message over TCP (RFC 7766, 8)."""


@dataclasses.dataclass(slots=True)
class _Rest:
    """What a stream has of a message that is not complete."""

    data: bytearray = dataclasses.field(default_factory=bytearray)
    skip: int = 0
    """Bytes to come that belong to a message which was given up."""
    ts_ns: int = 0
    """When its last piece came."""


class _Stream(NamedTuple):
    """One way of a connection."""

    socket: int
    lport: int | None
    sent: int


class Flows:
    """Reads the messages of all sockets, each way apart.

    A stream over TCP is given up at its first message that cannot be read: what uses a DNS port for
    something else is one malformed message. It is taken up again where a piece begins as a message
    does, or what follows a piece of a message's length.
    """

    MOST_STREAMS = 16_384
    """Streams with a message that is not complete."""
    MOST_BYTES = 32 << 20
    """Of such messages."""
    MOST_STRANGERS = 65_536
    """What is known not to be DNS."""
    ALIVE_NS = 60_000_000_000
    """What has waited longer for its end has none."""

    WINDOW_NS, MOST_MESSAGES, FEW = 1 << 27, 2048, 16
    """In 134 ms, messages of one stream that are read; of a piece, those that are not counted."""

    def __init__(self, on_missed: Callable[[int], None] = lambda _socket: None) -> None:
        """Start with nothing seen; call `on_missed` for a socket that may have had an answer."""
        self._on_missed = on_missed
        self._rests: OrderedDict[_Stream, _Rest] = OrderedDict()
        self._bytes = 0
        self._busy: OrderedDict[_Stream, tuple[int, int]] = OrderedDict()
        """In which window streams had many messages, and how many."""
        self._strangers: OrderedDict[_Stream, bytes] = OrderedDict()
        """With the last piece of a stream if that can be the length of a message."""
        self.given_up = 0
        """How often messages were not read: their beginning was not captured, others needed room
        before they were complete, or their stream had very many."""

    def packets(self, message: Message) -> Iterator[Packet]:
        """Yield what each message says that `message`, a datagram or a piece, completes."""
        data, length = message.payload, message.length
        if message.flags & TCP:
            stream = _Stream(message.socket, message.lport, message.flags & SENT)
            self._bind(stream)
            yield from self._from_stream(stream, data, length, message.ts_ns)
        elif len(data) < min(length, HEADER_SIZE):
            self._miss_datagram(message)
        else:
            packet = read_packet(data, length)
            if packet.is_malformed and message.flags & CUT:
                packet = read_packet(data, LONGEST)
            yield packet

    def _miss_datagram(self, message: Message) -> None:
        """Count a datagram of which too little was captured, such as one in many small buffers."""
        self.given_up += 1
        if not message.flags & SENT:
            self._on_missed(message.socket)

    def _bind(self, stream: _Stream) -> None:
        """Go on with a stream whose first piece, sent with the SYN, was before it had a port."""
        rest = self._rests.pop(stream._replace(lport=None), None)
        if rest:
            self._rests[stream] = rest

    def _from_stream(self, key: _Stream, data: bytes, length: int, ts_ns: int) -> Iterator[Packet]:
        window = ts_ns // self.WINDOW_NS
        if self._busy.get(key, (0, 0)) > (window, self.MOST_MESSAGES):
            self._bytes -= len(self._rests.pop(key, _Rest()).data)
            self._miss(key)
            return
        before = self._strangers.get(key)
        if before is not None:
            if not _begins_message(before + data):
                self._strangers[key] = data if length == PREFIX else b""
                return
            del self._strangers[key]
            data, length = before + data, len(before) + length
        yield from self._messages(key, data, length, ts_ns)

    def _messages(self, key: _Stream, data: bytes, length: int, ts_ns: int) -> Iterator[Packet]:
        rest = self._rests.pop(key, None) or _Rest()
        self._bytes -= len(rest.data)
        rest.ts_ns = ts_ns
        count = 0
        for packet in _take_apart(rest, data, length):
            count += 1
            if packet is None:
                self._miss(key)
                return
            yield packet
            if packet.is_malformed:
                self._give_up(key)
                return
        if rest.data or rest.skip:
            self._keep(key, rest)
        if count > self.FEW:
            self._note(key, ts_ns // self.WINDOW_NS, count)

    def _note(self, key: _Stream, window: int, count: int) -> None:
        """Remember how many messages a stream has in a window."""
        before, so_far = self._busy.pop(key, (0, 0))
        self._busy[key] = window, count + (so_far if before == window else 0)
        if len(self._busy) > self.MOST_STREAMS:
            self._busy.popitem(last=False)

    def _keep(self, key: _Stream, rest: _Rest) -> None:
        self._rests[key] = rest
        self._bytes += len(rest.data)
        while len(self._rests) > self.MOST_STREAMS or self._bytes > self.MOST_BYTES:
            oldest, forgotten = self._rests.popitem(last=False)
            self._bytes -= len(forgotten.data)
            if rest.ts_ns - forgotten.ts_ns < self.ALIVE_NS:
                self._miss(oldest)

    def _miss(self, key: _Stream) -> None:
        """Forget where a stream is: what follows in it begins anywhere."""
        self.given_up += 1
        if not key.sent:
            self._on_missed(key.socket)
        self._give_up(key)

    def _give_up(self, key: _Stream) -> None:
        self._strangers[key] = b""
        self._strangers.move_to_end(key)
        if len(self._strangers) > self.MOST_STRANGERS:
            self._strangers.popitem(last=False)


def _begins_message(piece: bytes) -> bool:
    """Tell whether a piece of a stream begins as a message does."""
    size = int.from_bytes(piece[:PREFIX], "big")
    return is_header(piece[PREFIX : PREFIX + HEADER_SIZE], size)


def _take_apart(rest: _Rest, payload: bytes, length: int) -> Iterator[Packet | None]:
    """Yield the messages that a piece of `length` bytes completes, of which `payload` is there.

    One whose end was not captured comes without; None comes for those of which nothing is known,
    and then the stream's place is not known, either. `rest` becomes what is left.
    """
    missing = length - len(payload)
    skipped = min(rest.skip, len(payload))
    rest.skip -= skipped
    rest.data += payload[skipped:]
    at = 0
    while len(rest.data) - at >= PREFIX:
        begin = at + PREFIX
        size = int.from_bytes(rest.data[at:begin], "big")
        end = begin + size
        head = bytes(rest.data[begin : begin + HEADER_SIZE])
        cannot_be = size < HEADER_SIZE or (len(head) == HEADER_SIZE and not is_header(head, size))
        if end > len(rest.data) and not cannot_be:
            break
        yield read_packet(bytes(rest.data[begin:end]), size)
        at = end
    del rest.data[:at]
    if missing:
        yield from _skip(rest, missing)


def _skip(rest: _Rest, missing: int) -> Iterator[Packet | None]:
    """Pass `missing` bytes that were not captured, and yield the message that they are cut from."""
    begun = len(rest.data)
    if begun >= PREFIX:
        size = int.from_bytes(rest.data[:PREFIX], "big")
        rest.skip = PREFIX + size - begun
        if begun >= PREFIX + HEADER_SIZE:
            yield read_packet(bytes(rest.data[PREFIX:]), size)
            begun = 0
    if begun or missing > rest.skip:
        yield None
    rest.skip -= missing
    rest.data.clear()
