"""What the kernel tests stand on: bounded waits, and workers.

Nothing here sleeps for a fixed time. All limits grow with TCPTRACE_TIME_SCALE, because a kernel
under emulation is 10 to 20 times slower than a real one.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tcptrace.kernel.syscalls import die_with_parent

Event = dict[str, Any]
TIME_SCALE = float(os.environ.get("TCPTRACE_TIME_SCALE", "1"))
POLL_S = 0.005


def limit(seconds: float) -> float:
    """Return `seconds` as they are on this machine."""
    return seconds * TIME_SCALE


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` is true; fail when it is not in time."""
    deadline = time.monotonic() + limit(20)
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not in time: {what}")
        time.sleep(POLL_S)


class Worker:
    """A forked process that waits to be let go, calls a function and hands back its result.

    It exists, and its process id is known, before it does anything. What the function returns
    must be JSON; what it raises is raised again by `result`, as text.
    """

    def __init__(self, function: Callable[[], Any], fork: Callable[[], int] = os.fork) -> None:
        """Fork."""
        self._channel, theirs = socket.socketpair()
        parent = os.getpid()
        self.pid = fork()
        if self.pid == 0:
            self._channel.close()
            _work(theirs, function, parent)
        theirs.close()

    def start(self) -> None:
        """Let it call the function."""
        self._channel.send(b"go")

    def result(self) -> Any:
        """Wait for the function's result."""
        self._channel.settimeout(limit(60))
        try:
            data = b"".join(iter(functools.partial(self._channel.recv, 1 << 16), b""))
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            data = b'{"error": "the worker took too long"}'
        self._channel.close()
        os.waitpid(self.pid, 0)
        answer = json.loads(data or '{"error": "the worker died"}')
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["result"]

    def run(self) -> Any:
        """Let it call the function, and return the result."""
        self.start()
        return self.result()


def _work(channel: socket.socket, function: Callable[[], Any], parent: int) -> NoReturn:
    """Be a worker: none of pytest's exit handlers may run here."""
    try:
        die_with_parent(parent)
        channel.recv(2)
        answer = {"result": function()}
    except BaseException:  # noqa: BLE001 - whatever it is, the test has to see it
        answer = {"error": traceback.format_exc()}
    try:
        channel.sendall(json.dumps(answer).encode())
    finally:
        os._exit(0)


def children_of(pid: int) -> Iterator[int]:
    """Yield the processes whose parent is `pid`."""
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[1]) == pid:
                yield int(status.parent.name)


FIRST_PORT, RANGE, RANGES = 20_000, 2_000, 6
"""All below the kernel's own choices."""


def take_range(name: str = "tcptrace-tests") -> tuple[int, int]:
    """Return the first port of a range that no other run of the tests on this machine has.

    A tracer that is not asked for one network namespace sees what happens in all of them. The
    range is held by the name of a socket, whose descriptor is returned, too; where all are held,
    it is the first.
    """
    for number in range(RANGES):
        holder = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):  # another run has it
            holder.bind(f"\0{name}-{number}")
            return FIRST_PORT + number * RANGE, holder.detach()
        holder.close()
    return FIRST_PORT, -1


_first, _held_until_the_end = take_range()
_serial = itertools.count(_first)


def take_ports(count: int) -> list[int]:
    """Return local ports that no test has used, in a row, below the kernel's own choices."""
    return [next(_serial) for _ in range(count)]


def take_port() -> int:
    """Return a local port that no test has used."""
    return take_ports(1)[0]
