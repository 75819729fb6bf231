"""Tools of others as processes, to trace beside: bcc's and libbpf-tools'.

Their rows are read as they are, under our JSON's names, so that a test can say of each what it
shows. They keep 12 bytes of a command's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from tests.kernel.harness import TIME_SCALE, Event
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import DUAL, NOBODY, V4, V6, Actor

Row = dict[str, object]
Record = Callable[[str, object], None]
"""pytest's `record_property`; tests/vm/run.py prints what it is given."""

COMM_BYTES = 12
NUMBERS = ("pid", "uid", "family", "lport", "rport", "connects")
FORMS = {"comm": f".{{{COMM_BYTES}}}", "query": ".*", **dict.fromkeys(NUMBERS, "[0-9]+")}
INSTALL = "install bpfcc-tools and libbpf-tools, or run ./setup.sh test"


@dataclasses.dataclass(frozen=True, slots=True)
class Tool:
    """A command line of somebody else's, and how its rows read."""

    name: str
    command: tuple[str, ...]
    package: str
    """The Debian package that it is from."""
    keys: tuple[str, ...]
    """Its columns from the left, by our JSON's names."""
    heading: str = "PID "
    """What begins the line that it writes when its probes are attached."""

    def row(self, line: str) -> Row | None:
        """Return one of its lines as a row; None for what is none, as its heading."""
        form = " +".join(f"({FORMS.get(key, '[^ ]+')})" for key in self.keys)
        match = re.fullmatch(f"{form} *", line)
        if not match:
            return None
        cells = zip(self.keys, match.groups(), strict=True)
        return {key: int(text) if key in NUMBERS else text.rstrip() for key, text in cells}

    def row_of(self, event: Event) -> Row:
        """Return the row that says what one of our events says."""
        comm = event["comm"].encode()[:COMM_BYTES].decode().rstrip()
        return {key: {**event, "comm": comm}.get(key) for key in self.keys}

    def version(self) -> str:
        """Return its package's name and version."""
        query = ("dpkg-query", "--show", "--showformat", "${Package} ${Version}", self.package)
        return subprocess.run(query, check=True, capture_output=True, text=True).stdout


def bcc(name: str, *keys: str, options: Iterable[str] = (), heading: str = "PID ") -> Tool:
    """Return one of bcc's tools; it runs in our environment, which has what ``-d`` imports."""
    program = shutil.which(f"{name}-bpfcc") or pytest.fail(f"{name}-bpfcc is missing; {INSTALL}")
    return Tool("bcc", (sys.executable, program, *options), "bpfcc-tools", keys, heading)


def libbpf_tools(name: str, *keys: str, options: Iterable[str] = (), heading: str = "PID ") -> Tool:
    """Return one of libbpf-tools, which would keep its lines back when it writes to a file."""
    program = shutil.which(name) or pytest.fail(f"{name} is missing; {INSTALL}")
    command = ("stdbuf", "--output=L", program, *options)
    return Tool("libbpf-tools", command, "libbpf-tools", keys, heading)


class Peer(contextlib.AbstractContextManager["Peer"]):
    """A tool as a process."""

    def __init__(self, tool: Tool) -> None:
        """Start it; its output goes to files without names."""
        self.tool = tool
        self._stdout = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            tool.command,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    def __exit__(self, *_error: object) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self._stdout.close()
        self._stderr.close()

    def lines(self) -> list[str]:
        """Return the lines that it has written so far."""
        return _text(self._stdout.fileno()).splitlines()

    def rows(self, **fields: object) -> list[Row]:
        """Return the rows that have these values, in order; fail when it has ended."""
        if self._process.poll() is not None:
            pytest.fail(f"{self.tool.name} ended: {_text(self._stderr.fileno())[-2000:]}")
        rows = filter(None, map(self.tool.row, self.lines()))
        return [row for row in rows if row.items() >= fields.items()]

    def wait_until_armed(self) -> None:
        """Wait for its heading."""
        wait(lambda: self._says(self.tool.heading), f"{self.tool.name}'s heading")

    def _says(self, heading: str) -> bool:
        self.rows()
        return any(line.startswith(heading) for line in self.lines())

    def links(self) -> int:
        """Return how many probes it holds attached as BPF links."""
        names = Path(f"/proc/{self._process.pid}/fd").iterdir()
        return sum("bpf_link" in str(name.readlink()) for name in names)

    def interrupt(self) -> list[Row]:
        """End it as Ctrl-C does; return all its rows."""
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30 * TIME_SCALE)
        return list(filter(None, map(self.tool.row, self.lines())))


def _text(descriptor: int) -> str:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")


def wait(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` is true, looking seldom: bcc needs minutes in an emulated machine."""
    deadline = time.monotonic() + 30 * TIME_SCALE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


COMPILED, KEPT = "tcptrace", "tcptrace with kept programs"


@dataclasses.dataclass(frozen=True, slots=True)
class Company:
    """Our command and the tools beside it, armed, and the seconds that each took."""

    ours: Tracer
    peers: dict[str, Peer]
    """By the tool's name."""
    seconds: dict[str, float]

    @property
    def is_early(self) -> bool:
        """Whether ours was armed in half the time of bcc's, and in a fifth from kept programs.

        The machine's processors are emulated in one thread, so nothing is done at the same time.
        """
        bcc = self.seconds["bcc"]
        return self.seconds[COMPILED] * 2 <= bcc and self.seconds[KEPT] * 5 <= bcc

    def catch_up(self, make: Callable[[], Event]) -> None:
        """Make two events, one after the other; return when all have shown them.

        Then all have shown what was before: bcc's tools read one buffer behind the other.
        """
        for _ in range(2):
            event = make()
            ends = {key: event[key] for key in ("lport", "rport")}
            self.ours.wait_for(**ends)
            for peer in self.peers.values():
                wait(lambda: bool(peer.rows(**ends)), f"{ends} from {peer.tool.name}")  # noqa: B023

    def record(self, command: str, record_property: Record) -> None:
        """Record when each was armed, and the tools' versions."""
        for name, seconds in self.seconds.items():
            record_property(f"{command} beside: {name} armed after", f"{seconds:.1f} s")
        for peer in self.peers.values():
            record_property("version", peer.tool.version())


def _armed_once(command: str, *options: str) -> float:
    """Return the seconds that our command took until its probes were attached; it is ended."""
    started = time.monotonic()
    with Tracer("--json", *options, command=command):
        return time.monotonic() - started


@contextlib.contextmanager
def company(
    command: str, *tools: Tool, make: Callable[[], Event], options: Iterable[str] = ()
) -> Iterator[Company]:
    """Start our command and the tools, one after the other, when their files have been read.

    Args:
        command: ours.
        tools: of others.
        make: makes an event that each of them shows; what they show first is not to be relied on,
            since bcc writes its heading before it reads.
        options: of ours.

    """
    for warm_up in (("-c", "import bcc"), ("-m", "tcptrace", command, "--help")):
        subprocess.run([sys.executable, *warm_up], check=True, capture_output=True)
    seconds = {COMPILED: _armed_once(command, "--no-cache", *options)}
    _armed_once(command, *options)  # keeps its programs
    peers = {}
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(Tracer("--json", *options, command=command))
        seconds[KEPT] = time.monotonic() - started
        for tool in tools:
            started = time.monotonic()
            peers[tool.name] = peer = stack.enter_context(Peer(tool))
            peer.wait_until_armed()
            seconds[tool.name] = time.monotonic() - started
            wait(lambda: bool(make() and peer.rows()), f"a row from {tool.name}")  # noqa: B023
        yield Company(ours, peers, seconds)


def actors() -> dict[str, Actor]:
    """Return those who connect and accept, each in one process."""
    return {
        "v4": Actor(V4),
        "v6": Actor(V6),
        "mapped": Actor(DUAL, V4),
        "v6 on a dual server": Actor(DUAL, V6),
        "another user": Actor(V4, uid=NOBODY),
        "a long name": Actor(V6, comm=b"fifteen-letters"),
        "a name of words": Actor(V4, comm=b"two words"),
        "another network namespace": Actor(V4, new_netns=True),
        "another mount namespace": Actor(V4, new_mntns=True),
    }
