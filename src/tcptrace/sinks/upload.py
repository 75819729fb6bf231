"""Carries recordings that have ended to object storage: a program of its own, for it may hang.

Its arguments are a directory and a URL. What has arrived is removed from the directory; an object
appears there when it is whole.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from tcptrace.kernel.syscalls import die_with_parent
from tcptrace.sinks.waiting import waiting

CHUNK = 1 << 20


def upload(spool: Path, url: str) -> None:
    """Carry all files that have ended. Raises OSError, and pyarrow's own errors."""
    filesystem, root = fs.FileSystem.from_uri(url)
    for path in waiting(spool):
        try:
            with (
                path.open("rb") as file,
                filesystem.open_output_stream(
                    f"{root.rstrip('/')}/{path.relative_to(spool)}"
                ) as stream,
            ):
                while data := file.read(CHUNK):
                    stream.write(data)
        except FileNotFoundError:
            if path.exists():  # else another one has carried it
                raise
        path.unlink(missing_ok=True)


def main() -> int:
    """Carry what there is; return the exit status."""
    spool, url = sys.argv[1:]
    die_with_parent(os.getppid())
    try:
        upload(Path(spool), url)
    except (OSError, pa.ArrowException) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
