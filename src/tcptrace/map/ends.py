"""What the end of a Parquet file tells, beside what its writer says of itself."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq


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
