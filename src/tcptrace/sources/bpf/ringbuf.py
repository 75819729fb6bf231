"""Read a BPF ring buffer, through mmap or libbpf (kernel/bpf/ringbuf.c).

The kernel maps one page with the consumer's position, one with the producer's, and the data twice
in a row, so that a record is never split; libbpf uses that. Here it is mapped once, for memory that
is mapped twice is counted twice. Each record is a u32 length with two flag bits, a u32 page offset,
and the data, padded to 8 bytes.

x86-64 keeps loads in order, so a length that is seen without its busy bit has its data behind it:
there the records are read through mmap, in a third of the time. Other machines need the barriers of
libbpf's reader.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from tcptrace.errors import TcptraceError
from tcptrace.kernel.btf import RingBufferSample, libbpf

LOADS_IN_ORDER = frozenset({"x86_64"})
BUSY, DISCARDED = 1 << 31, 1 << 30
LENGTH = DISCARDED - 1
HEADER = 8
MOST_COUNTED = 500_000
"""So many records are counted in a quarter of a second."""
PAGE = mmap.PAGESIZE


class RingBuffer(Protocol):
    """The consumer's side of a ring buffer."""

    def read(self) -> Iterator[bytes]:
        """Yield the records that are there now, oldest first."""

    def waiting(self) -> int:
        """Return how many records are there that nobody has taken; of very many, about."""

    @property
    def taken(self) -> int:
        """A number that grows with each record that was read."""

    def close(self) -> None:
        """Let go of it."""


def open_ring_buffer(map_fd: int, size: int) -> RingBuffer:
    """Return the reader for this machine of a ring buffer of `size` bytes, a power of two."""
    if platform.machine() in LOADS_IN_ORDER:
        return MappedRingBuffer(map_fd, size)
    return LibbpfRingBuffer(map_fd)


class MappedRingBuffer:
    """A ring buffer that is read where the kernel writes it."""

    def __init__(self, map_fd: int, size: int) -> None:
        """Map it. Raises OSError."""
        both = mmap.PROT_READ | mmap.PROT_WRITE
        self._mask = size - 1
        self._consumer = mmap.mmap(map_fd, PAGE, mmap.MAP_SHARED, both, offset=0)
        self._producer = mmap.mmap(
            map_fd, PAGE + size, mmap.MAP_SHARED, mmap.PROT_READ, offset=PAGE
        )
        # Through these views a position is read and written in one piece. `struct` writes zeros
        # first: the kernel, which looks at any time, would take the buffer for full.
        self._consumed = memoryview(self._consumer).cast("Q")
        self._produced = memoryview(self._producer).cast("Q")
        self._words = memoryview(self._producer).cast("I")

    def close(self) -> None:
        """Unmap it."""
        self._consumed.release()
        self._produced.release()
        self._words.release()
        self._consumer.close()
        self._producer.close()

    def read(self) -> Iterator[bytes]:
        """Yield the records that are there now, oldest first, freeing each once it was taken."""
        consumed, lengths, memory, mask = self._consumed, self._words, self._producer, self._mask
        position, end = consumed[0], self._produced[0]
        while position < end:
            start = PAGE + (position & mask)
            length = lengths[start >> 2]
            if length & BUSY:
                return
            size = length & LENGTH
            start += HEADER
            data = memory[start : start + size]
            if len(data) < size:  # the rest is at the beginning
                data += memory[PAGE : PAGE + size - len(data)]
            position += (HEADER + size + 7) & ~7
            consumed[0] = position
            if not length & DISCARDED:
                yield data

    @property
    def taken(self) -> int:
        """How many bytes were read."""
        return self._consumed[0]

    def waiting(self) -> int:
        """Return how many records are there; of very many, as many as their like would be."""
        start = position = self._consumed[0]
        end = self._produced[0]
        count = 0
        while position < end and count < MOST_COUNTED:
            length = self._words[(PAGE + (position & self._mask)) >> 2]
            position += (HEADER + (length & LENGTH) + 7) & ~7
            count += not length & DISCARDED
        return count * (end - start) // (position - start) if count else 0


class LibbpfRingBuffer:
    """A ring buffer that libbpf reads."""

    def __init__(self, map_fd: int) -> None:
        """Open it. Raises TcptraceError."""
        self.taken = 0
        """How many records were read."""
        self._records: deque[bytes] = deque()
        self._callback = RingBufferSample(self._take)  # alive as long as libbpf may call it
        self._buffer = libbpf().ring_buffer__new(map_fd, self._callback, None, None)
        if not self._buffer:
            raise TcptraceError("libbpf cannot open the event buffer; install a newer libbpf")

    def waiting(self) -> int:
        """Return how many records are there."""
        libbpf().ring_buffer__consume(self._buffer)
        return len(self._records)

    def _take(self, _context: int, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        self.taken += 1
        return 0

    def read(self) -> Iterator[bytes]:
        """Yield the records that are there now, oldest first."""
        libbpf().ring_buffer__consume(self._buffer)
        while self._records:
            yield self._records.popleft()

    def close(self) -> None:
        """Let go of it."""
        libbpf().ring_buffer__free(self._buffer)
