"""What the end of a Parquet recording tells, and whether its rows can be read with others'."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.errors import TcptraceError
from tcptrace.map.inputs import TYPES
from tcptrace.model.ends import refuse_pipe
from tcptrace.model.kept import CUT_KEY, END_KEY, META_KEY, OFFSET
from tcptrace.model.losses import Losses, losses_from
from tcptrace.model.meta import meta_from_json

UNKNOWN = "unknown"
MADE = frozenset({"host", "filename"})
"""Columns that are made when files are read."""
TESTS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    "STRING": (pa.types.is_string,),
    "BIGINT": (pa.types.is_integer,),
    "DOUBLE": (pa.types.is_floating, pa.types.is_decimal),
}
"""What tells whether a column has values of a type of `TYPES`."""


class Kept(NamedTuple):
    """What a file says of itself."""

    host: str
    boot_id: str
    begun_ns: int
    last_ns: int
    """When the last of its rows happened, or it was begun."""
    losses: Losses
    is_cut: bool


def end_of(path: Path) -> pq.FileMetaData:
    """Return the end of a Parquet file. Raises TcptraceError."""
    refuse_pipe(str(path))
    try:
        str(path).encode()
        return pq.read_metadata(path)
    except UnicodeEncodeError:
        raise TcptraceError(f"cannot read {path}: its name is not in UTF-8") from None
    except (OSError, ValueError, pa.ArrowException) as error:
        raise TcptraceError(unreadable(path, error)) from None


def look(path: Path, end: pq.FileMetaData) -> tuple[Kept, str]:
    """Return what a Parquet recording says of itself, and its columns. Raises TcptraceError."""
    known = end.metadata or {}
    if META_KEY not in known:
        raise TcptraceError(f"{path} is no recording of tcptrace")
    if known.keys().isdisjoint({END_KEY, CUT_KEY}):
        raise TcptraceError(unreadable(path, None))
    try:
        _check_columns(end.schema.to_arrow_schema())
        meta = meta_from_json(json.loads(known[META_KEY]))
        losses = losses_from(json.loads(known.get(END_KEY, "{}")))
        last = max(meta.start_ns, last_ns(end))
        columns = str(end.schema).partition("\n")[2]  # behind where it is in memory
    except (ValueError, RecursionError, pa.ArrowException) as error:
        raise TcptraceError(f"{path} cannot be read: {error}") from None
    is_cut = CUT_KEY in known
    kept = Kept(meta.host or UNKNOWN, meta.boot_id, meta.start_ns, last, losses, is_cut=is_cut)
    return kept, columns


def _check_columns(schema: pa.Schema) -> None:
    """Raise ValueError where a column is not as engines will read it: one file would fail all."""
    if not {"type", "time"} <= {*schema.names}:
        raise ValueError("its rows have no type, or no time")
    if len({name.lower() for name in schema.names}) < len(schema.names):
        raise ValueError("two of its columns have one name")
    for field in schema:
        if not _fits(field.name, field.type):
            msg = f"no row of tcptrace has {field.name!r} as {field.type}"
            raise ValueError(msg)


def _fits(name: str, kind: pa.DataType) -> bool:
    """Tell whether a column can be read, or is one that nobody asks for."""
    if name == "time":
        return bool(pa.types.is_timestamp(kind) and kind.unit == "ns")
    tests = TESTS.get("BIGINT" if name == OFFSET else TYPES.get(name, ""))
    return name not in MADE and (tests is None or any(test(kind) for test in tests))


def unreadable(path: Path, error: Exception | None) -> str:
    """Return what is to be said of a file that cannot be read."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot read {path}: {error.strerror}"
    return (
        f"{path} is no recording of tcptrace, or was not ended by its writer.\n"
        f"What is whole of it is had with: tcptrace tracer -r {path} -w whole.parquet"
    )


def digest_of(end: pq.FileMetaData) -> bytes:
    """Return a digest that copies of a file share; other files differ, by their times at least."""
    written = pa.BufferOutputStream()
    end.write_metadata_file(written)
    return hashlib.blake2b(written.getvalue(), digest_size=16).digest()


def last_ns(end: pq.FileMetaData) -> int:
    """Return when the last of the rows happened, in nanoseconds since 1970; 0 if it is not told."""
    at = end.schema.names.index("time")
    groups = (end.row_group(number).column(at) for number in range(end.num_row_groups))
    told = (group.statistics for group in groups)
    return max((each.max_raw for each in told if each and each.has_min_max), default=0)
