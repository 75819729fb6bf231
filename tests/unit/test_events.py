"""The records: layout, decoding, and what becomes of hostile bytes."""

from __future__ import annotations

import dataclasses
import errno
import struct
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.records import ABSENT, DECODER, accept_bytes, accepted, to_json

from tcptrace.errors import TcptraceError
from tcptrace.model.events import (
    U32,
    Decoder,
    Event,
    Layout,
    decode_text,
)
from tcptrace.model.identity import Identity
from tcptrace.model.text import printable
from tcptrace.probes.accept.probe import Accept

HEAD_BYTES = 104
ACCEPT_BYTES = 128


def test_layout_is_that_of_the_c_structs() -> None:
    """Sizes are those that the C source asserts."""
    assert [HEAD_BYTES, ACCEPT_BYTES] == [Layout(Event).size, Layout(Accept).size]


def test_layout_is_padded_as_c_does() -> None:
    """A record whose last field ends within 8 bytes is padded to 8."""

    @dataclasses.dataclass(slots=True)
    class Odd(Event):
        extra: U32

    assert HEAD_BYTES + 8 == Layout(Odd).size


def test_bytes_of_no_field_are_passed_over() -> None:
    """What a format skips is neither a field nor an argument of the record."""

    @dataclasses.dataclass(slots=True)
    class Spaced(Event):
        type = "spaced"
        extra: Annotated[int, "4xI"]

    head = accept_bytes()[:HEAD_BYTES]
    event = Decoder([Spaced]).decode(head + struct.pack("=II", 9, 7))
    assert isinstance(event, Spaced)
    assert 7 == event.extra
    assert not [field.name for field in dataclasses.fields(Event) if field.name.startswith("_")]


def test_defines_name_kinds_and_sizes() -> None:
    """The C source gets each record's kind and size."""
    assert {"KIND_ACCEPT": "1", "SIZE_ACCEPT": str(ACCEPT_BYTES)} == DECODER.defines()


def test_an_accept_is_decoded() -> None:
    """Every field of an IPv4 accept comes out as it went in."""
    event = accepted(accept_bytes())
    expected: dict[str, Any] = {
        "ts_ns": 1_500_000_000,
        "cgroup_id": 4242,
        "pid": 181,
        "tid": 182,
        "uid": 1000,
        "netns": 4026531840,
        "mntns": 4026531841,
        "laddr": "192.0.2.1",
        "raddr": "192.0.2.2",
        "lport": 80,
        "rport": 40000,
        "family": 4,
        "comm": "nginx",
        "backlog": 2,
        "backlog_max": 128,
        "error": None,
    }
    assert expected == {key: getattr(event, key) for key in expected}


def test_ipv6_is_decoded() -> None:
    """An IPv6 address takes all 16 bytes."""
    event = accepted(accept_bytes(laddr="2001:db8::1", raddr="::1"))
    assert (6, "2001:db8::1", "::1") == (event.family, event.laddr, event.raddr)


def test_what_is_not_known_is_none() -> None:
    """Zero inodes, all-ones backlogs and a missing remote end are absent."""
    event = accepted(
        accept_bytes(
            cgroup_id=0,
            netns=0,
            mntns=0,
            raddr="0.0.0.0",
            rport=0,
            backlog=ABSENT,
            backlog_max=ABSENT,
        )
    )
    keys = ("cgroup_id", "netns", "mntns", "raddr", "rport", "backlog", "backlog_max")
    assert dict.fromkeys(keys) == {key: getattr(event, key) for key in keys}


def test_zero_is_a_value_where_it_can_be_one() -> None:
    """User 0 and an empty backlog are known."""
    event = accepted(accept_bytes(uid=0, backlog=0))
    assert (0, 0) == (event.uid, event.backlog)


def test_an_unknown_process_is_absent() -> None:
    """With pid 0 neither pid, tid, uid nor comm is claimed."""
    event = accepted(accept_bytes(pid=0, tid=0, uid=0, comm=b""))
    assert (None, None, None, None) == (event.pid, event.tid, event.uid, event.comm)
    assert not {"pid", "tid", "uid", "comm"} & to_json(event, "tracepoint").keys()


@pytest.mark.parametrize("size", [0, 16, 20, ACCEPT_BYTES - 1, ACCEPT_BYTES + 1])
def test_a_record_of_another_size_is_an_error(size: int) -> None:
    """A record that is not exactly as long as its struct is not trusted."""
    with pytest.raises(TcptraceError, match=f"{size} bytes"):
        DECODER.decode(accept_bytes().ljust(size, b"\0")[:size])


@pytest.mark.parametrize("kind", [0, 2, 0xFFFFFFFF])
def test_a_record_of_another_kind_is_an_error(kind: int) -> None:
    """A kind that the session does not have is not trusted."""
    with pytest.raises(TcptraceError, match=f"kind {kind}"):
        DECODER.decode(accept_bytes(kind=kind))


@given(st.binary(max_size=160))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    """Whatever is in the buffer, it is an event or a TcptraceError."""
    try:
        event = DECODER.decode(data)
    except TcptraceError:
        return
    assert isinstance(event, Accept)


@given(st.binary(min_size=ACCEPT_BYTES - 24, max_size=ACCEPT_BYTES - 24))
def test_any_record_becomes_rows(body: bytes) -> None:
    """Whatever a record's fields hold, they can be shown."""
    event = accepted(struct.pack("=QQII", 1, 1, 1, 1)[:24] + body)
    assert "accept" == to_json(event, "fentry")["type"]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"nginx\0\0\0", "nginx"),
        (b"with space\0", "with space"),
        (b"fifteen-bytes-x", "fifteen-bytes-x"),
        (b"after\0secret", "after"),
        (b"\xff\xfe\0", r"\xff\xfe"),
        ("kö".encode(), "kö"),
        ("kö".encode()[:-1], r"k\xc3"),
        (b"", ""),
    ],
)
def test_names_are_decoded(raw: bytes, text: str) -> None:
    """A name ends at its NUL; what is not UTF-8 is escaped."""
    assert text == decode_text(raw)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("plain text", "plain text"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x00\x07\x7f\x9b", r"\x00\x07\x7f\x9b"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\u2028", r"\u2028"),
        ("\ud800", r"\ud800"),
        ("bö 名", "bö 名"),
    ],
)
def test_control_characters_are_escaped(text: str, safe: str) -> None:
    """What a terminal could act on is shown as its escape."""
    assert safe == printable(text)


@given(st.text())
def test_printable_text_is_printable(text: str) -> None:
    """No character that is not printable gets through; printable text stays as it is."""
    assert printable(text).isprintable()
    assert not text.isprintable() or text == printable(text)


@pytest.mark.parametrize(
    ("result", "name"),
    [(0, None), (-errno.EMFILE, "EMFILE"), (-errno.ECONNABORTED, "ECONNABORTED"), (-9999, "9999")],
)
def test_errors_have_names(result: int, name: str | None) -> None:
    """A negative errno gets its name, or its number where it has none."""
    assert name == accepted(accept_bytes(error=result)).error


def test_json_has_keys_in_order() -> None:
    """JSON begins with what it is and when, and ends with the backend."""
    keys = list(to_json(accepted(accept_bytes(error=-errno.EMFILE)), "kprobe"))
    expected = (
        "type time ts_ns pid tid uid comm family laddr lport raddr rport netns mntns cgroup_id "
        "backlog backlog_max error iss irs backend"
    )
    assert expected.split() == keys


def test_json_has_what_the_row_knows_of_its_cgroup() -> None:
    """Who is in the cgroup stands behind its id."""
    event = accepted(accept_bytes(cgroup_id=4242))
    event.identity = Identity("/docker/x", container="0123")
    result = to_json(event, "kprobe")
    at = list(result).index("cgroup_id")
    following = {"cgroup_id": 4242, "cgroup": "/docker/x", "container": "0123"}
    assert following == dict(list(result.items())[at : at + 3])


def test_json_time_is_utc_with_nanoseconds() -> None:
    """`time` is RFC 3339, of the row's own time by the wall clock."""
    event = accepted(accept_bytes())
    event.wall_ns = 1_700_000_000_000_000_001
    assert "2023-11-14T22:13:20.000000001Z" == to_json(event, "fentry")["time"]
