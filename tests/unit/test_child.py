"""Child processes: what hangs is given up, and none outlives its parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tcptrace.errors import HungError, RefusedError, ShortageError, TcptraceError
from tcptrace.kernel import child, in_child
from tcptrace.kernel.child import Child
from tcptrace.kernel.syscalls import die_with_parent

Start = Callable[[Callable[[], None]], Child]


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts children, which have ended when the test has."""
    started: list[Child] = []

    def start(main: Callable[[], None]) -> Child:
        started.append(Child("is tested", main))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def never() -> Iterator[int]:
    """A descriptor that can never be read."""
    reading, writing = os.pipe()
    yield reading
    os.close(reading)
    os.close(writing)


def spin() -> None:
    """Work for ever."""
    while True:
        pass


def test_a_child_that_does_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, start: Start, never: int
) -> None:
    """One that is stopped, or waits for ever, hangs; the error says which process that was."""
    monkeypatch.setattr(child, "IDLE_S", 0.3)
    with pytest.raises(HungError, match="the process that is tested hangs"):
        start(signal.pause).wait(never)


def test_a_child_that_works_for_too_long_is_given_up(
    monkeypatch: pytest.MonkeyPatch, start: Start, never: int
) -> None:
    """One that comes to no end is given up as well, later."""
    monkeypatch.setattr(child, "MOST_S", 0.5)
    with pytest.raises(HungError, match="not come to an end"):
        start(spin).wait(never)


def test_a_child_that_works_does_not_hang(
    monkeypatch: pytest.MonkeyPatch, start: Start, never: int
) -> None:
    """Processor time is a sign of life; to wait ends when it is said to."""
    monkeypatch.setattr(child, "IDLE_S", 2.0)
    end = time.monotonic() + 3
    assert not start(spin).wait(never, lambda: time.monotonic() > end)


def test_time_in_which_nobody_waits_does_not_count(
    monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """A parent that was stopped itself (Ctrl-Z) finds its child alive."""
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    started = start(signal.pause)
    clock[0] += 10 * child.MOST_S
    started.check()


def test_a_child_that_cannot_be_killed_is_left_behind(
    monkeypatch: pytest.MonkeyPatch, start: Start
) -> None:
    """One that stands still within the kernel does not keep its parent from ending."""
    started = start(signal.pause)
    with monkeypatch.context() as patch:
        patch.setattr(child, "KILLED_S", 0.1)
        patch.setattr(os, "kill", lambda *_: None)
        started.kill()
    assert started.pid in child.alive()


def test_a_child_is_not_ended_by_what_is_sent_to_all(start: Start) -> None:
    """Ctrl-C and a hang-up go to a whole terminal, SIGTERM to a whole unit; the parent decides."""
    reading, writing = os.pipe()

    def main() -> None:
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        os.write(writing, b"alive")

    child = start(main)
    assert child.wait(reading)
    assert b"alive" == os.read(reading, 5)
    assert 0 == child.end()
    os.close(reading)
    os.close(writing)


def test_a_child_whose_parent_has_just_ended_ends() -> None:
    """The parent may be gone before the child can ask to be killed with it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        die_with_parent(1 << 30)  # no process has this id
        os.write(writing, b"lives on")
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    assert b"" == os.read(reading, 8)
    os.close(reading)


def test_a_child_ends_with_its_parent() -> None:
    """However the parent ends."""
    reading, writing = os.pipe()

    def outlive() -> None:
        os.write(writing, b"lives")
        signal.pause()

    pid = os.fork()
    if pid == 0:
        os.close(reading)
        Child("is tested", outlive)
        signal.pause()
    assert select.select([reading], [], [], 60)[0]
    assert b"lives" == os.read(reading, 5)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(writing)
    assert b"" == os.read(reading, 1), "the last that could write has ended"
    os.close(reading)


@pytest.mark.parametrize("kind", [TcptraceError, RefusedError, ShortageError])
def test_a_question_s_error_keeps_its_kind(kind: type[TcptraceError]) -> None:
    """What the child raises is raised in the parent, with its details."""

    def fails() -> None:
        raise kind("what failed", details="words")

    with pytest.raises(kind) as caught:
        in_child.ask(fails)
    assert ("what failed", "words", kind) == (
        str(caught.value),
        caught.value.details,
        type(caught.value),
    )


def test_a_question_that_hangs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for, and the process is gone."""
    monkeypatch.setattr(child, "IDLE_S", 0.3)
    with pytest.raises(HungError, match="the process that counts hangs"):
        in_child.ask(signal.pause, "counts")
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_question_that_lacks_memory_says_so() -> None:
    """Want of memory is told as such."""

    def fails() -> None:
        raise MemoryError

    with pytest.raises(ShortageError, match="memory is short"):
        in_child.ask(fails)


def test_descriptors_beyond_1024(tmp_path: Path) -> None:
    """A process that has inherited many descriptors can ask all the same."""
    script = tmp_path / "many.py"
    script.write_text(
        "import os, resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))\n"
        "for _ in range(1100): os.dup(0)\n"
        "from tcptrace.kernel.in_child import ask\n"
        "print(ask(os.getpid) != os.getpid())\n"
    )
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "True\n" == ended.stdout, ended.stderr
