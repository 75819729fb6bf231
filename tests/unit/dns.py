"""DNS messages for the unit tests, and events that carry them."""

from __future__ import annotations

import dataclasses
import struct

from dnslib import RR, DNSRecord

from tcptrace.probes.dns.messages import Packet, read_packet
from tcptrace.probes.dns.probe import Message

HEADER = "!6H"
A_RECORD = struct.pack("!HHIH", 1, 1, 60, 4) + b"\xc0\0\x02\x01"


def answer(name: str, *records: str, kind: str = "A") -> bytes:
    """Return a response with records as zone files have them."""
    reply = DNSRecord.question(name, kind).reply()
    reply.add_answer(*(answer for record in records for answer in RR.fromZone(record)))
    return bytes(reply.pack())


def crafted(names: bytes, records: bytes = b"", *, questions: int = 1, answers: int = 0) -> bytes:
    """Return a response to a question whose name is `names`, in bytes."""
    head = struct.pack(HEADER, 7, 0x8180, questions, answers, 0, 0)
    return head + names + struct.pack("!HH", 1, 1) + records


def read(data: bytes) -> Packet:
    """Read a message that was captured whole."""
    return read_packet(data, len(data))


def message(data: bytes, *, length: int | None = None, **values: object) -> Message:
    """Return a message as the probe reports it."""
    fields: dict[str, object] = {
        **dict.fromkeys(field.name for field in dataclasses.fields(Message)),
        "ts_ns": 0,
        "pid": 1,
        "netns": 1,
        "socket": 1,
        "flags": 0,
        "length": len(data) if length is None else length,
        "payload": data,
        **values,
    }
    return Message(**fields)  # type: ignore[arg-type] # by name, as the probe's bytes would give


def name_bytes(text: str) -> bytes:
    """Return a name as messages have it, without pointers."""
    labels = [label.encode() for label in text.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def record_bytes(owner: bytes, kind: int, data: bytes, *, rclass: int = 1, ttl: int = 60) -> bytes:
    """Return a record."""
    return owner + struct.pack("!HHIH", kind, rclass, ttl, len(data)) + data


def opt(extension: int = 0) -> bytes:
    """Return an OPT record with the upper bits of a response code."""
    return record_bytes(b"\0", 41, b"", rclass=1232, ttl=extension << 24)


def packet_bytes(
    bits: int,
    questions: tuple[bytes, ...] = (),
    answers: tuple[bytes, ...] = (),
    others: tuple[bytes, ...] = (),
    *,
    id: int = 7,  # noqa: A002 - as the header has it
) -> bytes:
    """Return a message; `others` are the additional section."""
    head = struct.pack(HEADER, id, bits, len(questions), len(answers), 0, len(others))
    return head + b"".join((*questions, *answers, *others))


def asked(name: str, kind: int = 1, rclass: int = 1) -> bytes:
    """Return a question as messages have it."""
    return name_bytes(name) + struct.pack("!HH", kind, rclass)
