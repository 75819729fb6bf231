"""Rows that are kept in a Parquet file, in columns typed after their classes.

Parquet says where everything is at the end of a file, which a writer that is killed does not reach.
So each group of rows is followed by an end of its own. What was written up to there is a file with
that group; the last end, behind all of them, has all groups, and says that this is all of it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.errors import TcptraceError
from tcptrace.model.events import NewTable
from tcptrace.model.kept import END_KEY, META_KEY, Kind, kinds
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta, meta_to_json
from tcptrace.sinks import thrift
from tcptrace.sinks.recording import create

GROUP_S = 9.0
"""So long rows wait at most: what a kill, or a power failure, can cost."""
GROUP_ROWS = 1 << 16
MAGIC = b"PAR1"
# Numbers of fields in parquet.thrift: of FileMetaData, RowGroup and ColumnChunk; and those that are
# places in the file, of RowGroup, ColumnChunk and ColumnMetaData.
NUM_ROWS, ROW_GROUPS, KEY_VALUES, COLUMNS, COLUMN_METADATA = 3, 4, 5, 1, 3
GROUP_PLACES, COLUMN_PLACES, PAGE_PLACES = {5}, {2, 4, 6}, {9, 10, 11, 14}
_INTEGERS = {"H": pa.uint16(), "I": pa.uint32(), "Q": pa.uint64()}


def column_type(kind: Kind) -> pa.DataType:
    """Return the type of a column."""
    if kind.base is int:
        base = _INTEGERS.get(kind.form[-1:], pa.int64())
    else:
        base = {float: pa.float64(), bool: pa.bool_(), str: pa.string()}[kind.base]
    return pa.list_(base) if kind.is_list else base


def schema_of(records: Iterable[Any]) -> pa.Schema:
    """Return the columns of rows of these classes: type and time, then the keys that JSON has."""
    known: dict[str, pa.DataType] = {}
    for record in records:
        for key, kind in kinds(record).items():
            known.setdefault(key, column_type(kind))
    first = {"type": pa.string(), "time": pa.timestamp("ns", tz="UTC")}
    return pa.schema([*first.items(), *known.items()])


class ParquetRecording:
    """A recording in a Parquet file."""

    def __init__(self, path: str, records: Iterable[Any], *, force: bool) -> None:
        """Write rows of these classes to the file `path`."""
        self._path = path
        self._schema = schema_of(records)
        self._descriptor = create(path, force=force)
        self._end_at = 0
        self._rows: list[Any] = []
        self._since = 0.0
        self._groups: list[bytes] = []
        """Where each group is, as the end tells it."""
        self._count = 0
        self._known: dict[bytes, bytes] = {}
        self._is_broken = False

    def open(self, meta: Meta) -> None:
        """Begin the file; each end says what holds for all rows."""
        self._known = {META_KEY: json.dumps(meta_to_json(meta)).encode("ascii")}
        self._put(MAGIC)

    def write(self, rows: Sequence[Any]) -> None:
        """Keep rows for their group."""
        if not self._rows:
            self._since = time.monotonic()
        self._rows += [row for row in rows if not isinstance(row, NewTable)]
        if len(self._rows) >= GROUP_ROWS:
            self._write_group()

    def note(self, losses: Losses) -> None:
        """Do nothing: the end tells."""

    def flush(self, seconds: float = 0) -> bool:
        """Write the group if its rows have waited; nobody else has to take them."""
        if self._rows and time.monotonic() - self._since >= GROUP_S:
            self._write_group()
        return True

    def drop(self) -> int:
        """Forget rows that could not be written; return of how many events they tell."""
        dropped, self._rows = len(self._rows), []
        return dropped

    def is_closed(self) -> bool:
        """Tell that a file can always be written to."""
        return False

    def close(self, losses: Losses) -> None:
        """Write the last group, and the end of all."""
        try:
            if not self._is_broken:
                if self._rows:
                    self._write_group()
                self._write_end(losses)
        finally:
            os.close(self._descriptor)

    def _write_group(self) -> None:
        """Append the group with an end of its own."""
        arrays = [_column(field, self._rows) for field in self._schema]
        data, end = _as_file(pa.Table.from_arrays(arrays, schema=self._schema))
        _move(end, self._end_at - len(MAGIC))
        self._put(data, _framed(end, self._known))
        self._groups += [thrift.encode(group) for group in end[ROW_GROUPS].value]
        self._count += len(self._rows)
        self._rows = []

    def _write_end(self, losses: Losses) -> None:
        """Append the end that has all groups."""
        known = {**self._known, END_KEY: json.dumps(losses._asdict()).encode("ascii")}
        _, end = _as_file(self._schema.empty_table())
        end[NUM_ROWS] = thrift.Field(thrift.I64, self._count)
        end[ROW_GROUPS] = thrift.Field(thrift.LIST, self._groups, thrift.STRUCT)
        self._put(_framed(end, known))

    def _put(self, *pieces: bytes) -> None:
        try:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[os.write(self._descriptor, rest) :]
                self._end_at += len(piece)
        except OSError as error:
            self._is_broken = True
            error.filename = self._path
            raise


def _as_file(table: pa.Table) -> tuple[bytes, thrift.Struct]:
    """Return what pyarrow writes of a table: its data, and what stands at the end."""
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, compression="zstd", store_schema=False, write_statistics=["time"])
    data = stream.getvalue().to_pybytes()
    size = int.from_bytes(data[-8:-4], "little")
    return data[len(MAGIC) : -8 - size], thrift.decode(data[-8 - size : -8])


def _framed(end: thrift.Struct, known: Mapping[bytes, bytes]) -> bytes:
    """Return the last bytes of a file: the end with what is known by key, its length, the mark."""
    pairs = [
        {1: thrift.Field(thrift.BINARY, key), 2: thrift.Field(thrift.BINARY, value)}
        for key, value in known.items()
    ]
    data = thrift.encode({**end, KEY_VALUES: thrift.Field(thrift.LIST, pairs, thrift.STRUCT)})
    return data + len(data).to_bytes(4, "little") + MAGIC


def _move(end: thrift.Struct, distance: int) -> None:
    """Add `distance` to all places in the file that an end names (parquet.thrift)."""
    for group in end[ROW_GROUPS].value:
        _add(group, GROUP_PLACES, distance)
        for column in group[COLUMNS].value:
            _add(column, COLUMN_PLACES, distance)
            _add(column[COLUMN_METADATA].value, PAGE_PLACES, distance)


def _add(fields: thrift.Struct, numbers: Iterable[int], distance: int) -> None:
    for number in fields.keys() & numbers:
        field = fields[number]
        if field.value:  # 0 stands for no place
            fields[number] = field._replace(value=field.value + distance)


def _column(field: pa.Field, rows: Sequence[Any]) -> pa.Array:
    """Return the values of a column."""
    name = field.name
    if name == "time":
        return pa.array([row.wall_ns for row in rows], field.type)
    values = [getattr(row, name, None) for row in rows]
    try:
        return pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise TcptraceError(f"a row's {name} has no place in a Parquet column: {error}") from None
