"""Recordings in object storage, brought here: engines read files."""

from __future__ import annotations

import shutil
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from tcptrace.errors import TcptraceError
from tcptrace.map.names import usual
from tcptrace.model.window import Window
from tcptrace.sources.recording.bucket import Bucket

AT_ONCE = 16
"""So many files are fetched at a time: most of it is waiting."""
CHUNK = 8 << 20
SUFFIX = ".parquet"


def names_in(bucket: Bucket, url: str, window: Window) -> list[PurePosixPath]:
    """Return the recordings of a time, by their names below the URL.

    Raises:
        TcptraceError: there is none, or it cannot be read.

    """
    found = usual(
        [
            PurePosixPath(place, name).relative_to(bucket.root)
            for place, names in bucket.walk(window)
            for name in names
            if name.endswith(SUFFIX)
        ]
    )
    if not found:
        raise TcptraceError(f"there are no recordings in {url}, or none of that time")
    return found


def fetched(url: str, place: Path, window: Window) -> Path:
    """Copy the recordings of a URL into a new directory; return it.

    Raises:
        TcptraceError: there is none of that time, or no room, or they cannot be read.

    """
    bucket = Bucket(url)
    names = names_in(bucket, url, window)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            deque(pool.map(lambda name: _copy(bucket, name, place / name), names), 0)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return place


def _copy(bucket: Bucket, name: PurePosixPath, to: Path) -> None:
    """Copy a file; none of its parts begins with a point. Raises TcptraceError."""
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        with bucket.open(f"{bucket.root}/{name}") as file, to.open("wb") as copy:
            shutil.copyfileobj(file, copy, CHUNK)
    except OSError as error:
        raise TcptraceError(f"cannot fetch {name}: {error.strerror or error}") from None
