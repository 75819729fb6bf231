"""What sockets carry, taken apart into messages."""

from __future__ import annotations

import struct

import pytest
from tests.unit.dns import answer, message

from tcptrace.probes.dns.flows import Flows
from tcptrace.probes.dns.probe import SENT, TCP, Message

FIRST = answer("a.test", "a.test. IN A 192.0.2.1")
SECOND = answer("b.test", "b.test. IN A 192.0.2.2")


def framed(*messages: bytes) -> bytes:
    """Return messages as TCP has them."""
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


STREAM = framed(FIRST, SECOND)


def names(flows: Flows, *pieces: Message) -> list[str | None]:
    """Return the names that the messages in these pieces are about; None where not readable."""
    packets = [packet for piece in pieces for packet in flows.packets(piece)]
    return [None if packet.is_malformed else packet.query for packet in packets]


def pieces(data: bytes, size: int, **values: int) -> list[Message]:
    """Return a stream in pieces."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    return [message(part, flags=TCP, **values) for part in parts]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 1000])
def test_streams_are_taken_apart_in_pieces_of_any_size(size: int) -> None:
    """DNS over TCP gives the same messages however it is read."""
    flows = Flows()
    assert ["a.test", "b.test"] == names(flows, *pieces(STREAM, size))
    assert not flows._rests


def test_both_ways_of_a_stream_are_apart() -> None:
    """Questions and answers of a connection do not mix, nor do connections."""
    flows = Flows()
    other_way = message(STREAM[:5], flags=TCP | SENT)
    other_socket = message(STREAM[:9], flags=TCP, socket=2)
    assert [] == names(flows, other_way, other_socket)
    assert ["a.test", "b.test"] == names(flows, message(STREAM, flags=TCP))


def test_stream_that_begins_before_it_has_a_port_goes_on() -> None:
    """A length that is sent with the SYN (MSG_FASTOPEN) belongs to the message behind it."""
    flows = Flows()
    begin = message(STREAM[:2], flags=TCP | SENT, lport=None)
    rest = message(STREAM[2:], flags=TCP | SENT, lport=40_000)
    assert ["a.test", "b.test"] == names(flows, begin, rest)


@pytest.mark.parametrize(("flags", "missed"), [(0, [1]), (SENT, [])])
def test_datagram_without_a_captured_header_is_counted(flags: int, missed: list[int]) -> None:
    """Of what lies in many small buffers too little is there to say that it cannot be read."""
    sockets: list[int] = []
    flows = Flows(sockets.append)
    assert [] == names(flows, message(FIRST[:4], length=len(FIRST), flags=flags))
    assert (1, missed) == (flows.given_up, sockets)


def test_stream_goes_on_behind_what_was_not_captured() -> None:
    """A message whose end was not captured is partial, and the next one is read."""
    flows = Flows()
    large = answer("c.test", *(f"c.test. IN A 192.0.2.{last}" for last in range(250)))
    begin = framed(large)[:3000]
    cut = list(flows.packets(message(begin, length=3500, flags=TCP)))
    assert [("c.test", True, False)] == [(p.query, p.is_partial, p.is_malformed) for p in cut]
    rest = large[3500 - 2 :] + framed(FIRST)
    assert ["a.test"] == names(flows, message(rest, flags=TCP))
    assert 0 == flows.given_up


@pytest.mark.parametrize("captured", [0, 1, 2, 10])
def test_message_that_was_not_captured_at_all_is_counted(captured: int) -> None:
    """What was missed is counted and said to have been, and the next whole message is read."""
    missed: list[int] = []
    flows = Flows(missed.append)
    begin = STREAM[: 2 + len(FIRST) + captured]
    assert ["a.test"] == names(flows, message(begin, length=len(STREAM) + 40, flags=TCP))
    assert (1, [1]) == (flows.given_up, missed)
    assert ["b.test"] == names(flows, message(framed(SECOND), flags=TCP))


@pytest.mark.parametrize(
    "nonsense",
    [bytes(4096), b"\xff" * 4096, b"GET / HTTP/1.1\r\nHost: x\r\n" * 100, framed(b"x" * 20)],
)
def test_stream_that_is_not_dns_is_one_malformed_message(nonsense: bytes) -> None:
    """However much comes, it is given up at its beginning, and keeps nothing in memory."""
    flows = Flows()
    assert [None] == names(flows, *pieces(nonsense * 20, 4096))
    assert [None] == names(flows, *pieces(nonsense * 20, 7, socket=2))
    assert (0, 0) == (len(flows._rests), flows._bytes)
    assert 0 == flows.given_up


@pytest.mark.parametrize("sizes", [(1000,), (2, 998), (2, 20, 978), (20, 980)])
def test_stream_is_taken_up_at_a_message(sizes: tuple[int, ...]) -> None:
    """A trace that began amid a message reads the next that a piece begins with.

    Its length may have come alone.
    """
    flows = Flows()
    assert [None] == names(flows, message(FIRST[20:], flags=TCP))
    rest, parts = framed(SECOND), []
    for size in sizes:
        parts.append(message(rest[:size], flags=TCP))
        rest = rest[size:]
    assert ["b.test"] == names(flows, *parts)
    assert ["a.test"] == names(flows, *pieces(framed(FIRST), 7))


def test_streams_are_bounded() -> None:
    """Streams that never end do not fill memory; those that are given up are counted."""
    missed: list[int] = []
    flows = Flows(missed.append)
    for socket in range(Flows.MOST_STREAMS + 10):
        names(flows, message(STREAM[:20], flags=TCP, socket=socket))
    assert Flows.MOST_STREAMS == len(flows._rests)
    assert (10, list(range(10))) == (flows.given_up, missed)
    assert [] == names(flows, message(STREAM[20:], flags=TCP, socket=0))


def test_bytes_of_streams_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large messages that never end do not fill memory, either."""
    monkeypatch.setattr(Flows, "MOST_BYTES", 100_000)
    flows = Flows()
    large = answer("c.test", *(f"c.test. IN A 192.0.2.{last}" for last in range(250)))
    for socket in range(100):
        names(flows, message(framed(large)[:-1], flags=TCP, socket=socket))
    assert flows._bytes <= 100_000
    assert 100 == flows.given_up + len(flows._rests)


def test_stream_that_has_ended_long_ago_is_not_given_up() -> None:
    """A connection that broke amid a message is forgotten, and not counted."""
    flows = Flows()
    later = Flows.ALIVE_NS
    for socket in range(Flows.MOST_STREAMS + 10):
        names(flows, message(STREAM[:20], flags=TCP, socket=socket, ts_ns=socket and later))
    assert 9 == flows.given_up


def test_messages_of_one_stream_are_bounded() -> None:
    """A stream of very many tiny messages takes no time from others; what is missed is counted."""
    missed: list[int] = []
    flows = Flows(missed.append)
    many = framed(*[SECOND] * 100)
    found = names(flows, *(message(many, flags=TCP) for _ in range(100)))
    assert Flows.MOST_MESSAGES < len(found) <= Flows.MOST_MESSAGES + 100
    assert 100 == len(found) // 100 + flows.given_up == len(found) // 100 + len(missed)
    assert ["a.test"] == names(flows, message(framed(FIRST), flags=TCP, socket=2))
    later = message(framed(FIRST), flags=TCP, ts_ns=Flows.WINDOW_NS)
    assert ["a.test"] == names(flows, later)
