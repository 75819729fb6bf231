"""DNS messages read: what they say, and that nothing which a peer sends is too much."""

from __future__ import annotations

import struct
import time

import pytest
from dnslib import EDNS0, DNSRecord
from tests.unit.dns import (
    A_RECORD,
    HEADER,
    answer,
    asked,
    crafted,
    opt,
    packet_bytes,
    read,
    record_bytes,
)

from tcptrace.probes.dns.messages import MOST_QUESTIONS, is_header, read_packet


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
    "a question of nothing": struct.pack(HEADER, 1, 0x0100, 0, 0, 0, 0),
    "zeros": bytes(512),
    "ones": b"\xff" * 512,
    "no question": struct.pack(HEADER, 1, 0x8180, 1, 0, 0, 0) + b"\0",
    "fewer questions": crafted(b"\x01a\0", questions=2),
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


RESPONSE, TRUNCATED = 0x8180, 0x8380


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0, "NOERROR"),
        (9, "NOTAUTH"),
        (11, "DSOTYPENI"),
        (12, "12"),
        (16, "BADVERS"),
        (17, "BADKEY"),
        (18, "BADTIME"),
        (19, "BADMODE"),
        (20, "BADNAME"),
        (21, "BADALG"),
        (22, "BADTRUNC"),
        (23, "BADCOOKIE"),
        (24, "24"),
        (4095, "4095"),
    ],
)
def test_response_codes_have_their_upper_bits_in_opt(code: int, name: str) -> None:
    """OPT is found behind all other records, and the code is told by name."""
    answers = (record_bytes(b"\xc0\x0c", 1, b"\xc0\0\x02\x01"),)
    others = (record_bytes(b"\xc0\x0c", 1, b"\xc0\0\x02\x02"), opt(code >> 4))
    packet = read(packet_bytes(RESPONSE | code & 15, (asked("a.test"),), answers, others))
    assert (name, False) == (packet.rcode, packet.is_malformed)
    assert ("192.0.2.1",) == packet.answers


@pytest.mark.parametrize("questions", [0, 1])
def test_header_alone_is_an_answer(questions: int) -> None:
    """Servers refuse with a header, some with the question's number of questions in it."""
    packet = read(struct.pack(HEADER, 7, RESPONSE | 1, questions, 0, 0, 0))
    assert ("FORMERR", False, 7) == (packet.rcode, packet.is_malformed, packet.id)


@pytest.mark.parametrize("end", range(1, 80))
def test_message_that_its_sender_cut_is_truncated(end: int) -> None:
    """Cut anywhere, it is truncated, not malformed, and its whole records are shown."""
    answers = [record_bytes(b"\xc0\x0c", 1, bytes([192, 0, 2, last])) for last in range(4)]
    whole = packet_bytes(TRUNCATED, (asked("a.test"),), tuple(answers))
    packet = read(whole[: max(12, len(whole) - end)])
    assert (False, True, False) == (packet.is_malformed, packet.is_truncated, packet.is_partial)
    read_whole = max(0, 4 - -(-end // 16))
    assert tuple(f"192.0.2.{last}" for last in range(read_whole)) == packet.answers


def test_message_that_was_not_captured_whole_is_partial() -> None:
    """Its records are shown as far as they were captured; it is not malformed."""
    records = [f"a.test. IN A 192.0.2.{last}" for last in range(200)]
    data = answer("a.test", *records)
    packet = read_packet(data[: 24 + 50 * 16], len(data))
    assert (False, True, "a.test") == (packet.is_malformed, packet.is_partial, packet.query)
    assert 50 == len(packet.answers) == len(packet.addresses)


def test_answer_of_64_kib_is_read() -> None:
    """The largest message that TCP can carry is read to its end."""
    records = (record_bytes(b"\xc0\x0c", 1, b"\xc0\0\x02\x01"),) * 4090
    data = packet_bytes(RESPONSE, (asked("a.test"),), records)
    assert 65_000 < len(data) < 65_536
    packet = read(data)
    assert (4090, False, False) == (len(packet.answers), packet.is_malformed, packet.is_partial)


def test_many_labels_in_many_records_are_no_reason_to_doubt() -> None:
    """200 addresses of a name of 21 labels are read."""
    name = ".".join(f"l{number}" for number in range(20)) + ".test"
    packet = read(answer(name, *(f"{name}. IN A 192.0.2.{last}" for last in range(200))))
    assert (200, False) == (len(packet.answers), packet.is_malformed)


def test_text_of_answers_is_bounded() -> None:
    """Pointers do not make a long text of a short message: it is partial then."""
    name = (b"\x3f" + b"\x1b" * 63) * 3 + b"\x3d" + b"\x1b" * 61 + b"\0"
    record = record_bytes(b"\xc0\x0c", 2, b"\xc0\x0c")
    packet = read(packet_bytes(RESPONSE, (name + b"\0\x02\0\x01",), (record,) * 200, (opt(1),)))
    assert (False, True) == (packet.is_malformed, packet.is_partial)
    assert "BADVERS" == packet.rcode  # what stands behind them is read
    assert 0 < sum(map(len, packet.answers)) < 20_000


@pytest.mark.parametrize(
    ("kind", "rclass", "data", "text", "qtype"),
    [
        (16, 3, b"\x051.2.3", '"1.2.3"', "TXT/CH"),
        (1, 0x8001, b"\xc0\0\x02\x01", "192.0.2.1", "A"),
        (28, 0x8001, bytes(15) + b"\x01", "::1", "AAAA"),
        (12, 0x8001, b"\x01b\xc0\x0c", "b.a.test", "PTR"),
        (33, 0x8001, b"\0\x01\0\x02\0\x50\x01b\0", "1 2 80 b", "SRV"),
        (1, 3, b"\x01b\0\x01\x02", "\\# 5 0162000102", "A/CH"),
        (39, 1, b"\x01b\0", "b", "DNAME"),
        (65280, 1, b"", "\\# 0", "TYPE65280"),
        (1, 0x00FF, b"ab", "\\# 2 6162", "A/ANY"),
        (1, 0x1234, b"ab", "\\# 2 6162", "A/CLASS4660"),
    ],
)
def test_types_classes_and_data_are_shown(
    kind: int, rclass: int, data: bytes, text: str, qtype: str
) -> None:
    """Data is read in any class; the bit of multicast DNS in a class is not shown."""
    record = record_bytes(b"\xc0\x0c", kind, data, rclass=rclass)
    packet = read(packet_bytes(RESPONSE, (asked("a.test", kind, rclass),), (record,)))
    assert (False, qtype, (text,)) == (packet.is_malformed, packet.qtype, packet.answers)


def test_several_questions_are_read() -> None:
    """Each has its name and type; the bit that asks for a unicast answer is not shown."""
    packet = read(packet_bytes(0, (asked("a.local", 12), asked("b.local", 255, 0x8001))))
    assert [("a.local", "PTR"), ("b.local", "ANY")] == [
        tuple(question) for question in packet.questions
    ]


def test_questions_beyond_the_bound_are_counted() -> None:
    """Of very many questions the first are read, and how many are not is known."""
    packet = read(packet_bytes(0, (asked("a.local"),) * (MOST_QUESTIONS + 3)))
    assert (MOST_QUESTIONS, 3) == (len(packet.questions), packet.more_questions)
    assert not packet.is_malformed


@pytest.mark.parametrize(
    ("bits", "opcode"), [(0x0100, "QUERY"), (0x2000, "NOTIFY"), (0x2800, "UPDATE")]
)
def test_operations_are_told(bits: int, opcode: str) -> None:
    """What is no plain question is said to be something else."""
    assert opcode == read(packet_bytes(bits, (asked("a.test", 6),))).opcode


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n",
        bytes.fromhex("1603010200010001fc0303") + bytes(range(256)),
        bytes(64),
        b"\xff" * 64,
        b"\x01\x00\x00\x00" + bytes(range(1, 145)),
    ],
    ids=["HTTP", "SSH", "TLS", "zeros", "ones", "WireGuard"],
)
def test_what_is_not_dns_is_told_by_its_header(data: bytes) -> None:
    """Other protocols fail at the first look, as datagrams and behind a length."""
    assert not is_header(data, len(data))
    size = int.from_bytes(data[:2], "big")
    assert size < 12 or not is_header(data[2:], size)


@pytest.mark.parametrize("opcode", range(16))
def test_what_no_opcode_has_is_not_dns(opcode: int) -> None:
    """Operations that are assigned are DNS: 0 to 6, but for 3."""
    data = packet_bytes(opcode << 11, (asked("a.test"),))
    assert (opcode in {0, 1, 2, 4, 5, 6}) is is_header(data, len(data))
    assert (opcode in {0, 1, 2, 4, 5, 6}) is read(data).is_dns


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
