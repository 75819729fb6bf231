"""Names, questions and records of a DNS message, read from its bytes (RFC 1035).

Work is bounded by the message's length: what many pointers lead to is read once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import NamedTuple

from tcptrace.probes.dns import codes
from tcptrace.probes.dns.codes import AAAA, CNAME, MX, NSEC, OPT, SOA, SRV, A

HEADER_SIZE = 12
MOST_POINTERS = 16  # in one name
NAME_OCTETS, LABEL_OCTETS, POINTER = 255, 63, 0xC0
IN, ANY_CLASS = 1, 255
UNIQUE = 0x8000
"""Multicast DNS: an answer may be sent to the asker alone; earlier records are to be forgotten."""

_QUESTION, _RECORD = struct.Struct("!2H"), struct.Struct("!2HIH")
_U16, _SRV, _SOA = struct.Struct("!H"), struct.Struct("!3H"), struct.Struct("!5I")
_PLAIN = bytes(octet for octet in range(0x21, 0x7F) if octet not in b".\\")


class MalformedError(ValueError):
    """A message is not what RFC 1035 says."""


class EndError(MalformedError):
    """A message goes on behind the last of its bytes."""


class Question(NamedTuple):
    """What is asked for."""

    name: str
    qtype: str
    """With its class where that is not IN, as ``TXT/CH``."""


class Record(NamedTuple):
    """A record of the answer section."""

    owner: str
    kind: int
    rclass: int
    ttl: int
    text: str
    """Its data."""

    @property
    def qtype(self) -> str:
        """Its type as a question has it."""
        return _type_and_class(self.kind, self.rclass)

    def answers(self, question: Question) -> bool:
        """Tell whether it is about the question's name and type, or says where that leads."""
        return self.owner.lower() == question.name.lower() and (
            self.qtype == question.qtype
            or self.kind in {CNAME, NSEC}
            or question.qtype.partition("/")[0] == "ANY"
        )


class Reader:
    """A message that is being read, from its header on."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = HEADER_SIZE
        self._names: dict[int, tuple[str, int]] = {}
        """Text and octets of the names and ends of names that were read, by their places: what
        many pointers lead to is read once."""

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        """Return what is at the current place, and move behind it."""
        at = self.at
        self.at = at + form.size
        if self.at > len(self.data):
            raise EndError
        return form.unpack_from(self.data, at)

    def _octet(self, at: int) -> int:
        if at >= len(self.data):
            raise EndError
        return self.data[at]

    def name(self) -> str:
        r"""Return the name at the current place, and move behind it.

        It is as zone files have it (RFC 1035, 5.1): bytes that are not printable as ``\NNN``.
        """
        labels: list[tuple[int, int]] = []
        at, behind, pointers, octets = self.at, 0, 0, 1
        while (size := self._octet(at)) and not (pointers and at in self._names):
            if size >= POINTER:
                target = (size & ~POINTER) << 8 | self._octet(at + 1)
                behind = behind or at + 2
                pointers += 1
                if target >= at or pointers > MOST_POINTERS:
                    raise MalformedError
                at = target
                continue
            octets += size + 1
            if size > LABEL_OCTETS or octets > NAME_OCTETS:
                raise MalformedError
            labels.append((at, size))
            at += size + 1
        self.at = behind or at + 1
        return self._join(labels, *self._names.get(at, ("", 1))) or "."

    def _join(self, labels: list[tuple[int, int]], text: str, octets: int) -> str:
        """Put labels before the rest of a name."""
        for at, size in reversed(labels):
            label = self.data[at + 1 : at + 1 + size]
            if len(label) < size:
                raise EndError
            octets += size + 1
            text = f"{label_text(label)}.{text}" if text else label_text(label)
            self._names[at] = text, octets
        if octets > NAME_OCTETS:
            raise MalformedError
        return text

    def skip_name(self) -> None:
        """Move behind the name at the current place."""
        at = self.at
        while size := self._octet(at):
            if size >= POINTER:
                at += 1
                break
            if size > LABEL_OCTETS:
                raise MalformedError
            at += size + 1
        self.at = at + 1

    def question(self) -> Question:
        """Return the question at the current place."""
        name = self.name()
        return Question(name, _type_and_class(*self.unpack(_QUESTION)))

    def skip_question(self) -> None:
        """Move behind the question at the current place."""
        self.skip_name()
        self.unpack(_QUESTION)

    def record(self) -> Record:
        """Return the record at the current place."""
        owner = self.name()
        kind, class_, ttl, length = self.unpack(_RECORD)
        end = self.at + length
        if end > len(self.data):
            raise EndError
        text = self._data_text(kind, _class(class_), end)
        if self.at != end:
            raise MalformedError
        return Record(owner, kind, _class(class_), ttl, text)

    def extension(self) -> int:
        """Skip a record; return the upper bits of the response code if it is OPT (RFC 6891)."""
        self.skip_name()
        kind, _, ttl, length = self.unpack(_RECORD)
        self.at += length
        if self.at > len(self.data):
            raise EndError
        return ttl >> 20 & 0xFF0 if kind == OPT else 0

    def _data_text(self, kind: int, class_: int, end: int) -> str:
        """Return a record's data as zone files have it, and move behind it."""
        if kind in {A, AAAA} and class_ == IN:
            return _address(self._rest(end), kind)
        if kind in codes.NAMES:
            return self.name()
        if kind == MX:
            return f"{self.unpack(_U16)[0]} {self.name()}"
        if kind == SRV:
            priority, weight, port = self.unpack(_SRV)
            return f"{priority} {weight} {port} {self.name()}"
        if kind == SOA:
            names = f"{self.name()} {self.name()}"
            return f"{names} {self.unpack(_SOA)[0]}"
        if kind in codes.TEXTS:
            return " ".join(_strings(self._rest(end)))
        data = self._rest(end)
        return f"\\# {len(data)} {data.hex()}".rstrip()

    def _rest(self, end: int) -> bytes:
        data = self.data[self.at : end]
        self.at = end
        return data


def _class(class_: int) -> int:
    """Return a class without the bit that multicast DNS has in it (RFC 6762, 10.2 and 18.12)."""
    plain = class_ & ~UNIQUE
    return plain if plain in {IN, ANY_CLASS} else class_


def _type_and_class(kind: int, class_: int) -> str:
    text = codes.type_text(kind)
    return text if _class(class_) == IN else f"{text}/{codes.class_text(_class(class_))}"


def _octet_text(octet: int) -> str:
    char = chr(octet)
    if char in ".\\":
        return "\\" + char
    return char if "!" <= char <= "~" else f"\\{octet:03d}"


_OCTETS = [_octet_text(octet) for octet in range(256)]


def label_text(label: bytes) -> str:
    """Return a label as zone files have it."""
    if label.translate(None, _PLAIN):
        return "".join(_OCTETS[octet] for octet in label)
    return label.decode("ascii")


def _strings(data: bytes) -> Iterator[str]:
    """Yield the character strings of a TXT record."""
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        if end > len(data):
            raise MalformedError
        yield f'"{_string_text(data[at + 1 : end])}"'
        at = end


def _string_text(data: bytes) -> str:
    return "".join(
        chr(octet) if 32 <= octet < 127 and octet not in b'"\\' else f"\\{octet:03d}"
        for octet in data
    )


def _address(data: bytes, kind: int) -> str:
    """Return an address as events have it; an IPv4-mapped one is IPv4."""
    if len(data) != (4 if kind == A else 16):
        raise MalformedError
    if kind == A:
        return ".".join(map(str, data))
    address = IPv6Address(data)
    return str(address.ipv4_mapped or address)
