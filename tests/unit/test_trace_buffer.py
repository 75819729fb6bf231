"""Pages of tracefs's ring buffer, made by the layout that the kernel documents."""

from __future__ import annotations

import struct
import sys

import pytest

from tcptrace.kernel.trace_buffer import Field, Page, Record, parse_fields, parse_id

HEADER_PAGE = """\
\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;
\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;
\tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;
\tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;
"""
FORMAT = """\
name: accept
ID: 1359
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:u32 raddr6_0;\toffset:16;\tsize:4;\tsigned:0;
\tfield:char comm[16];\toffset:20;\tsize:16;\tsigned:1;
\tfield:__data_loc char[] comm_too;\toffset:36;\tsize:4;\tsigned:1;
\tfield:s32 result;\toffset:40;\tsize:4;\tsigned:1;

print fmt: "(%lx) result=%d field:u8 no; offset:1", REC->__probe_ip, REC->result
"""
MISSED = 1 << 31
START = 7_000_000_000
PADDING, EXTEND, STAMP = 29, 30, 31


def word(kind: int, delta: int) -> bytes:
    """Return an event's header."""
    packed = kind | delta << 5 if sys.byteorder == "little" else kind << 27 | delta
    return struct.pack("=I", packed)


def small(data: bytes, delta: int = 1) -> bytes:
    """Return an event of up to 112 bytes."""
    return word(len(data) // 4, delta) + data


def large(data: bytes, delta: int = 1) -> bytes:
    """Return an event of any length."""
    return word(0, delta) + struct.pack("=I", len(data) + 4) + data


def read(*events: bytes, flags: int = 0, start: int = START) -> list[Record]:
    """Return what is read from a page of these events; what lies behind them is old."""
    body = b"".join(events)
    page = struct.pack("=QQ", start, len(body) | flags) + body
    return list(Page(HEADER_PAGE).records(page.ljust(4096, b"\x05")))


def test_events_follow_each_other() -> None:
    """Each event adds its delta to the time of the one before."""
    expected = [Record(START, b"aaaa"), Record(START + 5, b"bbbbbbbb"), Record(START + 12, b"cccc")]
    assert expected == read(small(b"aaaa", 0), large(b"bbbbbbbb", 5), small(b"cccc", 7))


def test_an_empty_page() -> None:
    """What lies behind the committed bytes is not read."""
    assert [] == read()


def test_flags_of_missed_events_are_no_length() -> None:
    """The commit word's highest bits say that events were missed before."""
    assert [Record(START + 1, b"aaaa")] == read(small(b"aaaa"), flags=MISSED)


def test_time_extend_adds_what_27_bits_cannot_hold() -> None:
    """A pause of 40 s between two events."""
    pause = 40_000_000_000
    extend = word(EXTEND, pause & (1 << 27) - 1) + struct.pack("=I", pause >> 27)
    assert [Record(START + pause + 3, b"aaaa")] == read(extend, small(b"aaaa", 3))


def test_time_stamp_is_absolute() -> None:
    """An absolute time takes its highest bits from the page's."""
    start = 3 << 59
    stamp = word(STAMP, 5) + struct.pack("=I", 9)
    expected = [Record(start + (9 << 27) + 5 + 2, b"aaaa")]
    assert expected == read(stamp, small(b"aaaa", 2), start=start)


def test_discarded_events_are_skipped() -> None:
    """Padding with a length is an event that was discarded; without, the page's rest is empty."""
    discarded = word(PADDING, 1) + struct.pack("=I", 12) + b"xxxxxxxx"
    events = [discarded, small(b"aaaa"), word(PADDING, 0), small(b"bbbb")]
    assert [b"aaaa"] == [record.data for record in read(*events)]


def test_fields() -> None:
    """Numbers by size and sign, arrays as bytes."""
    fields = parse_fields(FORMAT)
    assert 1359 == parse_id(FORMAT)
    assert ["H", "i", "I", "16s", "i", "i"] == [field.code for field in fields.values()]
    assert Field(36, 4, "i") == fields["comm_too"]


def test_a_format_without_id_is_refused() -> None:
    """It would be taken for another event."""
    with pytest.raises(ValueError, match="accept"):
        parse_id("name: accept")
