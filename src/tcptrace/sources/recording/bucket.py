"""Recordings in object storage: which there are, and how they are opened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from pyarrow import fs

from tcptrace.errors import TcptraceError
from tcptrace.model.window import Window
from tcptrace.sources.recording.directory import can_be_in


class Bucket:
    """What stands below a URL; every fault is a TcptraceError."""

    def __init__(self, url: str) -> None:
        """Take the URL; credentials and the like come from the environment."""
        self._url = url
        try:
            self._files, self._root = fs.FileSystem.from_uri(url)
        except (OSError, pa.ArrowException) as error:
            raise self._wrong(error) from None

    @property
    def root(self) -> str:
        """What stands before all names: the bucket, and the prefix; of a single file, its place."""
        root = str(self._root).rstrip("/")
        return root.rpartition("/")[0] if self._is_file else root

    @property
    def _is_file(self) -> bool:
        return str(self._root).endswith(".parquet")

    def walk(self, window: Window) -> Iterator[tuple[str, list[str]]]:
        """Yield places and the names of their files, but for days without anything wanted."""
        if self._is_file:
            yield self.root, [self._root.rpartition("/")[2]]
            return
        places = [self.root]
        while places:
            place = places.pop()
            try:
                infos = self._files.get_file_info(fs.FileSelector(place))
            except (OSError, pa.ArrowException) as error:
                raise self._wrong(error) from None
            yield place, [info.base_name for info in infos if info.type == fs.FileType.File]
            places += [
                info.path
                for info in infos
                if info.type == fs.FileType.Directory and can_be_in(info.base_name, window)
            ]

    def open(self, path: str) -> Any:
        """Return a file to be read."""
        try:
            return self._files.open_input_file(path)
        except (OSError, pa.ArrowException) as error:
            raise self._wrong(error) from None

    def _wrong(self, error: Exception) -> TcptraceError:
        words = (str(error).splitlines() or [type(error).__name__])[0]
        return TcptraceError(f"cannot read {self._url}: {words}")
