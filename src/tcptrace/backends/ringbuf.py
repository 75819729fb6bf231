"""Read a BPF ring buffer through mmap (kernel/bpf/ringbuf.c).

The kernel maps one page with the consumer's position, one with the producer's, and the data twice
in a row, so that a record is never split. Each record is a u32 length with two flag bits, a u32
page offset, and the data, padded to 8 bytes.

x86-64 keeps loads in order, so a length that is seen without its busy bit has its data behind it.
Other machines need libbpf's reader, which has the barriers.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator

BUSY, DISCARDED = 1 << 31, 1 << 30
LENGTH = DISCARDED - 1
HEADER = 8
PAGE = mmap.PAGESIZE

_U64 = struct.Struct("=Q")
_U32 = struct.Struct("=I")


class RingBuffer:
    """The consumer's side of one ring buffer of `size` bytes, a power of two."""

    def __init__(self, map_fd: int, size: int) -> None:
        """Map it. Raises OSError."""
        both = mmap.PROT_READ | mmap.PROT_WRITE
        self._mask = size - 1
        self._consumer = mmap.mmap(map_fd, PAGE, mmap.MAP_SHARED, both, offset=0)
        self._producer = mmap.mmap(
            map_fd, PAGE + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE
        )

    def close(self) -> None:
        """Unmap it."""
        self._consumer.close()
        self._producer.close()

    def read(self) -> Iterator[bytes]:
        """Yield the records that are there now, oldest first, freeing each once it was taken."""
        position = _U64.unpack_from(self._consumer, 0)[0]
        end = _U64.unpack_from(self._producer, 0)[0]
        while position < end:
            start = PAGE + (position & self._mask)
            length = _U32.unpack_from(self._producer, start)[0]
            if length & BUSY:
                return
            size = length & LENGTH
            data = self._producer[start + HEADER : start + HEADER + size]
            position += (HEADER + size + 7) & ~7
            _U64.pack_into(self._consumer, 0, position)
            if not length & DISCARDED:
                yield data
