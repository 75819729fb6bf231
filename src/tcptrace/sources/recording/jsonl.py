"""Recordings as JSON Lines, and what ``--json`` has printed."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import stat
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tcptrace.errors import TcptraceError
from tcptrace.model.kept import Classes, from_json
from tcptrace.model.losses import losses_from
from tcptrace.model.meta import Meta, meta_from_json
from tcptrace.sources.recording.kept import KeptSource

STDIN = "-"
CHUNK = 1 << 18
POLL_MS = 30
NO_META = Meta("", "", "", "", "", 0)


class JsonLines(KeptSource):
    """Rows, one a line, behind one about all of them."""

    def __init__(self, path: str, classes: Classes, tests: Sequence[Callable[[Any], bool]]) -> None:
        """Open a file, or standard input, and read its first line.

        Args:
            path: of the file; "-" is standard input.
            classes: of the rows that may be there.
            tests: all of them a row that is wanted passes.

        Raises:
            TcptraceError: it cannot be read, or is no recording.

        """
        super().__init__("standard input" if path == STDIN else path)
        self._classes = classes
        self._tests = tests
        self._descriptor = os.dup(0) if path == STDIN else _opened(path)
        self.can_rewind = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._begin()

    def _begin(self) -> None:
        """Read the first line."""
        self._number = 0
        self._has_end = False
        self._rest = b""
        """What stands behind the last whole line."""
        self._lines = self._read_lines()
        try:
            self._first = self._next_lines()
            self.meta = self._read_meta()
        except BaseException:
            self.close()
            raise

    def rewind(self) -> bool:
        """Let the next `batches` begin at the beginning; tell whether that can be."""
        if self.can_rewind:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            meta = self.meta  # it says what is asked of the rows, too
            self._begin()
            self.meta = meta
        return self.can_rewind

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)

    def _read_lines(self) -> Iterator[list[bytes]]:
        """Yield whole lines, as many as have come, also none; at last one that has no end."""
        poller = select.poll()
        poller.register(self._descriptor, select.POLLIN)
        rest = b""
        while True:
            if not poller.poll(POLL_MS):
                yield []
                continue
            chunk = os.read(self._descriptor, CHUNK)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                yield lines
        self._rest = rest

    def _next_lines(self) -> list[bytes]:
        """Wait for the first lines."""
        return next(filter(None, self._lines), [])

    def _read_meta(self) -> Meta:
        """Take the first line if it is about all rows; else make what the first row says."""
        values = self._decoded(self._first[0]) if self._first else {}
        if values.get("type") != "meta":
            self._has_end = True  # what --json prints has none
            return dataclasses.replace(NO_META, backend=str(values.get("backend", "")))
        del self._first[0]
        self._number = 1
        try:
            return meta_from_json(values)
        except ValueError as error:
            raise TcptraceError(f"{self.name} cannot be read: {error}") from None

    def _groups(self) -> Iterator[list[Any]]:
        yield self._rows(self._first)
        for lines in self._lines:
            yield self._rows(lines)
        self.is_whole = self._has_end and not self._rest

    def _rows(self, lines: list[bytes]) -> list[Any]:
        rows = filter(None, map(self._row, lines))
        for test in self._tests:
            rows = filter(test, rows)
        return list(rows)

    def _row(self, line: bytes) -> Any:
        """Return the row of a line; None of one that has none."""
        self._number += 1
        values = self._decoded(line)
        kind = str(values.get("type"))
        if kind in {"losses", "end"}:
            self._has_end = self._has_end or kind == "end"
            self._losses = losses_from(values)
            return None
        if values.get("backend") != self.meta.backend:
            raise self._wrong("it is of another run than those before it")
        try:
            return from_json(values, self._classes)
        except ValueError as error:
            raise self._wrong(str(error)) from None

    def _decoded(self, line: bytes) -> dict[str, Any]:
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise self._wrong("it is no JSON object")
        return values

    def _wrong(self, why: str) -> TcptraceError:
        line = max(1, self._number)
        return TcptraceError(f"{self.name}, line {line}, is no row of tcptrace: {why}")


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise TcptraceError(f"cannot read {path}: {error.strerror}") from None
