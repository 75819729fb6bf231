"""Measure what `tcptrace top` costs, beside bcc's tcptop. Run as root; traffic stays on loopback.

Prints what listing sockets takes, and the processor's share and the memory of a run: with the
screen, idle and at two rates of new connections, both ends on this host. tcptop needs kprobes,
which not every kernel has: `nox -s bench -- vm 6.1` measures both where there are. It counts bytes
alone, of processes and connections, by functions that run with each send and receive.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tcptrace.kernel import sock_diag

SOCKETS = 10_000
REPEATS = 7
RATES = (0, 1_000, 5_000)
MEASURED_S = 10.0
WARM_UP_S = 4.0
LINGER_RESET = struct.pack("ii", 1, 0)  # close with a reset: no port stays in TIME_WAIT
PATIENCE_S = 300.0
"""Under emulation, a peer compiles for minutes."""


class Tool(NamedTuple):
    """Something that shows who talks to whom."""

    name: str
    command: tuple[str, ...]
    ready: bytes = b"Tracing"
    """What it says when it is attached."""


def tools() -> Iterator[Tool]:
    """Yield those that are here."""
    for words in (("top",), ("top", "-b"), ("top", "--json")):
        yield Tool(" ".join(words), (sys.executable, "-m", "tcptrace", *words))
    path = os.environ["PATH"] + ":/usr/sbin"
    tcptop = shutil.which("tcptop-bpfcc", path=path) or shutil.which("tcptop", path=path)
    if tcptop:
        yield Tool("tcptop of bcc", (tcptop, "-C", "1"))


def list_sockets(count: int) -> None:
    """Print how long it takes to list many sockets."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        for _ in range(count // 2):
            held.enter_context(socket.create_connection(server.getsockname()))
            held.enter_context(server.accept()[0])
        took = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            assert sum(1 for _ in sock_diag.sockets()) >= count
            took.append(time.perf_counter() - start)
    print(f"{count} sockets listed: {statistics.median(took):.3f} s (at most {max(took):.3f})")


class Running:
    """A tool on a terminal of its own, whose output is read and thrown away."""

    def __init__(self, tool: Tool) -> None:
        """Start it, and wait until it is attached. Raises RuntimeError where it cannot be."""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(tool.command[0], tool.command)  # noqa: S606
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
        self._wait_for(tool)
        self.read(WARM_UP_S)

    def _wait_for(self, tool: Tool) -> None:
        """Wait until a tool says that it is attached."""
        said, deadline = b"", time.monotonic() + PATIENCE_S
        while tool.ready not in said:
            try:
                if select.select([self._terminal], [], [], deadline - time.monotonic())[0]:
                    said += os.read(self._terminal, 1 << 16)
                    continue
            except (OSError, ValueError):  # it has ended, or there is no time left
                pass
            self.stop()
            lines = said.decode(errors="replace").strip().splitlines() or [""]
            raise RuntimeError(lines[-1])

    def read(self, seconds: float) -> None:
        """Read for some time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self._terminal], [], [], left)[0]:
                os.read(self._terminal, 1 << 16)

    def processes(self) -> Iterator[int]:
        """Yield the ids of it and of its children."""
        yield self.pid
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text(encoding="ascii")
        yield from map(int, children.split())

    def cpu_s(self) -> float:
        """Return the processor time that it and its children have used, all threads.

        It is what the scheduler has counted: the ticks of /proc/PID/stat miss short work.
        """
        tasks = [path for pid in self.processes() for path in Path(f"/proc/{pid}/task").iterdir()]
        times = [(path / "schedstat").read_text(encoding="ascii").split()[0] for path in tasks]
        return sum(map(int, times)) / 1e9

    def memory_mb(self) -> float:
        """Return its memory and its children's, shared pages once."""
        return sum(map(pss_kb, self.processes())) / 1024

    def stop(self) -> str:
        """End it; return the last that it says."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGINT)
        said = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(self._terminal, 1 << 16):
                said = (said + chunk)[-2000:]
        os.waitpid(self.pid, 0)
        os.close(self._terminal)
        return (said.decode(errors="replace").strip().splitlines() or [""])[-1]


def pss_kb(pid: int) -> int:
    """Return the memory of a process, shared pages once; 0 where it has just ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(re.findall(r"Pss:\s+(\d+)", text)[0])


def connect_at(rate: int, stop: threading.Event) -> int:
    """Make connections in a forked process, evenly, until `stop`; return how many."""
    made, begin = 0, time.monotonic()
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        while not stop.is_set():
            while made < (time.monotonic() - begin) * rate and not stop.is_set():
                with socket.create_connection(server.getsockname()) as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
                    server.accept()[0].close()
                made += 1
            time.sleep(0.002)
    return int(made / (time.monotonic() - begin))


@contextlib.contextmanager
def traffic(rate: int) -> Iterator[None]:
    """Make connections in a process of its own."""
    pid = os.fork()
    if pid == 0:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        made = connect_at(rate, stop) if rate else 0
        if rate:
            print(f"    ({made} connections a second were made)", flush=True)
        os._exit(0)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)


def run(tool: Tool, rate: int, seconds: float) -> None:
    """Print what a run costs at a rate of new connections."""
    try:
        running = Running(tool)
    except RuntimeError as error:
        print(f"{tool.name:14} does not run here: {error}")
        return
    with traffic(rate):
        running.read(WARM_UP_S)
        before, begin = running.cpu_s(), time.monotonic()
        running.read(seconds)
        share = (running.cpu_s() - before) / (time.monotonic() - begin) * 100
        memory = running.memory_mb()
    said = running.stop()
    print(
        f"{tool.name:14} {rate:6} new a second: {share:5.1f} % of a core, {memory:5.1f} MiB; {said}"
    )


def numbers(text: str) -> Sequence[int]:
    """Read 0,1000."""
    return [int(word) for word in text.split(",")]


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", type=numbers, default=RATES, help="connections a second: 0,1000")
    parser.add_argument("--seconds", type=float, default=MEASURED_S, help="of each measurement")
    parser.add_argument("--sockets", type=int, default=SOCKETS, help="that are listed; 0 for none")
    parser.add_argument("--only", default="", help="a pattern of the tools' names")
    given = parser.parse_args()
    if given.sockets:
        list_sockets(given.sockets)
    for tool in tools():
        for rate in given.rates if re.search(given.only, tool.name) else ():
            run(tool, rate, given.seconds)


if __name__ == "__main__":
    main()
