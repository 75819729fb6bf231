"""Measure the tracing commands: start-up, memory, and cost under load. Run as root.

Prints medians and ranges; compare figures of one run only, for machines are noisy. Traffic stays on
loopback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

TCPTRACE = [sys.executable, "-m", "tcptrace"]
REPEATS = 7
CONNECTIONS = 10_000
# With the events that each gives for a connection.
COMMANDS = {
    ("accept",): 1,
    ("connect",): 1,
    ("connect", "--outcome"): 1,
    ("connect", "-d"): 1,
    ("connect", "-c"): 0,
    ("tracer",): 4,
}
LINGER_RESET = struct.pack("ii", 1, 0)  # close with a reset: no port stays in TIME_WAIT


def show(name: str, values: list[float], unit: str) -> None:
    """Print the median and the range of `values`."""
    low, high = min(values), max(values)
    print(f"{name:44} {statistics.median(values):10.3f} {unit:10} ({low:.3f} to {high:.3f})")


@contextlib.contextmanager
def tracer(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run tcptrace until the block ends; it is attached when the block begins."""
    process = subprocess.Popen(
        [*TCPTRACE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    for line in process.stderr:
        if line.startswith("Tracing "):
            break
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.communicate()


def seconds(work: Callable[[], object]) -> float:
    """Return how long `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def run_help() -> None:
    """Print the help text."""
    subprocess.run([*TCPTRACE, "--help"], stdout=subprocess.DEVNULL, check=True)


def armed(command: Sequence[str]) -> float:
    """Return the seconds from the start until the probes are attached."""
    start = time.perf_counter()
    with tracer(*command):
        return time.perf_counter() - start


def resident_mb(process: subprocess.Popen[str]) -> float:
    """Return a process's resident memory in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def accept_all(server: socket.socket) -> None:
    """Accept all connections and close them."""
    for _ in range(CONNECTIONS):
        server.accept()[0].close()


def burst() -> float:
    """Make connections at full speed; return the seconds that it takes."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        acceptor = threading.Thread(target=accept_all, args=(server,))
        start = time.perf_counter()
        acceptor.start()
        for _ in range(CONNECTIONS):
            with socket.create_connection(server.getsockname()) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        acceptor.join()
        return time.perf_counter() - start


@dataclasses.dataclass
class Traced:
    """A burst under a tracer."""

    seconds: float
    missing: int
    """Events that were not written."""
    cpu_us: float
    """The tracer's CPU time for each event, or each connection that it counted."""
    resident_mb: float


def traced_burst(command: Sequence[str], per_connection: int) -> Traced:
    """Make a burst while a command traces this process."""
    expected = CONNECTIONS * per_connection
    with tracer(*command, "--json", "-p", str(os.getpid())) as process:
        assert process.stdout
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        before = cpu_seconds(process.pid)
        took = burst()
        deadline = time.monotonic() + 5
        while len(lines) < expected and time.monotonic() < deadline:
            time.sleep(0.05)
        used = cpu_seconds(process.pid) - before
        resident = resident_mb(process)
        missing = expected - len(lines)
        process.send_signal(signal.SIGINT)
        reader.join()
    return Traced(took, missing, used / (expected or CONNECTIONS) * 1e6, resident)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print everything."""
    show("--help", [seconds(run_help) for _ in range(REPEATS)], "s")
    for command, per_connection in COMMANDS.items():
        print(f"\ntcptrace {' '.join(command)}")
        show("armed after", [armed(command) for _ in range(REPEATS)], "s")
        pairs = [(burst(), traced_burst(command, per_connection)) for _ in range(3)]
        traced = [one for _, one in pairs]
        show(f"{CONNECTIONS} connections, untraced", [plain for plain, _ in pairs], "s")
        show("traced / untraced", [one.seconds / plain for plain, one in pairs], "")
        show("events missing", [one.missing for one in traced], "")
        show("the tracer's CPU time per event", [one.cpu_us for one in traced], "us")
        show("resident memory afterwards", [one.resident_mb for one in traced], "MiB")


if __name__ == "__main__":
    main()
