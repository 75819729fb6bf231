"""Reads the ring buffer of tracefs: binary pages, as per_cpu/cpuN/trace_pipe_raw gives them.

Its layout is told by the files events/header_page, events/header_event and each event's format
(kernel/trace/ring_buffer.c). The text in trace_pipe would not do: a process's name can hold what
looks like another row.
"""

from __future__ import annotations

import re
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_FIELD = re.compile(
    r"field:[^;]*?(\w+)(\[[^;]*\])?;\s*offset:(\d+);\s*size:(\d+);\s*signed:([01]);"
)
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_ID = re.compile(r"^ID: (\d+)$", re.MULTILINE)

# enum ring_buffer_type, in include/linux/ring_buffer.h
PADDING, TIME_EXTEND, TIME_STAMP = 29, 30, 31
DELTA_BITS = 27
COMMIT_MASK = (1 << DELTA_BITS) - 1  # above are flags
STAMP_MASK = (1 << DELTA_BITS + 32) - 1  # an absolute time lacks the highest bits


class Field(NamedTuple):
    """Where a field is in an event or a page, in bytes, and its `struct` format."""

    offset: int
    size: int
    code: str


class Record(NamedTuple):
    """What the buffer holds of one event."""

    ts_ns: int
    data: bytes


def parse_fields(text: str) -> dict[str, Field]:
    """Return the fields that a format file, or header_page, describes, in their order."""
    return {
        name: Field(int(offset), int(size), _code(int(size), array, signed))
        for name, array, offset, size, signed in _FIELD.findall(text)
    }


def _code(size: int, array: str, signed: str) -> str:
    if array or size not in _CODES:
        return f"{size}s"
    return _CODES[size].lower() if int(signed) else _CODES[size]


def parse_id(text: str) -> int:
    """Return the event's number from its format file."""
    match = _ID.search(text)
    if not match:
        raise ValueError(text)
    return int(match[1])


class Page:
    """How a page of the buffer is laid out."""

    def __init__(self, header_page: str) -> None:
        """Read the file events/header_page."""
        fields = parse_fields(header_page)
        self._stamp_at = fields["timestamp"].offset
        self._commit = fields["commit"]
        self._data_at = fields["data"].offset

    def records(self, page: bytes) -> Iterator[Record]:
        """Yield what a page holds, the oldest first."""
        (ts_ns,) = _U64.unpack_from(page, self._stamp_at)
        base = ts_ns
        start, size = self._commit.offset, self._commit.size
        commit = int.from_bytes(page[start : start + size], sys.byteorder) & COMMIT_MASK
        at, end = self._data_at, self._data_at + commit
        while at < end:
            (header,) = _U32.unpack_from(page, at)
            if sys.byteorder == "little":
                kind, delta = header & 0x1F, header >> 5
            else:
                kind, delta = header >> DELTA_BITS, header & (1 << DELTA_BITS) - 1
            at += 4
            if kind == PADDING and not delta:
                return
            ts_ns += delta
            if 0 < kind < PADDING:
                yield Record(ts_ns, page[at : at + 4 * kind])
                at += 4 * kind
                continue
            (word,) = _U32.unpack_from(page, at)
            if kind == 0:
                yield Record(ts_ns, page[at + 4 : at + word])
                at += word
            elif kind == PADDING:
                at += word
            else:
                at += 4
                stamp = (word << DELTA_BITS) + delta
                if kind == TIME_EXTEND:
                    ts_ns += word << DELTA_BITS
                else:
                    ts_ns = base & ~STAMP_MASK | stamp
