"""Parquet files that grow group by group: where one of them is whole.

Behind each group stands an end, up to which the file is one with that group alone: see
sinks/groups.py. Of a file whose writer was killed these are all that there is.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.errors import TcptraceError
from tcptrace.model.kept import CUT_KEY, END_KEY, META_KEY

MAGIC = b"PAR1"


class Part(NamedTuple):
    """What was written up to an end."""

    file: pq.ParquetFile
    """With the last group alone."""
    begin: int
    """Where the end itself begins."""
    end: int


def refuse_pipe(path: str) -> None:
    """Raise TcptraceError for a path that is there and is no file.

    Arrow would wait until somebody writes to a pipe, and let no signal be heard meanwhile.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # noqa: PTH110, PTH113 - it is text
        raise TcptraceError(f"cannot read {path}: it is no file, as Parquet has to be")


def mapped(descriptor: int) -> mmap.mmap:
    """Return the bytes of an open file. Raises OSError, and ValueError for an empty one."""
    return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)


def parts(data: mmap.mmap) -> Iterator[Part]:
    """Yield a part for each group that is whole."""
    whole = pa.py_buffer(data)
    at = data.find(MAGIC, len(MAGIC))
    while at >= 0:
        end = at + len(MAGIC)
        begin = at - 4 - int.from_bytes(data[at - 4 : at], "little")
        if begin >= len(MAGIC):
            file = _file(whole.slice(0, end))
            if file:
                yield Part(file, begin, end)
        at = data.find(MAGIC, end)


def _file(data: pa.Buffer) -> pq.ParquetFile | None:
    """Return the file in `data` if it is one of tcptrace's, and not the whole."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
    except (pa.ArrowException, OSError, ValueError):
        return None
    known = file.metadata.metadata or {}
    return file if META_KEY in known and known.keys().isdisjoint({END_KEY, CUT_KEY}) else None
