"""Child processes that end with their parent, and that are given up where they hang."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from typing import NoReturn

from tcptrace.errors import HungError
from tcptrace.kernel.processes import cpu_ticks
from tcptrace.kernel.syscalls import die_with_parent

TICK_S = 0.05
STEP_S = 0.001
"""So often it is looked whether a child that is about to end has ended."""
IDLE_S = 10.0
"""After so long without a moment of processor time, a child hangs."""
MOST_S = 300.0
"""After so long it is given up, whatever it does; to compile under emulation takes a tenth."""
KILLED_S = 10.0
"""So long a killed process may take to end; one that cannot, within the kernel, is left behind."""
MOST_STEP_S = 1.0
"""What a check counts at most: while nobody checked, this process stood still itself."""


_ALIVE: set[int] = set()


def alive() -> frozenset[int]:
    """Return the ids of the children that have not been reaped."""
    return frozenset(_ALIVE)


class Child:
    """A forked process, from its start until it was reaped."""

    def __init__(self, what: str, main: Callable[[], None], *, outlives: bool = False) -> None:
        """Start it; `what` names it in errors. It ends when `main` returns, with status 0.

        What `main` raises is its own affair: the status is then 1. With `outlives`, `main` sees to
        it that it ends when its parent has. Raises OSError.
        """
        self._what = what
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _be_child(None if outlives else parent, main)
        _ALIVE.add(self._pid)
        self._ticks: int | None = 0
        self._idle_s = self._waited_s = 0.0
        self._checked_at = time.monotonic()

    def wait(self, descriptor: int, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Wait until `descriptor` can be read; return False where `stopped` says to give up.

        Raises HungError.
        """
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        while not stopped():
            if poller.poll(TICK_S * 1000):
                return True
            self.check()
        return False

    def check(self) -> None:
        """Raise HungError where it hangs; whoever waits for it calls this again and again."""
        now = time.monotonic()
        step_s = now - self._checked_at
        if step_s < TICK_S:
            return
        self._checked_at = now
        step_s = min(step_s, MOST_STEP_S)
        ticks = cpu_ticks(self._pid)
        is_idle = ticks is not None and ticks == self._ticks  # what cannot be seen may work
        self._idle_s = self._idle_s + step_s if is_idle else 0.0
        self._ticks = ticks
        self._waited_s += step_s
        if self._idle_s > IDLE_S:
            raise HungError(self._hung(f"hangs: it has done nothing for {IDLE_S:.0f} s"))
        if self._waited_s > MOST_S:
            raise HungError(self._hung(f"has not come to an end in {MOST_S:.0f} s"))

    def _hung(self, how: str) -> str:
        return (
            f"the process that {self._what} {how}; it was given up.\n"
            "Try again: does something stop or trace it, or are disks or memory overloaded?"
        )

    def end(self) -> int:
        """Wait for its end; return its status, as waitpid does."""
        if not self._pid:
            return 0
        _, status = os.waitpid(self._pid, 0)
        return self._ended(status)

    def _ended(self, status: int) -> int:
        _ALIVE.discard(self._pid)
        self._pid = 0
        return status

    @property
    def pid(self) -> int:
        """Its process id; 0 when it has ended."""
        return self._pid

    def ends_within(self, seconds: float) -> bool:
        """Wait so long for its end; tell whether it came."""
        deadline = time.monotonic() + seconds
        while self._pid:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._ended(status)
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(STEP_S)
        return True

    def kill(self) -> None:
        """End it if it still runs."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self.ends_within(KILLED_S)

    def death(self, status: int) -> str:
        """Return how it has ended, as a sentence without its full stop."""
        if os.WIFSIGNALED(status):
            how = f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
        else:
            how = f"ended with status {os.waitstatus_to_exitcode(status)}"
        return f"the process that {self._what} {how}"


def _be_child(parent: int | None, main: Callable[[], None]) -> NoReturn:
    """Work, and end without any exit handler of the parent's."""
    status = 1
    try:
        if parent is not None:
            die_with_parent(parent)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)  # sent to all of a group: the parent decides
        main()
        status = 0
    finally:
        os._exit(status)
