"""How a file that grew by groups ends: `finish`, and `recover` where its writer was killed.

It was hidden. When it is whole and on the disk, it gets the name by which readers find it. Where
its groups are small, because little happened in nine seconds, it is written again in large ones.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.model import ends, filenames
from tcptrace.model.filenames import GROWING, MERGED
from tcptrace.model.kept import CUT_KEY, END_KEY
from tcptrace.sinks import thrift
from tcptrace.sinks.groups import (
    GROUP_ROWS,
    KEY_VALUES,
    NUM_ROWS,
    ROW_GROUPS,
    by_program,
    coding,
    framed,
)

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that pass when there is room again."""
MODE = 0o600
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
OLD = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
LARGE_ROWS = GROUP_ROWS // 4
"""Groups of at least so many rows stay: to write them again takes long, and saves little."""


def take(descriptor: int) -> bool:
    """Take a file as its only writer; tell whether nobody else has it, and it has its name yet."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(descriptor).st_nlink > 0


def finish(name: str, descriptor: int, directory: int) -> None:
    """Give a file that is whole the name that it is to have.

    Args:
        name: the name.
        descriptor: the file, which is hidden under that name, and was taken.
        directory: where it is.

    Raises:
        OSError: it stays hidden.

    """
    grown = filenames.hidden(name, GROWING)
    try:
        is_merged = _merge(name, descriptor, directory)
    except (OSError, pa.ArrowException):  # where there is no room for both: as it is
        _remove(filenames.hidden(name, MERGED), directory)
        is_merged = False
    if not is_merged:
        os.fsync(descriptor)
        os.rename(grown, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)
    if is_merged:
        _remove(grown, directory)


def _remove(name: str, directory: int) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)


def _merge(name: str, descriptor: int, directory: int) -> bool:
    """Write a file's rows in large groups under its name, if that is worth it; tell whether.

    Raises OSError, and pyarrow's own errors.
    """
    file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(ends.mapped(descriptor))))
    known = file.metadata
    if known.num_row_groups < 2 or known.num_rows >= LARGE_ROWS * known.num_row_groups:
        return False
    merged = filenames.hidden(name, MERGED)
    _remove(merged, directory)
    with os.fdopen(os.open(merged, NEW, MODE, dir_fd=directory), "wb") as stream:
        os.fchmod(stream.fileno(), MODE)
        schema = file.schema_arrow
        with pq.ParquetWriter(stream, schema, **coding(schema)) as writer:
            writer.add_key_value_metadata(known.metadata)
            for table in _large(file):
                writer.write_table(by_program(table), row_group_size=GROUP_ROWS)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(merged, name, src_dir_fd=directory, dst_dir_fd=directory)
    return True


def _large(file: pq.ParquetFile) -> Iterator[pa.Table]:
    """Yield the rows of a file, as many at a time as go into one group."""
    waiting: list[pa.Table] = []
    for number in range(file.num_row_groups):
        table = file.read_row_group(number, use_threads=False)
        if waiting and table.num_rows + sum(part.num_rows for part in waiting) > GROUP_ROWS:
            yield pa.concat_tables(waiting)
            waiting = []
        waiting.append(table)
    yield pa.concat_tables(waiting)


def recover(name: str, directory: int) -> bool:
    """Finish a file that its writer has left behind, if nobody writes to it any more; tell whether.

    Raises:
        OSError: it stays as it is.

    """
    grown = filenames.hidden(name, GROWING)
    descriptor = os.open(grown, OLD, dir_fd=directory)
    try:
        if not take(descriptor):
            return False
        if _is_there(name, directory) or not _end(descriptor):
            _remove(grown, directory)  # it was finished before, or has nothing
            return True
        finish(name, descriptor, directory)
    finally:
        os.close(descriptor)
    return True


def _is_there(name: str, directory: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=directory, follow_symlinks=False)
        return True
    return False


def _end(descriptor: int) -> bool:
    """Write the end of all groups behind those that are whole; tell whether there are any."""
    if _has_ended(descriptor):
        return True
    try:
        found = [part for part in ends.parts(ends.mapped(descriptor)) if _is_readable(part.file)]
    except ValueError:  # it is empty
        return False
    if not found:
        return False
    data = ends.mapped(descriptor)
    tables = [thrift.decode(data[part.begin : part.end - 8]) for part in found]
    known = found[-1].file.metadata.metadata or {}
    os.ftruncate(descriptor, found[-1].end)
    os.lseek(descriptor, 0, os.SEEK_END)
    _append(descriptor, _end_of_all(tables, known))
    return True


def _has_ended(descriptor: int) -> bool:
    """Tell whether the writer has come to the last end."""
    try:
        file = pq.ParquetFile(pa.BufferReader(pa.py_buffer(ends.mapped(descriptor))))
    except (ValueError, OSError, pa.ArrowException):
        return False
    return not (file.metadata.metadata or {}).keys().isdisjoint({END_KEY, CUT_KEY})


def _append(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _end_of_all(tables: list[thrift.Struct], known: Mapping[bytes, bytes]) -> bytes:
    """Return the end that has the groups of these, and says that more may have been lost."""
    end = dict(tables[-1])
    groups = [group for table in tables for group in table[ROW_GROUPS].value]
    rows = sum(table[NUM_ROWS].value for table in tables)
    end[ROW_GROUPS] = end[ROW_GROUPS]._replace(value=groups)
    end[NUM_ROWS] = end[NUM_ROWS]._replace(value=rows)
    end.pop(KEY_VALUES, None)
    return framed(end, {**known, CUT_KEY: b"{}"})


def _is_readable(file: pq.ParquetFile) -> bool:
    """Tell whether a group's bytes have reached the disk before the power went."""
    try:
        file.read(use_threads=False)
    except (OSError, pa.ArrowException):
        return False
    return True
