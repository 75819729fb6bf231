"""The tracer as a process: what it has shown and said, and how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest
from tests.kernel.backends import HEADERS, not_offered
from tests.kernel.harness import POLL_S, TIME_SCALE, Event, Worker, children_of, limit

import tcptrace.__main__
from tcptrace.sources.bpf.find_bcc import import_bcc

SEEN: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
"""The JSON keys that any test has seen, by command, event type and backend."""
TCPTRACE = (sys.executable, "-m", "tcptrace")
FORK = bool(os.environ.get("TCPTRACE_TEST_FORK"))
if FORK:
    import_bcc()
BANNER = "Tracing "
NO_ROOM, SKIPPED = "try a larger --buffer-mb", "the kernel skipped the probe"
"""Why events were lost, in what tcptrace says."""
ROOM = ("--buffer-mb", "16")
"""For a tracer of a whole machine, whose rows nobody reads while other tests run. What others do
there, such as another run of the tests, has to find room as well."""
MOST_S = 240
"""So long at most an end is waited for, however slow the machine: then there is time left to tell
where the tracer stands, before the test itself is given up."""
SUMMARY = re.compile(
    r"tcptrace: (\d+) (?:event|attempt|connection|listener)s? in [\d.]+ s, (\d+) lost"
)
VOLATILE = {"time", "ts_ns", "cgroup", "iss", "irs"}


def plain(event: Event) -> Event:
    """Return `event` without what no test can foretell."""
    return {key: value for key, value in event.items() if key not in VOLATILE}


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """How a run of tcptrace ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def summary(self) -> tuple[int, int]:
        """The events that were shown, or counted, and lost, as the summary on stderr says."""
        match = SUMMARY.search(self.stderr)
        assert match, f"no summary on stderr: {self.stderr!r}"
        return int(match[1]), int(match[2])

    @property
    def complaints(self) -> list[str]:
        """The lines on stderr that are neither the banner nor the summary."""
        return [
            line
            for line in self.stderr.splitlines()
            if not line.startswith(BANNER) and not SUMMARY.match(line)
        ]


class Forked:
    """tcptrace as a fork of this process, which has all of it loaded, with bcc.

    In a virtual machine, Python, click and LLVM take ten seconds to start.
    """

    def __init__(self, arguments: Sequence[str], stdout: int) -> None:
        """Start it, writing to `stdout`."""
        reading, writing = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _be_tcptrace(arguments, stdout, writing)
        os.close(writing)
        self.stderr = os.fdopen(reading, "rb", buffering=0)
        self._status: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; return its exit status. Raises subprocess.TimeoutExpired."""
        deadline = time.monotonic() + timeout_s
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("tcptrace", timeout_s)
            time.sleep(POLL_S)
        return self._status or 0

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)


def _be_tcptrace(arguments: Sequence[str], stdout: int, stderr: int) -> NoReturn:
    """Be the program: none of pytest's exit handlers may run here."""
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.closerange(3, 1024)
        faulthandler.enable(2)  # see `Tracer.ended`
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["tcptrace", *arguments]
        sys.stdout = open(1, "w", encoding="utf-8")  # noqa: SIM115 - for good
        sys.stderr = open(2, "w", encoding="utf-8")  # noqa: SIM115
        status = tcptrace.__main__.run()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def place_in_kernel(pid: int) -> str:
    """Return where each thread of a process is in the kernel, for people."""
    lines = []
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):
            state = (thread / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
            lines.append(f"process {pid}, thread {thread.name}, {state}\n")
            lines.append((thread / "stack").read_text())  # not with every kernel
    return "".join(lines)


class Tracer(contextlib.AbstractContextManager["Tracer"]):
    """tcptrace as a process, with its probes attached."""

    def __init__(
        self,
        *arguments: str,
        prefix: Sequence[str] = (),
        program: Sequence[str] = TCPTRACE,
        stdout: tuple[int, int] | None = None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        armed: bool = True,
        command: str = "accept",
    ) -> None:
        """Start it and wait for its banner.

        Args:
            arguments: behind the subcommand.
            prefix: a command that runs the program in its own process.
            program: what to run instead of the installed program.
            stdout: the ends to write to and to read from; a pipe if not given.
            cwd: the working directory.
            env: additions to the environment.
            armed: whether to wait for the banner.
            command: the subcommand.

        """
        if HEADERS:
            arguments = ("--headers", HEADERS, *arguments)
        write_end, self._stdout = stdout or os.pipe()[::-1]
        self.process: Forked | subprocess.Popen[bytes]
        if FORK and not (prefix or cwd or env) and program is TCPTRACE:
            self.process = Forked([command, *arguments], write_end)
        else:
            self.process = subprocess.Popen(
                [*prefix, *program, command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=subprocess.PIPE,
                cwd=cwd,
                env={**os.environ, "PYTHONFAULTHANDLER": "1", **(env or {})},
            )
        os.close(write_end)
        assert self.process.stderr
        self._stderr = self.process.stderr.fileno()
        self._data = {self._stdout: b"", self._stderr: b""}
        self._poll = select.poll()
        for descriptor in self._data:
            self._poll.register(descriptor, select.POLLIN)
        self._open = set(self._data)
        self._command = command
        self._events: list[Event] = []
        self._decoded = 0
        with contextlib.ExitStack() as on_failure:
            on_failure.push(self)
            if armed:
                self.wait_until(lambda: BANNER in self.stderr, "the banner")
            on_failure.pop_all()

    def __exit__(self, *_error: object) -> None:
        """Kill it if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(limit(10))
        self.hang_up()
        assert self.process.stderr
        self.process.stderr.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def stdout(self) -> str:
        """What it has written to stdout."""
        return self._data[self._stdout].decode()

    @property
    def stderr(self) -> str:
        """What it has written to stderr."""
        return self._data[self._stderr].decode()

    def has_lost(self) -> bool:
        """Tell whether it has said that events were lost."""
        self._read(0)
        return " lost" in self.stderr

    def look(self) -> None:
        """Read what it has written by now."""
        self._read(0)

    def hang_up_stderr(self) -> None:
        """Close the reading end of its stderr."""
        self._forget(self._stderr)
        assert self.process.stderr
        self.process.stderr.close()

    def hang_up(self) -> None:
        """Close the reading end of its stdout."""
        if self._stdout in self._open:
            self._forget(self._stdout)
        with contextlib.suppress(OSError):
            os.close(self._stdout)

    def _forget(self, descriptor: int) -> None:
        self._poll.unregister(descriptor)
        self._open.discard(descriptor)

    def _read(self, timeout_s: float) -> None:
        """Read what is there, waiting `timeout_s` at most for something."""
        for descriptor, _ in self._poll.poll(timeout_s * 1000):
            try:
                chunk = os.read(descriptor, 1 << 16)
            except OSError:  # a terminal whose other side was closed
                chunk = b""
            self._data[descriptor] += chunk
            if not chunk:
                self._forget(descriptor)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """Read its output until `condition` is true; fail if it ends before, or takes too long."""
        deadline = time.monotonic() + limit(30)
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0 or not self._open:
                pytest.fail(f"tcptrace did not show {what}; stderr: {self.stderr}")
            self._read(left)

    @property
    def events(self) -> list[Event]:
        """The JSON objects that it has written."""
        data = self._data[self._stdout]
        end = data.rfind(b"\n") + 1
        for line in data[self._decoded : end].splitlines():
            event = json.loads(line)
            self._events.append(event)
            SEEN[self._command, event["type"], event["backend"]].update(event)
        self._decoded = end
        return self._events

    def where(self, **fields: object) -> list[Event]:
        """Return the events that have these values, in order."""
        return [
            event
            for event in self.events
            if all(event.get(key) == value for key, value in fields.items())
        ]

    def wait_for(self, count: int = 1, **fields: object) -> list[Event]:
        """Wait until `count` events have these values; return them all, in order."""
        self.wait_until(lambda: len(self.where(**fields)) >= count, f"{count} events with {fields}")
        return self.where(**fields)

    def wait_for_rows(self, count: int) -> None:
        """Wait until so many lines are there, or events were lost: a stop leaves what is behind."""
        self.wait_until(
            lambda: (
                self._data[self._stdout].count(b"\n") >= count
                or b" lost" in self._data[self._stderr]
            ),
            f"{count} rows",
        )

    def ended(self) -> Ended:
        """Wait for its end; fail, with where it stands, if that does not come."""
        deadline = time.monotonic() + min(limit(30), MOST_S)
        while self._open and time.monotonic() < deadline:
            self._read(deadline - time.monotonic())
        try:
            return Ended(self.process.wait(limit(10)), self.stdout, self.stderr)
        except subprocess.TimeoutExpired:
            self._fail_where_it_stands()

    def _fail_where_it_stands(self) -> NoReturn:
        """Fail with what it and its children do in the kernel, and what it does in Python."""
        in_kernel = "\n".join(map(place_in_kernel, (self.pid, *children_of(self.pid))))
        self.process.send_signal(signal.SIGABRT)  # has Python write where it is
        deadline = time.monotonic() + limit(10)
        while self._open and time.monotonic() < deadline:
            self._read(deadline - time.monotonic())
        pytest.fail(f"tcptrace does not end:\n{in_kernel}\nstderr: {self.stderr}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> Ended:
        """Send a signal and wait for its end."""
        self.process.send_signal(number)
        return self.ended()


def stop_without_loss(tracer: Tracer) -> Ended:
    """Stop a tracer that has lost nothing.

    Skip the test where the kernel of a slow machine, which is interrupted amid many a probe, has
    skipped others, and tcptrace has said so; see docs/accept.md, Lost events.
    """
    ended = tracer.stop()
    if TIME_SCALE > 1 and SKIPPED in ended.stderr and NO_ROOM not in ended.stderr:
        not_offered("a machine whose kernel runs each probe each time; this one skipped some")
    assert (0, (len(tracer.events), 0)) == (ended.status, ended.summary)
    return ended


def ended_well(tracer: Tracer) -> Ended:
    """Stop a tracer that has lost nothing and complained of nothing; see `stop_without_loss`."""
    ended = stop_without_loss(tracer)
    assert [] == ended.complaints
    return ended


def check_losses(tracer: Tracer, make: Callable[[], Any], made: int) -> Ended:
    """Make events while a tracer stands still, and stop it: shown and lost are all that happened.

    It was started with --fail-on-loss.
    """
    tracer.process.send_signal(signal.SIGSTOP)
    Worker(make).run()
    tracer.process.send_signal(signal.SIGCONT)
    ended = tracer.stop()
    shown, lost = ended.summary
    assert 1 == ended.status
    assert lost > 0
    assert (made, shown) == (shown + lost, len(tracer.events))
    return ended


def run_tcptrace(*arguments: str, program: Sequence[str] = TCPTRACE, **options: Any) -> Ended:
    """Run tcptrace to its end."""
    done = subprocess.run(
        [*program, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit(30),
        **options,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def run_in_fork(*arguments: str) -> Ended:
    """Run tcptrace to its end in a fork of this process: Python takes seconds to start in a VM.

    It is for command lines that are refused, and killed where they are not.
    """

    def refuse() -> list[object]:
        sys.argv = ["tcptrace", *arguments]
        buffer, stderr = io.BytesIO(), io.StringIO()
        stdout = io.TextIOWrapper(buffer, write_through=True)
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            status = tcptrace.__main__.run()
        return [status, buffer.getvalue().decode(), stderr.getvalue()]

    return Ended(*Worker(refuse).run())


def import_path(first: Path) -> dict[str, str]:
    """Return the environment in which Python looks for modules in `first` before all others."""
    paths = [str(first), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
