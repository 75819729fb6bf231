"""The reader of a ring buffer, on memory that stands for the kernel's."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from tcptrace.sources.bpf.ringbuf import BUSY, DISCARDED, HEADER, PAGE, MappedRingBuffer

SIZE = 1 << 26
DATA = b"a record of three words!"
RECORD = HEADER + len(DATA)


class Kernel:
    """The producer's side."""

    def __init__(self) -> None:
        """Make the memory."""
        self.map_fd = os.memfd_create("ring buffer")
        os.ftruncate(self.map_fd, 2 * PAGE + SIZE)
        self.memory = mmap.mmap(self.map_fd, 0)

    def write(self, at: int, *lengths: int) -> None:
        """Write records, of these lengths with flags, and move the producer's position."""
        records = b"".join(struct.pack("=II", length, 0) + DATA for length in lengths)
        place = at % SIZE
        first = records[: SIZE - place]
        self.memory[2 * PAGE + place : 2 * PAGE + place + len(first)] = first
        self.memory[2 * PAGE : 2 * PAGE + len(records) - len(first)] = records[len(first) :]
        self.memory[PAGE : PAGE + 8] = struct.pack("=Q", at + len(records))

    def close(self) -> None:
        """Let go of it."""
        self.memory.close()
        os.close(self.map_fd)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """The memory."""
    kernel = Kernel()
    yield kernel
    kernel.close()


@pytest.fixture
def ring(kernel: Kernel) -> Iterator[MappedRingBuffer]:
    """The reader."""
    ring = MappedRingBuffer(kernel.map_fd, SIZE)
    yield ring
    ring.close()


def test_records_are_read_in_order_up_to_one_that_is_being_written(
    kernel: Kernel, ring: MappedRingBuffer
) -> None:
    """What was given up is left out; what is being written ends it, and comes when it is whole."""
    size = len(DATA)
    kernel.write(0, size, size | DISCARDED, size, size | BUSY, size)
    assert [DATA] * 2 == list(ring.read())
    assert [] == list(ring.read())
    kernel.write(3 * RECORD, size, size)
    assert [DATA] * 2 == list(ring.read())


def test_what_was_given_up_does_not_wait(kernel: Kernel, ring: MappedRingBuffer) -> None:
    """It is no event: it wakes the reader. What is being written is one, or will be."""
    size = len(DATA)
    kernel.write(0, size, size | DISCARDED, size | BUSY)
    assert 2 == ring.waiting()


@pytest.mark.parametrize("behind", [RECORD, HEADER + 8, HEADER])
def test_records_go_round(kernel: Kernel, ring: MappedRingBuffer, behind: int) -> None:
    """A record that begins so many bytes before the buffer's end goes on at its beginning."""
    at = SIZE - behind
    kernel.memory[0:8] = struct.pack("=Q", at)
    kernel.write(at, *[len(DATA)] * 3)
    assert [DATA] * 3 == list(ring.read())
    assert at + 3 * RECORD == struct.unpack("=Q", kernel.memory[0:8])[0]


def goes_back(kernel: Kernel, end: int) -> bool:
    """Look at the consumer's position until it is `end`; tell whether it was less than before."""
    positions = memoryview(kernel.memory).cast("Q")
    before = 0
    while (position := positions[0]) != end:
        if position < before:
            return True
        before = position
    return False


def test_the_kernel_never_sees_the_position_go_back(kernel: Kernel, ring: MappedRingBuffer) -> None:
    """It looks at any time, from any processor; a position of 0 would be a full buffer."""
    count = SIZE // RECORD // 2
    kernel.write(0, *[len(DATA)] * count)
    if not (child := os.fork()):
        os._exit(goes_back(kernel, count * RECORD))
    assert count == sum(1 for _ in ring.read())
    assert 0 == os.waitpid(child, 0)[1]
