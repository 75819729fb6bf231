"""Rows as groups in a Parquet file: `Groups`, the columns, and how they are coded.

Parquet says where everything is at the end of a file, which a writer that is killed does not reach.
So each group of rows is followed by an end of its own. What was written up to there is a file with
that group; the last end, behind all of them, has all groups, and says that this is all of it.
"""

from __future__ import annotations

import abc
import errno
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute  # what sorts imports it, when it can no longer be read
import pyarrow.parquet as pq

from tcptrace.errors import TcptraceError
from tcptrace.model.events import NewTable
from tcptrace.model.kept import BOOT, END_KEY, META_KEY, OFFSET, Kind, is_milliseconds, kinds
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta, meta_to_json
from tcptrace.sinks import thrift

GROUP_S = 9.0
"""How long rows wait at most, in seconds: a kill or a power failure can cost so much."""
GROUP_ROWS = 1 << 16
AT_ONCE = 2048
"""How many rows become columns at a time. That takes some 20 ms, in which events wait."""
MAGIC = b"PAR1"
# Numbers of fields in parquet.thrift: of FileMetaData, RowGroup and ColumnChunk; and those that are
# places in the file, of RowGroup, ColumnChunk and ColumnMetaData.
NUM_ROWS, ROW_GROUPS, KEY_VALUES, COLUMNS, COLUMN_METADATA = 3, 4, 5, 1, 3
GROUP_PLACES, COLUMN_PLACES, PAGE_PLACES = {5}, {2, 4, 6}, {9, 10, 11, 14}
_INTEGERS = {"H": pa.uint16(), "I": pa.uint32(), "Q": pa.uint64()}
MILLISECONDS = pa.decimal128(18, 6)
"""Exact to the nanosecond, and compressed to half the size of doubles."""
_NANOSECONDS = pa.decimal128(19, 0)
SORTED_BY = ("cgroup_id", "comm", "pid", "lport", "time")
"""Rows of a process side by side: what they have in common then takes no room."""
_LEVEL = 6
"""From 4 on, zstd finds a number of four bytes that comes twice in a row, as in C and X."""
_DELTA, _PLAIN = "DELTA_BINARY_PACKED", "PLAIN"
_NEVER_REPEATED = frozenset({"iss", "irs", "lport", "tx_bytes", "rx_bytes"})
"""Numbers for which a dictionary is longer than they are themselves."""


def column_type(key: str, kind: Kind) -> pa.DataType:
    """Return the type of a column."""
    if is_milliseconds(key, kind):
        return MILLISECONDS
    if kind.base is int:
        base = _INTEGERS.get(kind.form[-1:], pa.int64())
    else:
        base = {float: pa.float64(), bool: pa.bool_(), str: pa.string()}[kind.base]
    return pa.list_(base) if kind.is_list else base


def schema_of(records: Iterable[Any]) -> pa.Schema:
    """Return the columns of rows of these classes: type, time and clock, then JSON's keys."""
    known: dict[str, pa.DataType] = {}
    for record in records:
        for key, kind in kinds(record).items():
            if key != "ts_ns":  # time less the offset
                known.setdefault(key, column_type(key, kind))
    first = {"type": pa.string(), "time": pa.timestamp("ns", tz="UTC"), OFFSET: pa.int64()}
    return pa.schema([*first.items(), (BOOT, pa.string()), *known.items()])


def table_of(rows: Sequence[Any], schema: pa.Schema, meta: Meta) -> pa.Table:
    """Return rows as columns."""
    arrays = [_column(field, rows, meta) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


class Waiting:
    """Rows that wait for their group; most are turned into columns as they come, not at the end."""

    def __init__(self, schema: pa.Schema, meta: Meta) -> None:
        """Begin with none."""
        self._schema = schema
        self._meta = meta
        self._rows: list[Any] = []
        self._tables: list[pa.Table] = []
        self._turned = 0
        """Rows in tables."""
        self.since = 0.0
        """When the first of them came, by time.monotonic."""

    @property
    def count(self) -> int:
        """How many rows wait."""
        return len(self._rows) + self._turned

    def add(self, rows: Sequence[Any]) -> None:
        """Let rows wait, without the marks where tables begin."""
        if not self.count:
            self.since = time.monotonic()
        self._rows += [row for row in rows if not isinstance(row, NewTable)]
        if len(self._rows) >= AT_ONCE:
            self._turn()

    def _turn(self) -> None:
        """Turn rows into columns."""
        if self._rows:
            self._tables.append(table_of(self._rows, self._schema, self._meta))
            self._turned += len(self._rows)
            self._rows = []

    def table(self) -> pa.Table:
        """Return all rows; they stay until `drop`."""
        self._turn()
        self._tables = [pa.concat_tables(self._tables)]
        return self._tables[0]

    def drop(self) -> int:
        """Forget the rows; return how many they were."""
        count = self.count
        self._rows, self._tables, self._turned = [], [], 0
        return count


class GroupedSink(abc.ABC):
    """What sinks have in common whose rows wait for a group."""

    _waiting: Waiting

    @abc.abstractmethod
    def _write_group(self) -> None:
        """Write the rows that wait."""

    def write(self, rows: Sequence[Any]) -> None:
        """Keep rows for their group."""
        self._waiting.add(rows)
        if self._is_full():
            self._write_group()

    def _is_full(self) -> bool:
        """Tell whether as many wait as make a group."""
        return self._waiting.count >= GROUP_ROWS

    def flush(self, seconds: float = 0) -> bool:
        """Write the group if its rows have waited; nobody else has to take them."""
        if self._waiting.count and time.monotonic() - self._waiting.since >= GROUP_S:
            self._write_group()
        return True

    def drop(self) -> int:
        """Forget rows that could not be written; return of how many events they tell."""
        return self._waiting.drop()

    def is_closed(self) -> bool:
        """Tell that there is always somewhere to write to."""
        return False


def by_program(table: pa.Table) -> pa.Table:
    """Return the rows in the order in which they take the least room."""
    keys = [(name, "ascending") for name in SORTED_BY if name in table.column_names]
    return table.sort_by(keys)


def _column(field: pa.Field, rows: Sequence[Any], meta: Meta) -> pa.Array:
    """Return the values of a column."""
    name = field.name
    if name == "time":
        return pa.array([row.wall_ns for row in rows], field.type)
    if name == OFFSET:
        return pa.array([row.wall_ns - row.ts_ns for row in rows], field.type)
    if name == BOOT:
        return pa.repeat(pa.scalar(meta.boot_id or None, field.type), len(rows))
    values = [getattr(row, name, None) for row in rows]
    try:
        return _milliseconds(values) if field.type == MILLISECONDS else pa.array(values, field.type)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise TcptraceError(f"a row's {name} has no place in a Parquet column: {error}") from None


def _milliseconds(values: Sequence[float | None]) -> pa.Array:
    """Return milliseconds, to the nanosecond, as decimals."""
    whole = pa.array([None if ms is None else round(ms * 1e6) for ms in values], pa.int64())
    wide = whole.cast(_NANOSECONDS)
    return pa.Array.from_buffers(MILLISECONDS, len(wide), wide.buffers(), wide.null_count)


def coding(schema: pa.Schema) -> dict[str, Any]:
    """Return how pyarrow is to code these columns: strings and most numbers by a dictionary."""
    other: dict[str, str] = {}
    for field in schema:
        if field.name == "time" or field.type == MILLISECONDS:
            other[field.name] = _DELTA
        elif field.name in _NEVER_REPEATED:
            other[field.name] = _PLAIN
    leaf = {True: "{}.list.element", False: "{}"}
    paths = [leaf[pa.types.is_list(field.type)].format(field.name) for field in schema]
    return {
        "compression": "zstd",
        "compression_level": _LEVEL,
        "store_schema": False,
        "store_decimal_as_integer": True,
        "write_statistics": ["time"],
        "column_encoding": other,
        "use_dictionary": [path for path in paths if path not in other],
    }


def first_known(meta: Meta) -> dict[bytes, bytes]:
    """Return what each end of a file says by key."""
    return {META_KEY: json.dumps(meta_to_json(meta)).encode("ascii")}


def ended(losses: Losses) -> dict[bytes, bytes]:
    """Return what the last end says besides."""
    return {END_KEY: json.dumps(losses._asdict()).encode("ascii")}


def sync(descriptor: int) -> None:
    """Wait until what was written is on the disk, if it is a file on one. Raises OSError."""
    try:
        os.fdatasync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # as of a pipe
            raise


class Groups:
    """A file that is whole after each group."""

    def __init__(self, descriptor: int, schema: pa.Schema, known: Mapping[bytes, bytes]) -> None:
        """Write to an open file that is empty; each of its ends says what is `known`."""
        self.size = 0
        """Bytes that are there, up to the last end."""
        self.count = 0
        """Rows."""
        self._descriptor = descriptor
        self._schema = schema
        self._known = known
        self._groups: list[bytes] = []
        """Where each group is, as the end tells it."""

    @property
    def number(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    def begin(self) -> None:
        """Write how a Parquet file begins. Raises OSError."""
        self._put(MAGIC)

    def append(self, table: pa.Table) -> None:
        """Append a group, with an end of its own. Raises OSError."""
        data, end = _as_file(table)
        _move(end, self.size - len(MAGIC))
        self._put(data, framed(end, self._known))
        self._groups += [thrift.encode(group) for group in end[ROW_GROUPS].value]
        self.count += table.num_rows

    def end(self, known: Mapping[bytes, bytes]) -> None:
        """Append the end that has all groups, and says this besides. Raises OSError."""
        _, end = _as_file(self._schema.empty_table())
        end[NUM_ROWS] = thrift.Field(thrift.I64, self.count)
        end[ROW_GROUPS] = thrift.Field(thrift.LIST, self._groups, thrift.STRUCT)
        self._put(framed(end, {**self._known, **known}))

    def cut_back(self) -> None:
        """Take away what was begun behind the last end. Raises OSError."""
        os.ftruncate(self._descriptor, self.size)
        os.lseek(self._descriptor, self.size, os.SEEK_SET)

    def _put(self, *pieces: bytes) -> None:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        self.size += sum(map(len, pieces))


def _as_file(table: pa.Table) -> tuple[bytes, thrift.Struct]:
    """Return what pyarrow writes of a table: its data, and what stands at the end."""
    stream = pa.BufferOutputStream()
    pq.write_table(table, stream, **coding(table.schema))
    data = stream.getvalue().to_pybytes()
    size = int.from_bytes(data[-8:-4], "little")
    return data[len(MAGIC) : -8 - size], thrift.decode(data[-8 - size : -8])


def framed(end: thrift.Struct, known: Mapping[bytes, bytes]) -> bytes:
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
