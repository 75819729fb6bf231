"""Recordings that go on for weeks: files in directories of days and hosts, one after the other.

A file grows by groups under a hidden name, and gets its own name when it has ended (finish.py).
Each group is on the disk within ten seconds of its first row. Where nothing can be written, the
rows of one group wait, and the rest is counted as lost; there is another try every nine seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from tcptrace.errors import TcptraceError
from tcptrace.model import filenames
from tcptrace.model.limits import Limits
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta
from tcptrace.sinks import finish
from tcptrace.sinks.groups import (
    GroupedSink,
    Groups,
    Waiting,
    by_program,
    ended,
    first_known,
    schema_of,
    sync,
)
from tcptrace.sinks.retention import Retention
from tcptrace.sinks.tree import Tree

MOST_GROUPS = 1000
"""After how many groups a file ends: its end lists them all, and must not grow without bound."""
DAY_S = 86_400.0
MOST_NAME = 255
"""So many bytes a name can have, in the file systems that are usual."""
MOST_TRIES = 3


class Growing:
    """A file while it is written."""

    def __init__(self, tree: Tree, probe: str, begun_ns: int) -> None:
        """Make it, and take it; `begun_ns` is about when its rows begin. Raises OSError."""
        self.begun = time.monotonic()
        self.begun_ns = begun_ns
        self.day = filenames.date_directory(begun_ns)
        with tree.day(self.day, make=True) as directory:
            self._directory = os.dup(directory)
            try:
                self._make(probe)
            except OSError:
                os.close(self._directory)
                raise

    def _make(self, probe: str) -> None:
        """Make the file; one that somebody took for a leftover is left to them."""
        for _ in range(MOST_TRIES):
            self._name = filenames.file_name(probe, self.begun_ns, secrets.randbits(32))
            grown = filenames.hidden(self._name, filenames.GROWING)
            self._descriptor = os.open(grown, finish.NEW, finish.MODE, dir_fd=self._directory)
            if finish.take(self._descriptor):
                os.fchmod(self._descriptor, finish.MODE)
                os.fsync(self._directory)
                return
            os.close(self._descriptor)
        raise BlockingIOError(f"somebody else takes {self._name}")

    def begin(self, schema: Any, meta: Meta) -> None:
        """Write how it begins. Raises OSError."""
        known = first_known(dataclasses.replace(meta, start_ns=self.begun_ns))
        self.groups = Groups(self._descriptor, schema, known)
        self.groups.begin()

    def append(self, table: Any) -> None:
        """Append a group, on the disk; all of it or nothing. Raises OSError."""
        if os.fstat(self._descriptor).st_nlink == 0:
            raise FileNotFoundError(2, "the file was removed", self._name)
        try:
            self.groups.append(table)
            sync(self._descriptor)
        except OSError:
            self.groups.cut_back()
            raise

    def finish(self, losses: Losses) -> None:
        """End it, and give it its name. Raises OSError: it stays hidden."""
        try:
            self.groups.end(ended(losses))
            finish.finish(self._name, self._descriptor, self._directory)
        finally:
            self.close()

    def close(self) -> None:
        """Leave it as it is."""
        os.close(self._descriptor)
        os.close(self._directory)


class DirectoryRecording(GroupedSink):
    """A recording in files of a directory."""

    def __init__(
        self,
        path: str,
        probe: str,
        records: Iterable[Any],
        limits: Limits,
        say: Callable[[str], None],
    ) -> None:
        """Write a probe's rows, of these classes; `say` tells people what goes wrong."""
        self.unwritten = 0
        self._path = path
        self._probe = probe
        self._schema = schema_of(records)
        self._limits = limits
        self._say = say
        self._growing: Growing | None = None
        self._losses = self._told = NOTHING_LOST
        """What may be missing so far, and how much of that is in files that have ended."""
        self._failure: str | None = None
        self._is_tidy = False

    def open(self, meta: Meta) -> None:
        """Make the directory. Raises TcptraceError where nothing can be written there."""
        self._meta = meta
        self._waiting = Waiting(self._schema, meta)
        self._last_ns = 0
        """When the last of the rows happened."""
        if len(filenames.host_directory(meta.host)) > MOST_NAME:
            raise TcptraceError(
                f"no directory can be called after this host: {meta.host} is too long.\n"
                "Give it a shorter name in the environment: TCPTRACE_HOST"
            )
        self._tree = Tree(self._path, meta.host)
        self._retention = Retention(self._tree, self._probe, self._limits)
        try:
            self._tree.make()
        except OSError as error:
            raise TcptraceError(f"cannot write to {self._path}: {error.strerror}") from None

    def write(self, rows: Sequence[Any]) -> None:
        """Keep rows for their group."""
        self._last_ns = max((row.wall_ns for row in rows if row.wall_ns), default=self._last_ns)
        super().write(rows)

    def note(self, losses: Losses) -> None:
        """Keep what may be missing so far, for the file's end."""
        self._losses = losses

    def flush(self, seconds: float = 0) -> bool:
        """Write the group if its rows have waited, and end the file if it is time.

        The first time it is also seen to what others have left behind: that is read, and not by
        who has yet to give up its rights.
        """
        if not self._is_tidy:
            self._is_tidy = True
            self._tidy()
        super().flush(seconds)
        if self._growing and self._is_due(self._growing):
            self._finish()
        return True

    def close(self, losses: Losses) -> None:
        """Write the last group, and end the file."""
        if self._waiting.count:
            self._write_group()
        self.unwritten += self.drop()
        self._losses = losses
        if self._growing:
            self._finish()

    def _write_group(self) -> None:
        """Write the rows as a group, or let them wait."""
        table = by_program(self._waiting.table())
        if self._growing and self._growing.day != filenames.date_directory(self._last_ns):
            self._finish()
        try:
            self._current(self._last_ns).append(table)
        except OSError as error:
            self._fail(error)
            return
        self._waiting.drop()
        if self._failure:
            self._failure = None
            self._say(f"{self._path} can be written to again")

    def _current(self, begun_ns: int) -> Growing:
        """Return the file that grows. Raises OSError."""
        if not self._growing:
            growing = Growing(self._tree, self._probe, begun_ns)
            try:
                growing.begin(self._schema, self._meta)
            except OSError:
                growing.close()
                raise
            self._growing = growing
        return self._growing

    def _fail(self, error: OSError) -> None:
        """Say why nothing can be written; try again later, with rows that are not too many."""
        self._waiting.since = time.monotonic()
        why = error.strerror or str(error)
        if why != self._failure:
            self._failure = why
            self._say(f"cannot write to {self._path}: {why}. It is tried again; rows wait")
        if self._is_full():
            self.unwritten += self.drop()
        if self._growing and error.errno not in finish.FULL:
            self._growing.close()
            self._growing = None

    def _is_due(self, growing: Growing) -> bool:
        """Tell whether a file is to end."""
        limits, groups = self._limits, growing.groups
        age_s = time.monotonic() - growing.begun
        return (
            groups.number >= MOST_GROUPS
            or age_s >= min(DAY_S, limits.file_s or DAY_S)
            or (limits.file_bytes is not None and groups.size >= limits.file_bytes)
        )

    def _finish(self) -> None:
        """End the file."""
        growing, self._growing = self._growing, None
        if growing:
            try:
                growing.finish(self._losses.since(self._told))
                self._told = self._losses
            except OSError as error:
                self._fail(error)
        self._tidy()

    def _tidy(self) -> None:
        """Finish what others have left behind, and remove what is old; failures are said."""
        try:
            for kept in self._tree.files():
                name = filenames.shown(kept.name)
                place = filenames.place_of(name) if name else None
                if name and place and place.probe == self._probe:
                    with self._tree.day(kept.day) as directory:
                        self._recover(name, directory)
            self._retention.apply()
        except OSError as error:
            self._fail(error)

    def _recover(self, name: str, directory: int) -> None:
        with contextlib.suppress(FileNotFoundError, PermissionError):  # gone, or another user's
            finish.recover(name, directory)
