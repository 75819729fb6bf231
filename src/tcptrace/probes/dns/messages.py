"""DNS messages: from a message's bytes to what it says (RFC 1035).

What a peer sends is hostile until it is read: nothing here raises for a message's content, and work
and text are bounded by its length.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator

from tcptrace.probes.dns.codes import AAAA, CNAME, A, opcode_text, rcode_text
from tcptrace.probes.dns.reader import (
    HEADER_SIZE,
    IN,
    EndError,
    MalformedError,
    Question,
    Reader,
    Record,
)

MOST_QUESTIONS = 64
"""Questions of one message that are read; multicast DNS has many."""
MOST_TEXT, SPARE_TEXT = 4, 4096
"""Characters of answers for each byte of the message, and beside those: a pointer of two bytes can
be a name of 1,000."""
LONGEST = 65_535
"""Bytes of any message."""
RESPONSE, TRUNCATED = 0x8000, 0x0200
QUERY, UNASSIGNED, DSO = 0, 3, 6

_HEADER = struct.Struct("!6H")
_LEAST_QUESTION, _LEAST_RECORD = 5, 11  # bytes, with the root as name


@dataclasses.dataclass(slots=True)
class Packet:
    """What a message says."""

    id: int | None = None
    """None where not even that could be read."""
    is_response: bool = False
    is_truncated: bool = False
    """As its sender says (TC): it is to be asked for again over TCP."""
    is_malformed: bool = False
    """Its end, or all of it, cannot be read."""
    is_partial: bool = False
    """It has more answers than are here: its end was not captured, or is too long to show."""
    is_dns: bool = False
    """Whether it begins with what can be the header of a message so long."""
    opcode: str = opcode_text(QUERY)
    rcode: str = ""
    questions: tuple[Question, ...] = ()
    more_questions: int = 0
    """How many there are beside those, `MOST_QUESTIONS`, that were read."""
    records: tuple[Record, ...] = ()
    """The answer section, in the sender's order."""

    @property
    def query(self) -> str | None:
        """The name of its first question."""
        return self.questions[0].name if self.questions else None

    @property
    def qtype(self) -> str | None:
        """The type of its first question."""
        return self.questions[0].qtype if self.questions else None

    @property
    def answers(self) -> tuple[str, ...]:
        """The data of the answer section."""
        return tuple(record.text for record in self.records)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """The addresses that the question's name leads to, through aliases.

        Each has its time to live in seconds: the least of the way.
        """
        if self.is_malformed or not self.questions:
            return ()
        return tuple(_addresses(self.questions[0].name, self.records))


def _addresses(asked: str, records: tuple[Record, ...]) -> Iterator[tuple[str, int]]:
    aliases = {record.owner.lower(): record for record in records if record.kind == CNAME}
    name = asked.lower()
    ttls = {name: 1 << 32}
    while (alias := aliases.get(name)) and alias.text.lower() not in ttls:
        ttls[alias.text.lower()] = min(ttls[name], alias.ttl)
        name = alias.text.lower()
    for record in records:
        ttl = ttls.get(record.owner.lower())
        if record.kind in {A, AAAA} and record.rclass == IN and ttl is not None:
            yield record.text, min(record.ttl, ttl)


def is_header(data: bytes, length: int) -> bool:
    """Tell whether a message of `length` bytes can begin with `data`.

    What is not DNS seldom passes, and zeros never.
    """
    if length < HEADER_SIZE or len(data) < HEADER_SIZE:
        return False
    _, bits, questions, *records = _HEADER.unpack_from(data)
    opcode = bits >> 11 & 15
    if opcode > DSO or opcode == UNASSIGNED:
        return False
    if length == HEADER_SIZE:  # servers answer so, some with the numbers of the question
        return bool(bits & RESPONSE) or opcode == DSO
    least = HEADER_SIZE + _LEAST_QUESTION * questions + _LEAST_RECORD * sum(records)
    has_content = bool(questions or any(records) or opcode == DSO)
    if bits & RESPONSE and bits & TRUNCATED:
        return has_content and questions <= MOST_QUESTIONS and least <= LONGEST
    return has_content and least <= length


def read_packet(data: bytes, length: int) -> Packet:
    """Return what a message of `length` bytes says, of which `data` was captured."""
    is_dns = is_header(data, length)
    packet = Packet(is_dns=is_dns, is_malformed=not is_dns, is_partial=len(data) < length)
    if len(data) < HEADER_SIZE:
        return packet
    packet.id, bits, *counts = _HEADER.unpack_from(data)
    packet.is_response = bool(bits & RESPONSE)
    packet.is_truncated = bool(bits & TRUNCATED)
    packet.opcode = opcode_text(bits >> 11 & 15)
    packet.rcode = rcode_text(bits & 15)
    try:
        if is_dns and length > HEADER_SIZE:
            _fill(packet, Reader(data), bits & 15, counts)
    except EndError:
        packet.is_malformed = not (packet.is_truncated or packet.is_partial)
    except MalformedError:
        packet.is_malformed = True
    return packet


def _fill(packet: Packet, reader: Reader, rcode: int, counts: list[int]) -> None:
    """Read what is behind the header, as far as it goes."""
    questions, answers, *others = counts
    packet.more_questions = max(0, questions - MOST_QUESTIONS)
    for _ in range(questions - packet.more_questions):
        packet.questions += (reader.question(),)
    for _ in range(packet.more_questions):
        reader.skip_question()
    _read_answers(packet, reader, answers)
    for _ in range(sum(others)):
        extension = reader.extension()
        if extension:
            packet.rcode = rcode_text(extension | rcode)


def _read_answers(packet: Packet, reader: Reader, count: int) -> None:
    records: list[Record] = []
    room = MOST_TEXT * len(reader.data) + SPARE_TEXT
    try:
        for _ in range(count):
            record = reader.record()
            room -= len(record.text)
            if room < 0:
                packet.is_partial = True
                _skip(reader, count - len(records) - 1)
                break
            records.append(record)
    finally:
        packet.records = tuple(records)


def _skip(reader: Reader, count: int) -> None:
    for _ in range(count):
        reader.extension()
