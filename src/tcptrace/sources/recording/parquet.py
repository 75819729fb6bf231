"""Recordings in Parquet files.

Filters look at columns, and rows are made of what is wanted alone. A file whose writer was killed
is read by the ends that stand behind each group of its rows; see sinks/parquet.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import sub
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tcptrace.errors import TcptraceError
from tcptrace.model import ends
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.model.kept import (
    BOOT,
    CUT_KEY,
    END_KEY,
    META_KEY,
    OFFSET,
    Classes,
    Kind,
    from_columns,
    kinds,
)
from tcptrace.model.losses import losses_from
from tcptrace.model.meta import meta_from_json
from tcptrace.model.window import ALWAYS, Window
from tcptrace.sources.recording.kept import KeptSource

AT_ONCE = 4096
"""So many rows are made at a time."""
_CODES: dict[Any, Any] = {
    pa.uint16(): "H",
    pa.uint32(): "I",
    pa.uint64(): "Q",
    pa.int64(): "q",
    pa.float64(): "d",
}

_TESTS: dict[type, tuple[Callable[[pa.DataType], bool], ...]] = {
    int: (pa.types.is_integer,),
    float: (pa.types.is_floating, pa.types.is_decimal),
    bool: (pa.types.is_boolean,),
    str: (pa.types.is_string,),
}
DAMAGED = (OSError, ValueError, KeyError, RecursionError, pa.ArrowException)
"""What reading a file raises that is damaged."""


class ParquetRows(KeptSource):
    """Rows in the columns of a file."""

    def __init__(
        self,
        path: str,
        classes: Classes,
        filters: Filters,
        tests: Sequence[Callable[[Any], bool]],
        window: Window = ALWAYS,
        *,
        by_time: bool = False,
        file: Any = None,
    ) -> None:
        """Open the file.

        Args:
            path: of the file.
            classes: of the rows that may be there.
            filters: tell which rows are wanted.
            tests: all of them a row that is wanted passes, too.
            window: in which a row that is wanted happened.
            by_time: whether the rows of a group are to be put in order.
            file: what stands at `path`, where that is no local one.

        Raises:
            TcptraceError: it cannot be read, or is no recording.

        """
        super().__init__(path)
        self._classes = classes
        self._window = window
        self._by_time = by_time
        if file is None:
            ends.refuse_pipe(path)
        try:
            self._file = file or pa.memory_map(path)
            self._parts = [pq.ParquetFile(self._file)]
        except DAMAGED as error:
            self._parts = self._recovered(path, error)
        known = self._known().keys()
        if META_KEY not in known or known.isdisjoint({END_KEY, CUT_KEY}):
            self._parts = self._recovered(path, None)
        with self._undamaged():
            self.meta = meta_from_json(json.loads(self._known()[META_KEY]))
            self._read_losses()
        columns = frozenset(self._parts[0].schema_arrow.names)
        self._by_column = [
            (fields, filters.test(name))
            for name in filters.values
            if columns.issuperset(fields := _fields(name, filters))
        ]
        rest = [name for name in filters.values if not columns.issuperset(_fields(name, filters))]
        self._tests = [*([filters.only(rest).keeps] if rest else ()), *tests]
        if window != ALWAYS:
            self._tests.append(window.keeps)

    def span_ns(self) -> tuple[int, int] | None:
        """Return when the first and the last of its rows happened; None where there are none."""
        with self._undamaged():
            spans = [
                _span_ns(part, number)
                for part in self._parts
                for number in range(part.num_row_groups)
            ]
        if not spans:
            return None
        return min(first for first, _ in spans), max(last for _, last in spans)

    def close(self) -> None:
        """Close the file."""
        for part in self._parts:
            part.close()
        self._file.close()

    def _known(self) -> dict[bytes, bytes]:
        return self._parts[-1].metadata.metadata or {}

    def _recovered(self, path: str, error: Exception | None) -> list[pq.ParquetFile]:
        """Return a file for each group of rows that is whole."""
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - mapped
                parts = [part.file for part in ends.parts(ends.mapped(file.fileno()))]
        except (OSError, ValueError) as own:
            why = getattr(own, "strerror", None) or own
            raise TcptraceError(f"cannot read {path}: {why}") from None
        if not parts:
            why = f": {error}".splitlines()[0] if error else ""
            raise TcptraceError(f"{path} is no recording of tcptrace{why}")
        return parts

    @contextlib.contextmanager
    def _undamaged(self) -> Iterator[None]:
        """Raise TcptraceError for what pyarrow, or a value, says of a file that is damaged."""
        try:
            yield
        except DAMAGED as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TcptraceError(f"{self.name} cannot be read: {why}") from None

    def _check_columns(self) -> None:
        """Raise ValueError where a column is none that rows are made of."""
        schema = self._parts[0].schema_arrow
        known = {"type": Kind(str), BOOT: Kind(str), OFFSET: Kind(int)}
        for record in self._classes:
            known |= kinds(record)
        for field in schema:
            kind = known.get(field.name)
            is_time = field.name == "time" and pa.types.is_timestamp(field.type)
            if not is_time and not (kind and _is_of(kind, field.type)):
                msg = f"no row of tcptrace has {field.name!r} as {field.type}"
                raise ValueError(msg)
        if not {"type", "time"} <= set(schema.names):
            raise ValueError("its rows have neither type nor time")

    def _read_losses(self) -> None:
        self.is_whole = END_KEY in self._known()
        if self.is_whole:
            self._losses = losses_from(json.loads(self._known()[END_KEY]))

    def _groups(self) -> Iterator[list[Any]]:
        with self._undamaged():
            self._check_columns()
        for part in self._parts:
            for number in range(part.num_row_groups):
                with self._undamaged():
                    if self._window.meets(*_span_ns(part, number)):
                        yield from self._rows(part, number)

    def _rows(self, part: pq.ParquetFile, number: int) -> Iterator[list[Any]]:
        """Yield the wanted rows of a group, some at a time."""
        wanted = self._wanted(part, number)
        if wanted is not None and not wanted:
            yield []
            return
        table = part.read_row_group(number, use_threads=False)
        if wanted is not None and len(wanted) < table.num_rows:
            table = table.take(pa.array(wanted, pa.uint32()))
        if self._by_time:
            table = table.sort_by("time")
        for at in range(0, table.num_rows, AT_ONCE):
            rows: Iterable[Any] = self._made(table.slice(at, AT_ONCE))
            for test in self._tests:
                rows = filter(test, rows)
            yield list(rows)

    def _wanted(self, part: pq.ParquetFile, number: int) -> list[int] | None:
        """Return the places of the rows that the filters keep; None for all."""
        if not self._by_column:
            return None
        names = list({field for fields, _ in self._by_column for field in fields})
        table = part.read_row_group(number, columns=names, use_threads=False)
        verdicts: list[Iterator[bool]] = []
        for fields, test in self._by_column:
            verdicts.append(map(test, *(values_of(table[field]) for field in fields)))
        all_of = verdicts[0] if len(verdicts) == 1 else map(all, zip(*verdicts, strict=True))
        return [at for at, keep in enumerate(all_of) if keep]

    def _made(self, table: pa.Table) -> Sequence[Any]:
        """Return the rows of a table, in its order."""
        types = values_of(table["type"])
        if len(set(types)) == 1:
            return self._alike(types[0], table)
        rows: list[Any] = [None] * len(types)
        for kind in set(types):
            places = [at for at, type_ in enumerate(types) if type_ == kind]
            for at, row in zip(
                places,
                self._alike(kind, table.take(pa.array(places, pa.uint32()))),
                strict=True,
            ):
                rows[at] = row
        return rows

    def _alike(self, kind: str, table: pa.Table) -> list[Any]:
        """Return the rows of a table of one type."""
        columns = {
            name: values_of(column)
            for name, column in zip(table.column_names, table.columns, strict=True)
            if name not in {"type", BOOT} and column.null_count < len(column)
        }
        columns["wall_ns"] = columns.pop("time")
        if OFFSET in columns:
            columns["ts_ns"] = [*map(sub, columns["wall_ns"], columns.pop(OFFSET))]
        try:
            record = self._classes.of(kind, columns.keys() - {"wall_ns"})
        except ValueError as error:
            raise TcptraceError(f"{self.name} has {error}") from None
        return from_columns(record, columns, table.num_rows)


def _fields(name: str, filters: Filters) -> Sequence[str]:
    """Return the fields that a filter is about."""
    field = BY_NAME[name].field
    return (field,) if field else filters.port_fields


def _is_of(kind: Kind, type_: pa.DataType) -> bool:
    """Tell whether a column's values are of a kind."""
    if kind.is_list:
        return pa.types.is_list(type_) and _is_of(Kind(kind.base), type_.value_type)
    return any(test(type_) for test in _TESTS[kind.base])


def _span_ns(part: pq.ParquetFile, number: int) -> tuple[int, int]:
    """Return when the first and the last row of a group happened, as far as the file tells."""
    at = part.schema_arrow.get_field_index("time")
    known = part.metadata.row_group(number).column(at).statistics
    return (known.min_raw, known.max_raw) if known and known.has_min_max else (0, 1 << 63)


def values_of(column: pa.ChunkedArray) -> list[Any]:
    """Return a column's values; as pyarrow's own `to_pylist`, in a tenth of its time."""
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    if pa.types.is_string(array.type):
        return _texts(array)
    if pa.types.is_decimal(array.type):
        return _decimals(array)
    if pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    code = _CODES.get(array.type)
    return _numbers(array, code) if code else array.to_pylist()


def _numbers(array: pa.Array, code: Any) -> list[Any]:
    nulls = array.null_count
    whole = pc.fill_null(array, 0) if nulls else array
    values = memoryview(whole.buffers()[1]).cast(code)[whole.offset : whole.offset + len(whole)]
    numbers: list[Any] = values.tolist()
    if not nulls:
        return numbers
    known = memoryview(array.is_valid().cast(pa.uint8()).buffers()[1])[: len(array)]
    return [number if is_known else None for number, is_known in zip(numbers, known, strict=True)]


def _decimals(array: pa.Array) -> list[Any]:
    """Return decimals of less than 2^63 units as floating-point numbers."""
    units = memoryview(array.buffers()[1]).cast("q")[2 * array.offset :: 2]
    scale = 10.0**array.type.scale
    known = _numbers(array.is_valid().cast(pa.uint16()), "H")
    pairs = zip(units, known, strict=False)  # a buffer is padded
    return [unit / scale if is_known else None for unit, is_known in pairs]


def _texts(array: pa.Array) -> list[Any]:
    """Return strings: each one is made once."""
    encoded = array.dictionary_encode("encode")
    texts = encoded.dictionary.to_pylist()
    return [texts[at] for at in _numbers(encoded.indices.cast(pa.uint32()), "I")]
