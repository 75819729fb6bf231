"""DNS messages read, streams taken apart, and names found."""

from __future__ import annotations

import dataclasses
import struct
import time
from ipaddress import ip_address

import pytest
from dnslib import EDNS0, RR, DNSRecord

from tcptrace.probes.dns.messages import Packet, Streams, read_packet
from tcptrace.probes.dns.names import DAY_NS, Names
from tcptrace.probes.dns.probe import SENT, TCP, Message

HEADER = "!6H"
A_RECORD = struct.pack("!HHIH", 1, 1, 60, 4) + b"\xc0\0\x02\x01"


def answer(name: str, *records: str, kind: str = "A") -> bytes:
    """Return a response with records as zone files have them."""
    reply = DNSRecord.question(name, kind).reply()
    reply.add_answer(*(one for record in records for one in RR.fromZone(record)))
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


def attempt(raddr: str, ts_ns: int = 1, *, pid: int = 1, netns: int = 1) -> Message:
    """Return an event with a remote address."""
    return message(b"", raddr=raddr, ts_ns=ts_ns, pid=pid, netns=netns)


def test_addresses_and_data_are_read() -> None:
    """Answers come in the server's order, addresses with the least TTL of their way."""
    records = (
        "first.test. 60 IN CNAME second.test.",
        "second.test. 50 IN A 192.0.2.1",
        "second.test. 300 IN AAAA 2001:db8::1",
        "unasked.test. 9 IN A 192.0.2.99",
        'first.test. 9 IN TXT "some text"',
        "first.test. 9 IN MX 10 mail.test.",
    )
    packet = read(answer("first.test", *records))
    shown = ("second.test", "192.0.2.1", "2001:db8::1", "192.0.2.99", '"some text"', "10 mail.test")
    assert shown == packet.answers
    assert (("192.0.2.1", 50), ("2001:db8::1", 60)) == packet.addresses
    assert ("first.test", "A", "NOERROR") == (packet.query, packet.qtype, packet.rcode)
    assert packet.is_response
    assert not packet.is_malformed


def test_aliases_in_any_order_and_letters_in_any_case() -> None:
    """A chain is followed from the name asked for, however its records come."""
    records = ("C.test. IN A 192.0.2.1", "B.test. IN CNAME c.TEST.", "a.test. IN CNAME b.test.")
    assert "192.0.2.1" == read(answer("A.test", *records)).addresses[0][0]


def test_aliases_that_loop_end() -> None:
    """A chain of aliases that leads back to itself has no address."""
    records = ("a.test. IN CNAME b.test.", "b.test. IN CNAME a.test.")
    assert () == read(answer("a.test", *records)).addresses


def test_ipv4_mapped_address_is_ipv4() -> None:
    """An AAAA record with an IPv4-mapped address names IPv4 connections."""
    packet = read(answer("a.test", "a.test. IN AAAA ::ffff:c000:201", kind="AAAA"))
    assert (("192.0.2.1", 0),) == packet.addresses


@pytest.mark.parametrize(
    ("label", "text"),
    [
        (b"\x1b[31m", r"\027[31m"),
        (b"a\nb", r"a\010b"),
        (b"\xff\xfe", r"\255\254"),
        (b"a.b\\", r"a\.b\\"),
        (b"xn--bcher-kva", "xn--bcher-kva"),
        (b"x" * 63, "x" * 63),
    ],
)
def test_names_are_shown_as_in_zone_files(label: bytes, text: str) -> None:
    """Bytes of a name that are not printable become decimal escapes."""
    packet = read(crafted(bytes([len(label)]) + label + b"\0"))
    assert (text, False) == (packet.query, packet.is_malformed)


def test_longest_name_is_read_and_a_longer_one_is_not() -> None:
    """A name has 255 octets at most."""
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert 255 == len(longest)
    assert not read(crafted(longest)).is_malformed
    assert read(crafted((b"\x3f" + b"a" * 63) * 3 + b"\x3e" + b"a" * 62 + b"\0")).is_malformed


MALFORMED = {
    "empty": b"",
    "no header": b"\0" * 11,
    "no question": struct.pack(HEADER, 1, 0x8180, 1, 0, 0, 0),
    "two questions": crafted(b"\x01a\0" + b"\0\x01\0\x01" + b"\x01a\0", questions=2),
    "pointer to itself": crafted(b"\xc0\x0c"),
    "pointer forward": crafted(b"\xc0\x20"),
    "pointer loop": crafted(b"\x01a\xc0\x0c"),
    "reserved label": crafted(b"\x40" + b"a" * 64 + b"\0"),
    "end in a label": struct.pack(HEADER, 1, 0x8180, 1, 0, 0, 0) + b"\x20abc",
    "too few answers": crafted(b"\x01a\0", b"\xc0\x0c" + A_RECORD, answers=2),
    "address of three bytes": crafted(
        b"\x01a\0", b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 3) + b"abc", answers=1
    ),
    "address of five bytes": crafted(
        b"\x01a\0", b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 5) + b"abcde", answers=1
    ),
    "60,000 answers": crafted(b"\x01a\0", b"\xc0\x0c" + A_RECORD, answers=60_000),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_messages_are_said_to_be(case: str) -> None:
    """What is not a DNS message is malformed, and names nothing."""
    packet = read(MALFORMED[case])
    assert packet.is_malformed
    assert () == packet.addresses


def test_message_that_was_not_captured_whole_is_malformed() -> None:
    """Its name is known, its answers are not."""
    data = answer("a.test", "a.test. IN A 192.0.2.1")
    packet = read_packet(data, 5000)
    assert (True, "a.test", ()) == (packet.is_malformed, packet.query, packet.addresses)


def test_work_on_hostile_names_is_bounded() -> None:
    """Messages made to be slow take milliseconds."""
    long_name = b"\x01a" * 126 + b"\0"
    alias = b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 60, 2) + b"\xc0\x0c"
    chain = b"".join(b"\xc0" + bytes([12 + at]) for at in range(0, 200, 2))
    for data in (
        crafted(long_name, alias * 500, answers=500),
        crafted(b"\0" + chain, alias * 500, answers=500),
        crafted(b"\x01a\0", (b"\xc0\x0c" + A_RECORD) * 500, answers=500),
    ):
        started = time.process_time()
        read(data)
        assert time.process_time() - started < 0.1


def test_edns_is_no_answer() -> None:
    """The additional section is not read."""
    reply = DNSRecord.question("a.test").reply()
    reply.add_ar(EDNS0(udp_len=4096))
    assert () == read(bytes(reply.pack())).answers


FIRST, SECOND = answer("a.test", "a.test. IN A 192.0.2.1"), answer("b.test")
STREAM = b"".join(struct.pack("!H", len(one)) + one for one in (FIRST, SECOND))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 1000])
def test_streams_are_taken_apart_in_pieces_of_any_size(size: int) -> None:
    """DNS over TCP gives the same messages however it is read."""
    streams = Streams()
    found = []
    for at in range(0, len(STREAM), size):
        piece = message(STREAM[at : at + size], flags=TCP)
        found += list(streams.messages(piece))
    assert [(FIRST, len(FIRST)), (SECOND, len(SECOND))] == found


def test_both_ways_of_a_stream_are_apart() -> None:
    """Questions and answers of a connection do not mix, nor do connections."""
    streams = Streams()
    others = (message(STREAM[:5], flags=TCP | SENT), message(STREAM[:9], flags=TCP, socket=2))
    assert not [one for other in others for one in streams.messages(other)]
    assert 2 == len(list(streams.messages(message(STREAM, flags=TCP))))


def test_stream_goes_on_behind_what_was_not_captured() -> None:
    """A message whose end was not captured is given up, the next one is read."""
    streams = Streams()
    first = struct.pack("!H", 5000) + b"x" * 4094
    cut = list(streams.messages(message(first, length=4500, flags=TCP)))
    assert [(b"x" * 4094, 5000)] == cut
    rest = b"x" * (5002 - 4500) + struct.pack("!H", len(FIRST)) + FIRST
    assert [(FIRST, len(FIRST))] == list(streams.messages(message(rest, flags=TCP)))


def test_streams_are_bounded() -> None:
    """Streams that never end do not fill memory."""
    streams = Streams()
    for socket in range(10 * Streams.MOST):
        list(streams.messages(message(b"\xff\xff", flags=TCP, socket=socket)))
    assert Streams.MOST == len(streams._rests)


def named(names: Names, event: Message) -> str | None:
    """Return the name that is found for an event."""
    found = names.find(event)
    return found[0] if found else None


def learn(names: Names, name: str, address: str, ts_ns: int = 0, **values: int) -> None:
    """Let `names` see an answer."""
    kind = "A" if ip_address(address).version == 4 else "AAAA"
    data = answer(name, f"{name}. 60 IN {kind} {address}")
    names.learn(message(data, ts_ns=ts_ns, **values))


def test_latest_name_counts() -> None:
    """Of several names for an address the latest that came before the attempt is found."""
    names = Names()
    learn(names, "old.test", "192.0.2.1", 10)
    learn(names, "new.test", "192.0.2.1", 20)
    assert "new.test" == named(names, attempt("192.0.2.1", 30))
    assert "old.test" == named(names, attempt("192.0.2.1", 15))
    assert named(names, attempt("192.0.2.1", 5)) is None
    assert named(names, attempt("192.0.2.2", 30)) is None


def test_own_answers_count_most() -> None:
    """A process's own answers come first, then its network namespace's, then all."""
    names = Names()
    learn(names, "own.test", "2001:db8::1", pid=1, netns=1)
    learn(names, "beside.test", "2001:db8::1", pid=2, netns=1)
    learn(names, "elsewhere.test", "2001:db8::1", pid=3, netns=2)
    assert "own.test" == named(names, attempt("2001:db8::1", pid=1, netns=1))
    assert "beside.test" == named(names, attempt("2001:db8::1", pid=9, netns=1))
    assert "elsewhere.test" == named(names, attempt("2001:db8::1", pid=9, netns=9))


def test_answers_end_after_a_day() -> None:
    """An answer names attempts of the next 24 hours."""
    names = Names()
    learn(names, "a.test", "192.0.2.1")
    assert ("a.test", DAY_NS) == names.find(attempt("192.0.2.1", DAY_NS))
    assert names.find(attempt("192.0.2.1", DAY_NS + 1)) is None


def test_answers_end_with_their_ttl_when_asked() -> None:
    """With own_ttl an answer ends when its time to live does."""
    names = Names(own_ttl=True)
    learn(names, "a.test", "192.0.2.1")
    assert names.find(attempt("192.0.2.1", 60_000_000_000))
    assert names.find(attempt("192.0.2.1", 60_000_000_001)) is None


def test_cache_is_bounded() -> None:
    """It keeps the last 10,240 answers."""
    names = Names()
    for number in range(Names.MOST + 1):
        learn(names, "a.test", str(ip_address("10.0.0.0") + number))
    assert named(names, attempt("10.0.0.0")) is None
    assert "a.test" == named(names, attempt("10.0.0.1"))


def test_questions_and_malformed_answers_name_nothing() -> None:
    """Only what was received and can be read counts; what cannot be is counted."""
    names = Names()
    data = answer("a.test", "a.test. IN A 192.0.2.1")
    names.learn(message(data, flags=SENT))
    names.learn(message(data[:-1]))
    assert (None, 1) == (names.find(attempt("192.0.2.1")), names.malformed)
