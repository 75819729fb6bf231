"""Measure `tcptrace accept`: start-up, memory, throughput and cost. Run as root.

Prints medians and ranges; compare figures of one run only, for machines are noisy. Traffic stays on
loopback.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterator
from pathlib import Path

TCPTRACE = [sys.executable, "-m", "tcptrace"]
REPEATS = 7
ACCEPTS = 10_000
LINGER_RESET = struct.pack("ii", 1, 0)  # close with a reset: no port stays in TIME_WAIT


def show(name: str, values: list[float], unit: str) -> None:
    """Print the median and the range of `values`."""
    low, high = min(values), max(values)
    print(f"{name:44} {statistics.median(values):10.3f} {unit:10} ({low:.3f} to {high:.3f})")


@contextlib.contextmanager
def tracer(*options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `tcptrace accept` until the block ends; it is attached when the block begins."""
    process = subprocess.Popen(
        [*TCPTRACE, "accept", *options],
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


def armed() -> float:
    """Return the seconds from the start until the probes are attached."""
    start = time.perf_counter()
    with tracer():
        return time.perf_counter() - start


def resident_mb() -> float:
    """Return the resident memory of the tracing process in MiB, once it traces."""
    with tracer() as process:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


def accept_all(server: socket.socket, count: int) -> None:
    """Accept `count` connections and close them."""
    for _ in range(count):
        server.accept()[0].close()


def burst(count: int) -> float:
    """Make `count` loopback connections at full speed; return the seconds it takes."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as server:
        acceptor = threading.Thread(target=accept_all, args=(server, count))
        start = time.perf_counter()
        acceptor.start()
        for _ in range(count):
            with socket.create_connection(server.getsockname()) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        acceptor.join()
        return time.perf_counter() - start


def traced_burst() -> tuple[float, int, float]:
    """Return a traced burst's seconds, the events missing, and the tracer's CPU µs per event."""
    with tracer("--json", "-p", str(os.getpid())) as process:
        assert process.stdout
        lines: list[str] = []
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        before = cpu_seconds(process.pid)
        took = burst(ACCEPTS)
        deadline = time.monotonic() + 5
        while len(lines) < ACCEPTS and time.monotonic() < deadline:
            time.sleep(0.05)
        used = cpu_seconds(process.pid) - before
        process.send_signal(signal.SIGINT)
        reader.join()
    return took, ACCEPTS - len(lines), used / ACCEPTS * 1e6


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure and print everything."""
    show("--help", [seconds(run_help) for _ in range(REPEATS)], "s")
    show("armed after", [armed() for _ in range(REPEATS)], "s")
    show("resident while tracing", [resident_mb() for _ in range(3)], "MiB")
    pairs = [(burst(ACCEPTS), traced_burst()) for _ in range(3)]
    show(f"{ACCEPTS} accepts, untraced", [plain for plain, _ in pairs], "s")
    show(f"{ACCEPTS} accepts, traced", [took for _, (took, _, _) in pairs], "s")
    show("traced / untraced", [took / plain for plain, (took, _, _) in pairs], "")
    show("events missing", [missing for _, (_, missing, _) in pairs], "")
    show("the tracer's CPU time per event", [cost for _, (_, _, cost) in pairs], "us")


if __name__ == "__main__":
    main()
