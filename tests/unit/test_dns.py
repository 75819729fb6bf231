"""`tcptrace dns` from the kernel's bytes to rows: pairing, and input of any kind."""

from __future__ import annotations

import errno
import io
import json
import random
import struct
import time
from importlib.resources import files
from ipaddress import ip_address

import pytest
from dnslib import RR, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.unit.dns import asked, name_bytes, opt, packet_bytes, record_bytes
from tests.unit.records import to_json

from tcptrace.commands.dns import _filter
from tcptrace.model.events import Decoder
from tcptrace.model.meta import Meta
from tcptrace.probes.dns.probe import ASSUMED, CUT, DNS, FAILED, SENT, TCP, Query
from tcptrace.probes.dns.transactions import Transactions
from tcptrace.sinks.choose import make_sink

META = Meta("dns", "tracepoint", "host", "boot", "6.1", 0)
HEAD = "=QQIIIIII16s16sHHHH16sQQIIII"
DECODER = Decoder(DNS.records)
SECOND = 1_000_000_000
PACKETS = 100
SERVER = "192.0.2.53"


def record(
    data: bytes,
    *,
    flags: int = 0,
    ts_ns: int = 0,
    socket: int = 1,
    server: str = SERVER,
    rport: int = 53,
    more: int = 0,
    error: int = 0,
    sent: int = 0,
) -> bytes:
    """Return a `struct dns_event` with its payload."""
    ends = [ip_address(address).packed.ljust(16, b"\0") for address in ("192.0.2.1", server)]
    family = ip_address(server).version
    head = (ts_ns, 1, 1, 181, 182, 1000, 1, 1, *ends, 40000, rport, family, 0, b"client")
    return struct.pack(HEAD, *head, 0, socket, len(data) + more, flags, error, sent) + data


def rows(exchanges: Transactions, *records: bytes) -> list[Query]:
    """Return the rows that these records give."""
    return list(exchanges.rows(map(DECODER.decode, records)))


def pair(name: str, *records: str, kind: str = "A", **header: int) -> tuple[bytes, bytes]:
    """Return a question and its answer."""
    question = DNSRecord.question(name, kind)
    reply = question.reply()
    for key, value in header.items():
        setattr(reply.header, key, value)
    reply.add_answer(*(record for text in records for record in RR.fromZone(text)))
    return bytes(question.pack()), bytes(reply.pack())


def framed(data: bytes) -> bytes:
    """Return a message as TCP has it."""
    return struct.pack("!H", len(data)) + data


def test_question_and_answer_are_one_row() -> None:
    """The row has the question's process, the answer's time, and the time between them."""
    question, answer = pair("A.test", "a.test. IN A 192.0.2.1")
    found = rows(
        Transactions(SECOND),
        record(question, flags=SENT, ts_ns=1_000_000),
        record(answer, ts_ns=3_500_000),
    )
    assert [("A.test", "A", "NOERROR", 2.5, ("192.0.2.1",), "192.0.2.53", 3_500_000, 181)] == [
        (r.query, r.qtype, r.rcode, r.latency_ms, r.answers, r.server, r.ts_ns, r.pid)
        for r in found
    ]


@pytest.mark.parametrize("differs", ["socket", "id", "name", "type", "server", "port"])
def test_answer_to_something_else_is_no_answer(differs: str) -> None:
    """Socket, server, id, name and type must be the question's; such an answer has no latency."""
    question, answer = pair("a.test")
    if differs == "id":
        answer = bytes([answer[0] ^ 1]) + answer[1:]
    elif differs in {"name", "type"}:
        other = pair("b.test" if differs == "name" else "a.test", kind="AAAA")[1]
        answer = question[:2] + other[2:]
    exchanges = Transactions(SECOND)
    socket = 2 if differs == "socket" else 1
    server = "192.0.2.54" if differs == "server" else SERVER
    rport = 5300 if differs == "port" else 53
    reply = record(answer, socket=socket, server=server, rport=rport)
    found = rows(exchanges, record(question, flags=SENT), reply)
    assert [None] == [row.latency_ms for row in found]
    assert ["timeout"] == [row.rcode for row in exchanges.timed_out(SECOND)]


def test_name_is_shown_as_it_was_asked_for() -> None:
    """A server may answer with other case."""
    question, answer = DNSRecord.question("wWw.TeSt"), DNSRecord.question("www.test").reply()
    answer.header.id = question.header.id
    (row,) = rows(Transactions(SECOND), record(question.pack(), flags=SENT), record(answer.pack()))
    assert ("wWw.TeSt", 0.0) == (row.query, row.latency_ms)


def test_several_servers_are_several_questions() -> None:
    """Whoever asks several servers from one socket gets a row for each of them."""
    question, answer = pair("a.test")
    _, refused = pair("a.test", rcode=5)
    refused = question[:2] + refused[2:]
    servers = ("192.0.2.1", "192.0.2.2", "2001:db8::3")
    exchanges = Transactions(SECOND)
    sent = [
        record(question, flags=SENT, server=server, ts_ns=at) for at, server in enumerate(servers)
    ]
    answers = [
        record(answer, server=servers[1], ts_ns=1_000_001),
        record(refused, server=servers[0], ts_ns=2_000_000),
    ]
    found = rows(exchanges, *sent, *answers)
    assert [(servers[1], "NOERROR", 1.0), (servers[0], "REFUSED", 2.0)] == [
        (row.server, row.rcode, row.latency_ms) for row in found
    ]
    lost = list(exchanges.timed_out(2 * SECOND))
    assert [(servers[2], "timeout")] == [(row.server, row.rcode) for row in lost]


def test_answer_from_a_server_that_is_assumed_finds_its_question() -> None:
    """Where a socket does not tell who has answered, the question that it repeats does."""
    question, answer = pair("a.test")
    other, _ = pair("b.test")
    found = rows(
        Transactions(SECOND),
        record(question, flags=SENT, server="192.0.2.1"),
        record(other, flags=SENT, server="192.0.2.2"),
        record(answer, flags=ASSUMED, server="192.0.2.2", ts_ns=1_000_000),
    )
    assert [("192.0.2.1", "a.test", 1.0)] == [(r.server, r.query, r.latency_ms) for r in found]


@pytest.mark.parametrize("group", ["224.0.0.251", "255.255.255.255", "0.0.0.0", "ff02::fb", "::"])
def test_question_to_several_hosts_is_answered_by_any(group: str) -> None:
    """Who answers what was sent to a group is not whom the question was sent to."""
    question, answer = pair("a.test")
    found = rows(
        Transactions(SECOND),
        record(question, flags=SENT, server=group),
        record(answer, ts_ns=1_000_000),
    )
    assert [(SERVER, 1.0)] == [(row.server, row.latency_ms) for row in found]


def test_unanswered_questions_time_out_in_order() -> None:
    """A question is given up when its time is over, and not before."""
    exchanges = Transactions(SECOND)
    for number in range(3):
        rows(exchanges, record(pair(f"{number}.test")[0], flags=SENT, ts_ns=number))
    assert [] == list(exchanges.timed_out(SECOND - 1))
    found = list(exchanges.timed_out(SECOND + 1))
    assert [("0.test", "timeout", SECOND), ("1.test", "timeout", SECOND + 1)] == [
        (row.query, row.rcode, row.ts_ns) for row in found
    ]


ASKED_TWICE = {
    "first lost": ((1,), [("NOERROR", 1.0), ("timeout", None)]),
    "both lost": ((), [("timeout", None), ("timeout", None)]),
    "both answered": ((1, 2), [("NOERROR", 1.0), ("NOERROR", 4.0)]),
}


@pytest.mark.parametrize("case", ASKED_TWICE)
def test_question_that_is_asked_again_is_two(case: str) -> None:
    """An answer belongs to the latest question; the one that got none is a timeout."""
    answered, expected = ASKED_TWICE[case]
    question, answer = pair("a.test")
    exchanges = Transactions(SECOND)
    found = rows(
        exchanges,
        *(record(question, flags=SENT, ts_ns=at * 1_000_000) for at in (0, 2)),
        *(record(answer, ts_ns=(2 + at) * 1_000_000) for at in answered),
    )
    found += exchanges.timed_out(2 * SECOND)
    assert expected == [(row.rcode, row.latency_ms) for row in found]


def test_question_that_is_asked_again_after_an_answer_is_new() -> None:
    """Each has its own latency."""
    question, answer = pair("a.test")
    sequence = (
        record(question, flags=SENT, ts_ns=0),
        record(answer, ts_ns=1_000_000),
        record(question, flags=SENT, ts_ns=5_000_000),
        record(answer, ts_ns=7_000_000),
    )
    assert [1.0, 2.0] == [row.latency_ms for row in rows(Transactions(SECOND), *sequence)]


NO_QUESTION = {
    "FORMERR": packet_bytes(0x8181),
    "REFUSED": packet_bytes(0x8185),
    "NOTIMP": struct.pack("!6H", 7, 0x8184, 1, 0, 0, 0),
    "BADVERS": packet_bytes(0x8180, others=(opt(1),)),
}


@pytest.mark.parametrize("rcode", NO_QUESTION)
def test_answer_without_question_belongs_to_its_id(rcode: str) -> None:
    """It is one row with name, code and latency, and nothing times out."""
    exchanges = Transactions(SECOND)
    other, wanted = (packet_bytes(0x0100, (asked(n),), id=i) for n, i in (("b.t", 8), ("a.t", 7)))
    found = rows(
        exchanges,
        *(record(asked_name, flags=SENT) for asked_name in (wanted, other)),
        record(NO_QUESTION[rcode], ts_ns=1_000_000),
    )
    assert [("a.t", "A", rcode, 1.0)] == [(r.query, r.qtype, r.rcode, r.latency_ms) for r in found]
    assert ["b.t"] == [row.query for row in exchanges.timed_out(2 * SECOND)]


def test_answer_without_question_to_none_that_was_seen_is_a_row() -> None:
    """Its code is shown, and the name where its records tell one."""
    reply = packet_bytes(0x8180, (), (record_bytes(name_bytes("a.t"), 1, bytes(4)),), id=9)
    found = rows(Transactions(SECOND), record(NO_QUESTION["REFUSED"]), record(reply))
    assert [(None, None, "REFUSED"), ("a.t", "A", "NOERROR")] == [
        (row.query, row.qtype, row.rcode) for row in found
    ]


FLUSH = 0x8001


def to_group(data: bytes, flags: int = 0) -> bytes:
    """Return the event of a message that goes to the group of multicast DNS."""
    return record(data, flags=flags, server="224.0.0.251", rport=5353)


def multicast(*names: str, answers: tuple[bytes, ...] = ()) -> bytes:
    """Return a message of multicast DNS."""
    return packet_bytes(
        0x8400 if answers else 0, tuple(asked(name, 12, FLUSH) for name in names), answers, id=0
    )


def pointer(name: str, target: str) -> bytes:
    """Return a PTR record of multicast DNS."""
    return record_bytes(name_bytes(name), 12, name_bytes(target), rclass=FLUSH)


def test_questions_of_multicast_dns_are_a_row_each() -> None:
    """Several questions of a message each have their answer, from whoever sends it, or none."""
    exchanges = Transactions(SECOND)
    answers = (pointer("B.local", "x.local"), pointer("b.local", "y.local"))
    found = rows(
        exchanges,
        to_group(multicast("a.local", "b.local", "c.local"), SENT),
        record(multicast(answers=answers), rport=5353, ts_ns=1_000_000),
        record(multicast(answers=(pointer("c.local", "z.local"),)), rport=5353, ts_ns=2_000_000),
    )
    assert [
        ("b.local", "PTR", 1.0, ("x.local", "y.local"), None),
        ("c.local", "PTR", 2.0, ("z.local",), None),
    ] == [(row.query, row.qtype, row.latency_ms, row.answers, row.sent) for row in found]
    lost = [(row.query, row.rcode) for row in exchanges.timed_out(2 * SECOND)]
    assert [("a.local", "timeout")] == lost


@pytest.mark.parametrize("flags", [0, SENT])
def test_answers_that_nobody_asked_for_are_a_row_for_each_name_and_type(flags: int) -> None:
    """So is what a responder sends, which is said to have been sent."""
    answers = (
        pointer("_http._tcp.local", "w._http._tcp.local"),
        record_bytes(name_bytes("h.local"), 1, b"\x0a\x09\x08\x07", rclass=FLUSH),
        record_bytes(name_bytes("H.local"), 1, b"\x0a\x09\x08\x08", rclass=FLUSH),
    )
    message = to_group(multicast(answers=answers), flags)
    found = rows(Transactions(SECOND), message)
    assert [
        ("_http._tcp.local", "PTR", ("w._http._tcp.local",), bool(flags) or None),
        ("h.local", "A", ("10.9.8.7", "10.9.8.8"), bool(flags) or None),
    ] == [(row.query, row.qtype, row.answers, row.sent) for row in found]
    cells = {column.key: column for column in DNS.columns}
    expected = "NOERROR/sent" if flags else "NOERROR"
    assert expected == cells["rcode"].value(found[0], 0)


def test_own_multicast_question_is_not_its_answer() -> None:
    """Who asks a group that it belongs to receives its own question."""
    exchanges = Transactions(SECOND)
    question = multicast("a.local")
    sent = to_group(question, SENT)
    assert [] == rows(exchanges, sent, record(question, rport=5353))
    assert 1 == len(list(exchanges.timed_out(2 * SECOND)))


def test_rows_of_an_answer_are_bounded() -> None:
    """What is beyond is counted."""
    exchanges = Transactions(SECOND)
    answers = tuple(pointer(f"{number}.local", "x") for number in range(Transactions.MOST_ROWS + 3))
    assert Transactions.MOST_ROWS == len(rows(exchanges, to_group(multicast(answers=answers))))
    assert 3 == exchanges.given_up


def test_zone_transfer_is_one_row() -> None:
    """Of the messages of a transfer the first is shown."""
    question = packet_bytes(0, (asked("a.test", 252),))
    first = packet_bytes(0x8400, (asked("a.test", 252),), (record_bytes(b"\xc0\x0c", 1, bytes(4)),))
    more = packet_bytes(0x8400, (), (record_bytes(name_bytes("b.a.test"), 1, bytes(4)),))
    exchanges = Transactions(SECOND)
    stream = framed(first) + framed(more) * 3 + framed(first)
    found = rows(exchanges, record(framed(question), flags=SENT | TCP), record(stream, flags=TCP))
    assert [("a.test", "AXFR", ("0.0.0.0",))] == [(r.query, r.qtype, r.answers) for r in found]


def test_message_of_another_operation_is_told_from_a_question() -> None:
    """An update is not a question for the zone's SOA, nor is an answer to that its answer."""
    update, reply = (packet_bytes(bits, (asked("a.test", 6),)) for bits in (0x2800, 0xA800))
    question = packet_bytes(0, (asked("a.test", 6),))
    exchanges = Transactions(SECOND)
    sent = [record(packet, flags=SENT) for packet in (update, question)]
    found = rows(exchanges, *sent, record(reply))
    assert [("UPDATE", "NOERROR", 0.0)] == [(r.opcode, r.rcode, r.latency_ms) for r in found]
    assert [None] == [row.opcode for row in exchanges.timed_out(2 * SECOND)]


def test_answer_tells_what_was_asked_where_that_was_not_captured() -> None:
    """A question that was sent from many buffers is known by its id."""
    question, answer = pair("a.test")
    sent = record(question[:14], flags=SENT, more=len(question) - 14)
    found = rows(Transactions(SECOND), sent, record(answer, ts_ns=1_000_000))
    assert [("a.test", "NOERROR", 1.0)] == [(r.query, r.rcode, r.latency_ms) for r in found]


def test_datagram_that_its_receiver_cut_is_partial() -> None:
    """What did not fit into the buffer is not the sender's fault."""
    _, answer = pair("a.test", *(f"a.test. IN A 192.0.2.{last}" for last in range(20)))
    for flags, rcode in ((0, "malformed"), (CUT, "NOERROR")):
        (found,) = rows(Transactions(SECOND), record(answer[:200], flags=flags))
        assert (rcode, bool(flags) or None) == (found.rcode, found.partial)


def test_timeout_is_not_told_where_the_answer_may_be_lost() -> None:
    """What waited when events were lost is counted; what was asked later times out."""
    exchanges = Transactions(SECOND)
    late = Transactions.LATE_NS + 100
    first, second = (record(pair(n)[0], flags=SENT, ts_ns=t) for n, t in (("a", 1), ("b", late)))
    exchanges.note_lost(0, 0)
    rows(exchanges, first)
    exchanges.note_lost(3, 50)
    rows(exchanges, second)
    exchanges.note_lost(3, SECOND)
    assert ["b"] == [row.query for row in exchanges.timed_out(3 * SECOND)]
    assert 1 == exchanges.given_up


def test_answers_that_were_missed_are_no_timeouts() -> None:
    """Where a call received more messages than are read, the socket's questions are given up."""
    exchanges = Transactions(SECOND)
    questions = (record(pair("a")[0], flags=SENT), record(pair("b")[0], flags=SENT, socket=2))
    assert [] == rows(exchanges, *questions, failure(0))
    assert ["b"] == [row.query for row in exchanges.timed_out(3 * SECOND)]
    assert 1 == exchanges.given_up


def failure(error: int, *, flags: int = 0, ts_ns: int = 0, sent: int = 0) -> bytes:
    """Return the failure of a call to send, or of what a socket has sent."""
    return record(b"", flags=FAILED | flags, ts_ns=ts_ns, error=error, sent=sent)


def test_question_that_cannot_be_sent_has_the_error() -> None:
    """It is shown with that, and does not time out; an earlier one still may be answered."""
    exchanges = Transactions(SECOND)
    first, second = (record(pair(n)[0], flags=SENT, ts_ns=t) for n, t in (("a.t", 0), ("b.t", 5)))
    found = rows(exchanges, first, second, failure(errno.ENETUNREACH, flags=SENT, ts_ns=4))
    assert [("b.t", "ENETUNREACH", None)] == [(r.query, r.rcode, r.latency_ms) for r in found]
    assert ["a.t"] == [row.query for row in exchanges.timed_out(2 * SECOND)]


@pytest.mark.parametrize(("error", "sent"), [(errno.EAGAIN, 0), (512, 0), (errno.ENETUNREACH, 1)])
def test_question_that_is_to_be_sent_again_is_none_yet(error: int, sent: int) -> None:
    """A call that would block, or that sent the first of several, is made again."""
    exchanges = Transactions(SECOND)
    first, second = (record(pair(n)[0], flags=SENT, ts_ns=5) for n in ("a.t", "b.t"))
    assert [] == rows(exchanges, first, second, failure(error, flags=SENT, ts_ns=4, sent=sent))
    assert sent == len(list(exchanges.timed_out(2 * SECOND)))


def test_error_of_a_socket_ends_its_questions() -> None:
    """What a host refuses is shown so; what waits for another server is not."""
    exchanges = Transactions(SECOND)
    questions = [record(pair(name)[0], flags=SENT) for name in ("a.t", "b.t")]
    elsewhere = record(pair("c.t")[0], flags=SENT, server="192.0.2.9")
    found = rows(exchanges, *questions, elsewhere, failure(errno.ECONNREFUSED, ts_ns=9))
    assert [("a.t", "ECONNREFUSED", 9), ("b.t", "ECONNREFUSED", 9)] == [
        (row.query, row.rcode, row.ts_ns) for row in found
    ]
    assert ["c.t"] == [row.query for row in exchanges.timed_out(2 * SECOND)]


def test_error_amid_a_call_does_not_end_what_is_not_sent_yet() -> None:
    """The first of two messages is refused at once: the other one will be sent again."""
    exchanges = Transactions(SECOND)
    before, first, second = (
        record(pair(name)[0], flags=SENT, ts_ns=at) for name, at in (("o", 1), ("a", 5), ("b", 6))
    )
    refused = failure(errno.ECONNREFUSED, ts_ns=4, sent=1)
    not_sent = failure(errno.ECONNREFUSED, flags=SENT, ts_ns=4, sent=1)
    found = rows(exchanges, before, first, second, refused, not_sent)
    assert [("o", "ECONNREFUSED"), ("a", "ECONNREFUSED")] == [(r.query, r.rcode) for r in found]
    assert [] == list(exchanges.timed_out(2 * SECOND))


def test_datagrams_that_are_not_dns_are_one_row() -> None:
    """A socket that uses the port for something else is shown once, each way, DNS beside it."""
    exchanges = Transactions(SECOND)
    nonsense = [record(bytes(50), flags=flags) for flags in (0, SENT)]
    question, answer = pair("a.test")
    found = rows(exchanges, *nonsense * 50, record(question, flags=SENT), record(answer))
    found += rows(exchanges, *nonsense * 50)
    assert ["malformed", "malformed", "NOERROR"] == [row.rcode for row in found]


def test_malformed_answer_over_tcp_ends_its_questions() -> None:
    """Nothing that can be read follows it, and the questions do not time out."""
    exchanges = Transactions(SECOND)
    asked_ = [record(framed(pair(n)[0]), flags=SENT | TCP) for n in ("a.t", "b.t")]
    found = rows(exchanges, *asked_, record(bytes(4096), flags=TCP, ts_ns=1_000_000))
    assert [("a.t", "malformed", 1.0), ("b.t", "malformed", 1.0)] == [
        (row.query, row.rcode, row.latency_ms) for row in found
    ]
    assert [] == list(exchanges.timed_out(2 * SECOND))


def test_questions_whose_answers_were_missed_are_given_up() -> None:
    """Where messages of a stream were not captured, its questions are counted, not timed out."""
    exchanges = Transactions(SECOND)
    questions = [pair(name) for name in ("a.t", "b.t")]
    sent = record(b"".join(framed(query) for query, _ in questions), flags=SENT | TCP)
    reply = record(framed(questions[0][1]), flags=TCP, more=900)
    assert ["a.t"] == [row.query for row in rows(exchanges, sent, reply)]
    assert [] == list(exchanges.timed_out(2 * SECOND))
    assert 2 == exchanges.given_up


def test_truncated_answer_and_retry_over_tcp() -> None:
    """Both are shown as such, and a question over TCP that is no retry is none."""
    question, truncated = pair("a.test", tc=1)
    again, answer = pair("a.test")
    other, other_answer = pair("b.test")
    found = rows(
        Transactions(SECOND),
        record(question, flags=SENT),
        record(truncated),
        record(framed(again), flags=SENT | TCP, socket=2),
        record(framed(answer), flags=TCP, socket=2),
        record(framed(other), flags=SENT | TCP, socket=3),
        record(framed(other_answer), flags=TCP, socket=3),
    )
    assert [("udp", True, None), ("tcp", None, True), ("tcp", None, None)] == [
        (row.protocol, row.truncated, row.retry) for row in found
    ]
    cells = {column.key: column for column in DNS.columns}
    assert ["NOERROR/truncated", "NOERROR/tcp-retry", "NOERROR/tcp"] == [
        cells["rcode"].value(row, 0) for row in found
    ]


def test_questions_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest of too many are given up, counted, and never shown as timeouts."""
    monkeypatch.setattr(Transactions, "MOST", 100)
    exchanges = Transactions(SECOND)
    question, answer = pair("a.test")
    for number in range(110):
        rows(exchanges, record(question, flags=SENT, socket=number))
    assert (100, 100, 10) == (len(exchanges._waiting), len(exchanges._asked), exchanges.given_up)
    found = rows(exchanges, record(answer, socket=0), record(answer, socket=50))
    assert [None, 0.0] == [row.latency_ms for row in found]
    assert 99 == len(list(exchanges.timed_out(2 * SECOND)))
    assert not exchanges._asked


def test_many_questions_are_under_way() -> None:
    """20,000 questions wait for their answers, and 300 streams, and each gets its own."""
    exchanges = Transactions(SECOND)
    questions = [
        packet_bytes(0, (asked(f"n{number}.test"),), id=number) for number in range(20_000)
    ]
    for number, question in enumerate(questions):
        rows(exchanges, record(question, flags=SENT, socket=number % 8))
    for number, question in enumerate(questions):
        reply = question[:2] + b"\x81\x80" + question[4:]
        (found,) = rows(exchanges, record(reply, socket=number % 8))
        assert (f"n{number}.test", 0.0) == (found.query, found.latency_ms)
    assert (0, 0) == (exchanges.given_up, len(exchanges._asked))


@pytest.mark.parametrize(
    ("globs", "types", "failed", "expected"),
    [
        ((), (), False, ["a.test", "B.test", None]),
        (("b.*",), (), False, ["B.test"]),
        (("*.test.", "x"), (), False, ["a.test", "B.test"]),
        ((), ("AAAA",), False, ["B.test"]),
        ((), (), True, ["B.test", None]),
    ],
)
def test_filters(
    globs: tuple[str, ...],
    types: tuple[str, ...],
    failed: bool,  # noqa: FBT001 - a parameter of the test
    expected: list[str],
) -> None:
    """Rows are kept by name, by type, and by failure."""
    found = rows(
        Transactions(SECOND),
        record(pair("a.test")[1]),
        record(pair("B.test", kind="AAAA", rcode=3)[1]),
        record(b"junk"),
    )
    wanted = _filter(globs, frozenset(types), failed=failed)
    assert expected == [row.query for row in found if wanted(row)]


def shown(found: list[Query]) -> None:
    """Render rows in each form; nothing that a terminal could act on comes out."""
    for form in ("text", "json", "csv"):
        stream = io.StringIO()
        sink = make_sink(form, (*DNS.columns, *DNS.extra_columns), stream)
        sink.open(META)
        sink.write(found)
        text = stream.getvalue()
        assert text.replace("\n", "").replace("\r", "").isprintable()
        if form == "json":
            assert len(found) == len([json.loads(line) for line in text.splitlines()])


def test_rows_are_as_the_schema_says() -> None:
    """JSON of any row is valid: answered, truncated, retried, timed out, malformed."""
    schema = json.loads(files("tcptrace").joinpath("schema.json").read_text(encoding="utf-8"))
    question, answer = pair("a.test", "a.test. IN A 192.0.2.1", tc=1)
    exchanges = Transactions(SECOND)
    found = rows(
        exchanges,
        record(question, flags=SENT),
        record(answer),
        record(b"junk"),
        record(framed(question), flags=SENT | TCP),
    )
    found += exchanges.timed_out(2 * SECOND)
    assert ["NOERROR", "malformed", "timeout"] == [row.rcode for row in found]
    for row in found:
        event = to_json(row, "fentry")
        Draft202012Validator(schema).validate(event)


def mutated(choice: random.Random) -> bytes:
    """Return a message that was real before some of its bytes were changed."""
    if choice.random() < 0.2:
        return choice.randbytes(choice.choice((0, 3, 12, 40, 600)))
    data = bytearray(choice.choice(SEEDS))
    for _ in range(choice.randrange(6)):
        data[choice.randrange(len(data))] = choice.choice((0, 1, 12, 63, 64, 192, 255, 27, 10))
    return bytes(data[: choice.randrange(len(data))] if choice.random() < 0.2 else data)


SEEDS = [
    *pair("www.example.test", "www.example.test. IN CNAME a.test.", "a.test. IN A 192.0.2.1"),
    *pair("a.test", "a.test. IN AAAA 2001:db8::1", kind="AAAA"),
    *pair("t.test", 't.test. IN TXT "x"', "t.test. IN MX 1 a.test.", "t.test. IN NS b.test."),
    *pair("s.test", "s.test. IN SRV 1 2 3 a.test.", "s.test. IN CAA 0 issue ca.test"),
    *pair("xn--bcher-kva.test", "xn--bcher-kva.test. IN HTTPS 1 . alpn=h2"),
    pair("long.test", *(f"long.test. IN A 192.0.2.{last}" for last in range(200)))[1],
    b"\x12\x34\x81\x80\0\1\0\1\0\0\0\0" + (b"\x3f" + b"\x1b" * 63) * 3 + b"\0\0\1\0\1",
]


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=1000, deadline=None)
def test_a_hundred_thousand_hostile_packets(seed: int) -> None:
    """From bytes to rows nothing raises, nothing is slow, and nothing raw comes out."""
    choice = random.Random(seed)  # noqa: S311 - no secret
    exchanges = Transactions(SECOND)
    records = [
        record(
            mutated(choice),
            flags=choice.randrange(4),
            ts_ns=at,
            socket=choice.randrange(3),
            more=choice.choice((0, 0, 0, 900)),
        )
        for at in range(PACKETS)
    ]
    started = time.process_time()
    found = rows(exchanges, *records)
    assert time.process_time() - started < 1
    found += exchanges.timed_out(2 * SECOND)
    if seed % 10 == 0:
        shown(found)


@given(data=st.binary(max_size=300), flags=st.integers(0, 3))
@settings(max_examples=300, deadline=None)
def test_bytes_of_any_kind(data: bytes, flags: int) -> None:
    """Bytes that were never a message give at most a row that says so."""
    shown(rows(Transactions(SECOND), record(data, flags=flags)))
