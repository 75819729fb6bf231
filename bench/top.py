"""Measure what `tcptrace top` costs. Run as root; traffic stays on loopback.

Prints what listing sockets takes, and the processor's share and the memory of a run: with the
screen, idle and at two rates of new connections, both ends on this host.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import resource
import select
import signal
import socket
import statistics
import struct
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tcptrace.kernel import sock_diag

SOCKETS = 10_000
REPEATS = 7
RATES = (0, 1_000, 5_000)
MEASURED_S = 10.0
WARM_UP_S = 4.0
LINGER_RESET = struct.pack("ii", 1, 0)  # close with a reset: no port stays in TIME_WAIT
COMMANDS = (("top",), ("top", "-b"), ("top", "--json"))


def list_sockets() -> None:
    """Print how long it takes to list many sockets."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        for _ in range(SOCKETS // 2):
            held.enter_context(socket.create_connection(server.getsockname()))
            held.enter_context(server.accept()[0])
        took = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            assert sum(1 for _ in sock_diag.sockets()) >= SOCKETS
            took.append(time.perf_counter() - start)
    print(f"{SOCKETS} sockets listed: {statistics.median(took):.3f} s (at most {max(took):.3f})")


class Running:
    """tcptrace on a terminal of its own, whose output is read and thrown away."""

    def __init__(self, *arguments: str) -> None:
        """Start it, and wait until it shows something."""
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(sys.executable, [sys.executable, "-m", "tcptrace", *arguments])  # noqa: S606
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 200, 0, 0))
        self.read(WARM_UP_S)

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
        texts = [
            Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            for pid in self.processes()
        ]
        return sum(int(re.findall(r"Pss:\s+(\d+)", text)[0]) for text in texts) / 1024

    def stop(self) -> str:
        """End it; return the last that it says."""
        os.kill(self.pid, signal.SIGINT)
        said = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(self._terminal, 1 << 16):
                said = (said + chunk)[-2000:]
        os.waitpid(self.pid, 0)
        os.close(self._terminal)
        return said.decode(errors="replace").strip().splitlines()[-1]


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


def run(command: tuple[str, ...], rate: int) -> None:
    """Print what a run costs at a rate of new connections."""
    running = Running(*command)
    with traffic(rate):
        running.read(WARM_UP_S)
        before, begin = running.cpu_s(), time.monotonic()
        running.read(MEASURED_S)
        share = (running.cpu_s() - before) / (time.monotonic() - begin) * 100
        memory = running.memory_mb()
    said = running.stop()
    name = " ".join(command)
    print(f"{name:14} {rate:6} new a second: {share:5.1f} % of a core, {memory:5.1f} MiB; {said}")


def main() -> None:
    """Measure and print everything."""
    list_sockets()
    for command in COMMANDS:
        for rate in RATES:
            run(command, rate)


if __name__ == "__main__":
    main()
