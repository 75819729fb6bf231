"""Samples of the TCP sockets of several network namespaces, taken by a child process.

The child enters the namespaces, and reads their lists while the tracing process reads its events.
It works when it is asked and sleeps otherwise.
"""

from __future__ import annotations

import contextlib
import json
import marshal
import operator
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from tcptrace.errors import TcptraceError
from tcptrace.kernel import clock, sock_diag, sockets
from tcptrace.kernel.apart import confine_helper
from tcptrace.kernel.child import Child
from tcptrace.kernel.netns import enter
from tcptrace.kernel.shortage import FORKING, check_shortage
from tcptrace.kernel.sock_diag import LISTEN, OPEN, Socket
from tcptrace.kernel.sockets import Process, holders, namespaces, process

NO_HOLDERS: Mapping[int, Process] = MappingProxyType({})
MOST_BYTES = 1 << 20
"""Of a question."""
_NUMBER = 8
"""Bytes that tell how long a message is."""


class Sample(NamedTuple):
    """The sockets of some network namespaces, as they were between two times."""

    begin_ns: int
    """As `tcptrace.kernel.clock.now_ns` has it."""
    end_ns: int
    sockets: list[tuple[int, Socket]]
    """Each with its network namespace's inode number."""
    refused: str = ""
    """Why namespaces are missing."""
    holders: Mapping[int, Process] = NO_HOLDERS
    """Processes that have listeners, the first of each, by the sockets' inode numbers."""


class Sampler:
    """A child that answers with a `Sample`, one question at a time."""

    def __init__(self) -> None:
        """Start the child, which keeps the privileges that this process has now.

        Raises:
            TcptraceError: there can be no child.

        """
        try:
            self._memory = os.memfd_create("tcptrace-sockets")
            asked, self._questions = os.pipe()
            self._answers, answering = os.pipe()
            memory = self._memory
            self._child = Child("lists sockets", lambda: _work(asked, answering, memory))
        except OSError as error:
            check_shortage(error, "cannot start a process", FORKING)
            raise
        os.close(asked)
        os.close(answering)
        os.set_blocking(self._answers, False)
        self.is_busy = False
        """Whether it was asked and has not answered."""

    def ask(self, wanted: Collection[int] | None, *, listeners: bool = False) -> None:
        """Ask for the connections of some namespaces, or of all; for their listeners instead.

        Raises:
            TcptraceError: the child has died.

        """
        question = json.dumps((listeners, None if wanted is None else sorted(wanted))).encode()
        try:
            os.write(self._questions, len(question).to_bytes(_NUMBER, "little") + question)
        except BrokenPipeError:
            raise TcptraceError(self._child.death(self._child.end())) from None
        self.is_busy = True

    def answer(self) -> Sample | None:
        """Return the answer; None while there is none.

        Raises:
            TcptraceError: the child has died.

        """
        try:
            length = os.read(self._answers, _NUMBER)
        except BlockingIOError:
            return None
        if not length:
            raise TcptraceError(self._child.death(self._child.end()))
        self.is_busy = False
        data = os.pread(self._memory, int.from_bytes(length, "little"), 0)
        begin_ns, end_ns, rows, refused, held = marshal.loads(data)  # noqa: S302 - our own child's
        sockets = [(netns, Socket._make(row)) for netns, row in rows]
        holders = {inode: Process._make(process) for inode, process in held.items()}
        return Sample(begin_ns, end_ns, sockets, refused, holders)

    def close(self) -> None:
        """End the child."""
        self._child.kill()
        for descriptor in (self._questions, self._answers, self._memory):
            os.close(descriptor)


def _work(asked: int, answering: int, memory: int) -> None:
    """Answer until nobody can ask any more, without a word to the parent's output."""
    confine_helper(sockets.RIGHTS, sockets.calls(), (asked, answering, memory))
    child = _Work()
    with open(asked, "rb") as questions:
        while length := questions.read(_NUMBER):
            question = questions.read(min(int.from_bytes(length, "little"), MOST_BYTES))
            data = marshal.dumps(child.sample(*_checked(question)))
            with open(memory, "wb", closefd=False) as file:
                file.seek(0)
                file.write(data)
            os.write(answering, len(data).to_bytes(_NUMBER, "little"))


def _checked(question: bytes) -> tuple[bool, list[int] | None]:
    """Return what is asked. Raises ValueError or TypeError, and with it ends, where it is not."""
    listeners, wanted = json.loads(question)
    if wanted is not None:
        wanted = [operator.index(number) for number in wanted]
    return listeners is True, wanted


class _Work:
    """What the child remembers from one question to the next."""

    def __init__(self) -> None:
        """Know nothing."""
        self._places: dict[int, Path] = {}
        """Paths to network namespaces, by inode number."""
        self._holders: dict[int, tuple[Any, ...] | None] = {}
        """Processes that have listeners, by the sockets' inode numbers."""

    def sample(self, listeners: bool, wanted: list[int] | None) -> tuple[Any, ...]:  # noqa: FBT001
        """Return a `Sample` of plain tuples."""
        begin_ns = clock.now_ns()
        rows: list[tuple[int, tuple[Any, ...]]] = []
        refused = ""
        if wanted is None:
            self._places.update(namespaces())
        for netns in sorted(self._places) if wanted is None else wanted:
            try:
                if self._visit(netns):
                    states = (LISTEN,) if listeners else OPEN
                    rows += [(netns, tuple(connection)) for connection in sock_diag.sockets(states)]
            except (TcptraceError, OSError) as error:
                refused = str(error)
        end_ns = clock.now_ns()
        inodes = {Socket._make(row).inode for _, row in rows} if listeners else set()
        return begin_ns, end_ns, rows, refused, self._held(inodes)

    def _visit(self, netns: int) -> bool:
        """Enter a network namespace, where it still is; a path may have become another's."""
        for is_last in (False, True):
            path = self._places.get(netns)
            with contextlib.suppress(FileNotFoundError):
                if path and path.stat().st_ino == netns:
                    enter(path)
                    return True
            if not is_last:
                self._places.clear()
                self._places.update(namespaces())
        return False

    def _held(self, inodes: set[int]) -> dict[int, tuple[Any, ...]]:
        """Return who has these sockets; all processes are looked through where there are new."""
        new = inodes - self._holders.keys()
        if new:
            found = {inode: process(pids[0]) for inode, pids in holders(new).items()}
            for inode in new:
                holder = found.get(inode)
                self._holders[inode] = tuple(holder) if holder else None
        self._holders = {inode: self._holders[inode] for inode in inodes}
        return {inode: holder for inode, holder in self._holders.items() if holder}
