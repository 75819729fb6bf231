"""`tcptrace dns` from the kernel's bytes to rows: pairing, and input of any kind."""

from __future__ import annotations

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

from tcptrace.commands.dns import _filter
from tcptrace.model.events import Clock, Decoder, to_json
from tcptrace.probes.dns.exchanges import Exchanges
from tcptrace.probes.dns.probe import DNS, SENT, TCP, Query
from tcptrace.sinks import make_renderer

HEAD = "=QQIIIIII16s16sHHHH16sQII"
DECODER = Decoder(DNS.records)
SECOND = 1_000_000_000
PACKETS = 100


def record(data: bytes, *, flags: int = 0, ts_ns: int = 0, socket: int = 1, more: int = 0) -> bytes:
    """Return a `struct dns_event` with its payload."""
    ends = [ip_address(one).packed.ljust(16, b"\0") for one in ("192.0.2.1", "192.0.2.53")]
    head = (ts_ns, 1, 1, 181, 182, 1000, 1, 1, *ends, 40000, 53, 4, 0, b"client")
    return struct.pack(HEAD, *head, socket, len(data) + more, flags) + data


def rows(exchanges: Exchanges, *records: bytes) -> list[Query]:
    """Return the rows that these records give."""
    return list(exchanges.rows(map(DECODER.decode, records)))


def pair(name: str, *records: str, kind: str = "A", **header: int) -> tuple[bytes, bytes]:
    """Return a question and its answer."""
    question = DNSRecord.question(name, kind)
    reply = question.reply()
    for key, value in header.items():
        setattr(reply.header, key, value)
    reply.add_answer(*(one for text in records for one in RR.fromZone(text)))
    return bytes(question.pack()), bytes(reply.pack())


def framed(data: bytes) -> bytes:
    """Return a message as TCP has it."""
    return struct.pack("!H", len(data)) + data


def test_question_and_answer_are_one_row() -> None:
    """The row has the question's process, the answer's time, and the time between them."""
    question, answer = pair("A.test", "a.test. IN A 192.0.2.1")
    found = rows(
        Exchanges(SECOND),
        record(question, flags=SENT, ts_ns=1_000_000),
        record(answer, ts_ns=3_500_000),
    )
    assert [("A.test", "A", "NOERROR", 2.5, ("192.0.2.1",), "192.0.2.53", 3_500_000, 181)] == [
        (r.query, r.qtype, r.rcode, r.latency_ms, r.answers, r.server, r.ts_ns, r.pid)
        for r in found
    ]


@pytest.mark.parametrize("differs", ["socket", "id", "name", "type"])
def test_answer_to_something_else_is_no_answer(differs: str) -> None:
    """Socket, id, name and type must be the question's; such an answer has no latency."""
    question, answer = pair("a.test")
    if differs == "id":
        answer = bytes([answer[0] ^ 1]) + answer[1:]
    elif differs in {"name", "type"}:
        other = pair("b.test" if differs == "name" else "a.test", kind="AAAA")[1]
        answer = question[:2] + other[2:]
    exchanges = Exchanges(SECOND)
    socket = 2 if differs == "socket" else 1
    found = rows(exchanges, record(question, flags=SENT), record(answer, socket=socket))
    assert [None] == [row.latency_ms for row in found]
    assert ["timeout"] == [row.rcode for row in exchanges.timed_out(SECOND)]


def test_unanswered_questions_time_out_in_order() -> None:
    """A question is given up when its time is over, and not before."""
    exchanges = Exchanges(SECOND)
    for number in range(3):
        rows(exchanges, record(pair(f"{number}.test")[0], flags=SENT, ts_ns=number))
    assert [] == list(exchanges.timed_out(SECOND - 1))
    found = list(exchanges.timed_out(SECOND + 1))
    assert [("0.test", "timeout", SECOND), ("1.test", "timeout", SECOND + 1)] == [
        (row.query, row.rcode, row.ts_ns) for row in found
    ]


def test_repeated_question_is_one() -> None:
    """A question that is sent again before its answer gives one row, from the first."""
    question, answer = pair("a.test")
    exchanges = Exchanges(SECOND)
    sent = [record(question, flags=SENT, ts_ns=at) for at in (0, 1_000_000)]
    found = rows(exchanges, *sent, record(answer, ts_ns=2_000_000))
    assert [2.0] == [row.latency_ms for row in found]
    assert [] == list(exchanges.timed_out(10 * SECOND))


def test_truncated_answer_and_retry_over_tcp() -> None:
    """Both are shown as such, and a question over TCP that is no retry is none."""
    question, truncated = pair("a.test", tc=1)
    again, answer = pair("a.test")
    other, other_answer = pair("b.test")
    found = rows(
        Exchanges(SECOND),
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
        cells["rcode"].value(row, Clock()) for row in found
    ]


def test_questions_that_wait_are_bounded() -> None:
    """A flood of questions is given up early, not kept."""
    exchanges = Exchanges(SECOND)
    question = pair("a.test")[0]
    for number in range(Exchanges.MOST + 10):
        rows(exchanges, record(question, flags=SENT, socket=number))
        list(exchanges.timed_out(0))
    assert Exchanges.MOST == len(exchanges._waiting)


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
        Exchanges(SECOND),
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
        renderer = make_renderer(form, (*DNS.columns, *DNS.more_columns), stream)
        renderer.start("tracepoint")
        for row in found:
            renderer.row(row)  # type: ignore[arg-type] # a row has an event's fields
        text = stream.getvalue()
        assert text.replace("\n", "").replace("\r", "").isprintable()
        if form == "json":
            assert len(found) == len([json.loads(line) for line in text.splitlines()])


def test_rows_are_as_the_schema_says() -> None:
    """JSON of any row is valid: answered, truncated, retried, timed out, malformed."""
    schema = json.loads(files("tcptrace").joinpath("schema.json").read_text(encoding="utf-8"))
    question, answer = pair("a.test", "a.test. IN A 192.0.2.1", tc=1)
    exchanges = Exchanges(SECOND)
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
        event = json.loads(json.dumps(to_json(row, Clock(), "fentry")))  # type: ignore[arg-type]
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
    exchanges = Exchanges(SECOND)
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
    shown(rows(Exchanges(SECOND), record(data, flags=flags)))
