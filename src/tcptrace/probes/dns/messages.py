"""DNS messages: from what sockets carry to what it says.

What a peer sends is hostile until it is read: nothing here raises for a message's content, and the
work on one is bounded. dnslib reads the records; names are read here, since dnslib follows
compression as deep as Python's stack is and refuses labels that are not UTF-8.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Any, NamedTuple

from cachetools import LRUCache
from dnslib import CLASS, CNAME, MX, NS, PTR, QTYPE, RCODE, SOA, SRV, TXT, A
from dnslib.buffer import BufferError as ShortError
from dnslib.dns import AAAA, DNSError, DNSHeader, DNSQuestion
from dnslib.label import DNSBuffer, DNSLabel

from tcptrace.probes.dns.probe import SENT, TCP, Message

MOST_RECORDS = 512  # 4,096 bytes hold no more than 300
MOST_STEPS = 4096  # labels and pointers in the names of one message
MOST_POINTERS = 16  # in one name
NAME_OCTETS, LABEL_OCTETS, POINTER = 255, 63, 0xC0
IN, CNAME_TYPE = 1, 5
READERS = {1: A, 2: NS, 5: CNAME, 6: SOA, 12: PTR, 15: MX, 16: TXT, 28: AAAA, 33: SRV}


class MalformedError(ValueError):
    """A message is not what RFC 1035 says. It never leaves this module."""


class _Buffer(DNSBuffer):  # type: ignore[misc] # dnslib has no type information
    """A message being read; names of any bytes, with bounded work."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.offset: int = 0
        self._steps = MOST_STEPS

    def _octet(self, offset: int) -> int:
        self._steps -= 1
        if self._steps < 0 or offset >= len(self.data):
            raise MalformedError
        return int(self.data[offset])

    def decode_name(self, _last: int = -1) -> DNSLabel:
        """Return the name at the current offset, and move behind it."""
        labels: list[bytes] = []
        behind, octets, pointers = 0, 0, 0
        at = self.offset
        while size := self._octet(at):
            if size >= POINTER:
                target = (size & ~POINTER) << 8 | self._octet(at + 1)
                behind = behind or at + 2
                pointers += 1
                if target >= at or pointers > MOST_POINTERS:
                    raise MalformedError
                at = target
                continue
            octets += size + 1
            if size > LABEL_OCTETS or octets >= NAME_OCTETS or at + size >= len(self.data):
                raise MalformedError
            labels.append(bytes(self.data[at + 1 : at + 1 + size]))
            at += size + 1
        self.offset = behind or at + 1
        return DNSLabel(labels)


def _octet_text(octet: int) -> str:
    char = chr(octet)
    if char in ".\\":
        return "\\" + char
    return char if "!" <= char <= "~" else f"\\{octet:03d}"


_TEXT = [_octet_text(octet) for octet in range(256)]


def name_text(label: DNSLabel) -> str:
    r"""Return a name as zone files have it (RFC 1035, 5.1): bytes not printable as ``\NNN``."""
    return ".".join("".join(_TEXT[octet] for octet in one) for one in label.label) or "."


def _data_text(data: Any) -> str:
    if isinstance(data, (A, AAAA)):
        return _address(data)
    if isinstance(data, (CNAME, NS, PTR)):
        return name_text(data.label)
    if isinstance(data, MX):
        return f"{data.preference} {name_text(data.label)}"
    if isinstance(data, SRV):
        return f"{data.priority} {data.weight} {data.port} {name_text(data.target)}"
    if isinstance(data, SOA):
        return f"{name_text(data.mname)} {name_text(data.rname)} {data.times[0]}"
    if isinstance(data, TXT):
        return " ".join(f'"{_string_text(part)}"' for part in data.data)
    return f"\\# {len(data)} {data.hex()}"


def _string_text(data: bytes) -> str:
    return "".join(
        chr(octet) if 32 <= octet < 127 and octet not in b'"\\' else f"\\{octet:03d}"
        for octet in data
    )


def _address(data: Any) -> str:
    """Return an address as events have it; an IPv4-mapped one is IPv4."""
    if isinstance(data, A):
        return ".".join(map(str, data.data))
    address = IPv6Address(bytes(data.data))
    return str(address.ipv4_mapped or address)


class _Record(NamedTuple):
    owner: DNSLabel
    kind: int
    ttl: int
    data: Any


@dataclasses.dataclass(slots=True)
class Packet:
    """What a message says."""

    id: int | None = None
    """None where not even that could be read."""
    is_response: bool = False
    is_truncated: bool = False
    """As its sender says (TC): it is to be asked for again over TCP."""
    is_malformed: bool = True
    """Its end, or all of it, could not be read."""
    rcode: str = ""
    query: str | None = None
    qtype: str | None = None
    answers: tuple[str, ...] = ()
    """The data of the answer section, in the server's order."""
    addresses: tuple[tuple[str, int], ...] = ()
    """The addresses that the query leads to, through aliases, and their time to live in seconds:
    the least of the way."""


def _read_record(buffer: _Buffer) -> _Record:
    owner = buffer.decode_name()
    kind, class_, ttl, length = buffer.unpack("!HHIH")
    end = buffer.offset + length
    if length > buffer.remaining():
        raise MalformedError
    reader = READERS.get(kind) if class_ == IN else None
    data = reader.parse(buffer, length) if reader else bytes(buffer.get(length))
    if buffer.offset != end:
        raise MalformedError
    return _Record(owner, kind, ttl, data)


def _addresses(asked: DNSLabel, records: list[_Record]) -> Iterator[tuple[str, int]]:
    """Yield the addresses of `asked` and of its aliases, with their times to live."""
    aliases = {one.owner: one for one in records if one.kind == CNAME_TYPE and _is_known(one)}
    ttls = {asked: 1 << 32}
    name = asked
    while name in aliases and aliases[name].data.label not in ttls:
        alias = aliases[name]
        ttls[alias.data.label] = min(ttls[name], alias.ttl)
        name = alias.data.label
    for one in records:
        if isinstance(one.data, (A, AAAA)) and one.owner in ttls:
            yield _address(one.data), min(one.ttl, ttls[one.owner])


def _is_known(record: _Record) -> bool:
    return not isinstance(record.data, bytes)


def _read_question(buffer: _Buffer, header: DNSHeader) -> DNSQuestion | None:
    if header.q > 1 or header.a > MOST_RECORDS:  # servers refuse more than one question
        raise MalformedError
    return DNSQuestion.parse(buffer) if header.q else None


def _fill(packet: Packet, data: bytes, length: int) -> None:
    buffer = _Buffer(data)
    header = DNSHeader.parse(buffer)
    packet.id = header.id
    packet.is_response = bool(header.bitmap & 0x8000)
    packet.is_truncated = bool(header.bitmap & 0x0200)
    packet.rcode = RCODE.get(header.bitmap & 15)
    question = _read_question(buffer, header)
    if question:
        packet.query = name_text(question.qname)
        packet.qtype = _type_text(question)
    if len(data) < length:
        raise MalformedError
    records = [_read_record(buffer) for _ in range(header.a)]
    packet.answers = tuple(_data_text(one.data) for one in records)
    if question:
        packet.addresses = tuple(_addresses(question.qname, records))
    packet.is_malformed = False


def read_packet(data: bytes, length: int) -> Packet:
    """Return what a message of `length` bytes says, of which `data` was captured."""
    packet = Packet()
    with contextlib.suppress(MalformedError, ShortError, DNSError):
        _fill(packet, data, length)
    return packet


def _type_text(question: DNSQuestion) -> str:
    text = str(QTYPE[question.qtype])
    return text if question.qclass == IN else f"{text}/{CLASS.get(question.qclass)}"


class Streams:
    """Takes DNS over TCP apart: each message has its length in two bytes before it (RFC 7766)."""

    MOST = 64

    def __init__(self) -> None:
        """Start with no stream."""
        self._rests: LRUCache[object, _Rest] = LRUCache(self.MOST)

    def messages(self, piece: Message) -> Iterator[tuple[bytes, int]]:
        """Yield each message that `piece` completes: what was captured, and its length in bytes.

        One whose end was not captured comes without.
        """
        if not piece.flags & TCP:
            yield piece.payload, piece.length
            return
        key = (piece.socket, piece.lport, piece.flags & SENT)
        rest = self._rests.get(key) or _Rest(bytearray(), 0)
        yield from _take_apart(rest, piece.payload, piece.length)
        if rest.data or rest.skip:
            self._rests[key] = rest
        else:
            self._rests.pop(key, None)


@dataclasses.dataclass(slots=True)
class _Rest:
    """What a stream has of a message that is not complete."""

    data: bytearray
    skip: int
    """Bytes to come that belong to a message which was given up."""


def _take_apart(rest: _Rest, payload: bytes, length: int) -> Iterator[tuple[bytes, int]]:
    missing = length - len(payload)
    skipped = min(rest.skip, len(payload))
    rest.skip -= skipped
    rest.data += payload[skipped:]
    at = 0
    while len(rest.data) - at >= 2:
        size = int.from_bytes(rest.data[at : at + 2], "big")
        end = at + 2 + size
        if end > len(rest.data):
            break
        yield bytes(rest.data[at + 2 : end]), size
        at = end
    del rest.data[:at]
    if missing:
        size = int.from_bytes(rest.data[:2], "big")
        if rest.data:
            yield bytes(rest.data[2:]), max(size, len(rest.data))
        rest.skip = max(0, rest.skip + (2 + size - len(rest.data) if rest.data else 0) - missing)
        rest.data.clear()
