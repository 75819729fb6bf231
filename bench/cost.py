"""Measure what an event costs, beside libbpf-tools and other versions. Run as root.

A storm of connections, in a network namespace of its own, is traced by one after the other, each
with its rows in a file. All that is compared is of one run, for machines are noisy. Printed are
medians of

- the tracer's CPU time for each row;
- the time of its BPF programs for each connection, as kernel.bpf_stats_enabled has it counted;
- what it adds to the CPU time of a connection, from connect(2) to close(2) at both ends;
- rows that are missing, memory afterwards, and CPU time while nothing comes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
LINGER_RESET = struct.pack("ii", 1, 0)  # close with a reset: no port stays in TIME_WAIT
SETTLED_S = 0.6
"""After so long a peer, which says nothing, is attached, and what was written is in the file."""
MOST_WAITS = 5
WITH_TRACEFS = ("unshare", "--mount", "sh", "-c")
MOUNTED = "mount -t tracefs tracefs /sys/kernel/tracing; exec {}"
"""How a peer is run that needs tracefs, which tcptrace does without."""
BACKLOG = 64
WARM = 500
"""Connections before those that are measured."""
PEERS = (("tcpconnect", 1), ("tcpstates", 9), ("tcptracer", 3))
"""Of libbpf-tools, with the rows that each writes for a connection."""
COMMANDS = (
    (("accept",), 1),
    (("accept", "--json"), 1),
    (("connect",), 1),
    (("connect", "--json"), 1),
    (("connect", "-c"), 0),
    (("tracer",), 4),
    (("tracer", "--json"), 4),
    (("tracer", "-o", "csv"), 4),
)


class Tool(NamedTuple):
    """Something that traces."""

    name: str
    command: tuple[str, ...]
    per_connection: int
    """Rows."""
    source: str = ""
    """Of tcptrace: the directory of another version's modules."""


class Cost(NamedTuple):
    """What a tool took in one round."""

    row_us: float
    kernel_us: float
    added_us: float
    missing: float
    resident_mb: float
    idle_percent: float


def storm() -> None:
    """Make connections as asked on standard input; answer with the CPU time of each, in us."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as server:
        address = server.getsockname()
        for line in sys.stdin:
            kind, number = line.split()
            made = 0
            until = time.monotonic() + float(number) if kind == "seconds" else float("inf")
            most = int(number) if kind == "count" else sys.maxsize
            began = time.process_time()
            while made < most and time.monotonic() < until:
                with socket.socket() as client:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
                    client.connect(address)
                    server.accept()[0].close()
                made += 1
            print(made, (time.process_time() - began) / max(1, made) * 1e6, flush=True)


class Storm:
    """The process that makes connections."""

    def __init__(self, cpu: int) -> None:
        """Start it on one processor."""
        pinned = ["taskset", "-c", str(cpu)] if shutil.which("taskset") else []
        self._process = subprocess.Popen(
            ["unshare", "--net", *pinned, sys.executable, __file__, "--storm"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """The process that makes them."""
        return self._process.pid

    @property
    def namespace(self) -> str:
        """The path of the network namespace where it makes them."""
        return f"/proc/{self._process.pid}/ns/net"

    def make(self, number: float, kind: str = "count") -> tuple[int, float]:
        """Make so many connections, or for so many seconds; return how many, and the us of each."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{kind} {number}\n")
        self._process.stdin.flush()
        made, us = self._process.stdout.readline().split()
        return int(made), float(us)

    def end(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def statistics_on() -> Iterator[None]:
    """Have the kernel count the time of BPF programs."""
    before = STATS.read_text(encoding="ascii")
    STATS.write_text("1", encoding="ascii")
    try:
        yield
    finally:
        STATS.write_text(before, encoding="ascii")


def held(pid: int, kind: str) -> set[int]:
    """Return the ids of BPF objects that a process holds: `prog_id` or `map_id`."""
    ids = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found = re.search(rf"^{kind}:\s+(\d+)", entry.read_text(encoding="ascii"), re.MULTILINE)
            ids |= {int(found[1])} if found else set()
    return ids


def programs_ns(pid: int, without: str = "") -> int:
    """Return how long a process's BPF programs have run, but for those whose name begins so.

    Those are its own that use its maps, too: it may hold them by what they are attached to alone.
    """
    programs, maps = held(pid, "prog_id"), held(pid, "map_id")
    listed = subprocess.run(["bpftool", "--json", "prog", "show"], capture_output=True, check=True)
    return sum(
        program.get("run_time_ns", 0)
        for program in json.loads(listed.stdout)
        if (program["id"] in programs or maps & set(program.get("map_ids", ())))
        and not (without and program.get("name", "").startswith(without))
    )


def cpu_ns(pid: int) -> int:
    """Return the CPU time that a process's first thread has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0])


def resident_mb(pid: int) -> float:
    """Return a process's resident memory in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0.0


@contextlib.contextmanager
def traced(tool: Tool, rows: Path, words: list[str] | None = None) -> Iterator[int]:
    """Run a tool that writes to a file; it is attached when the block begins.

    `words` gets what it says in the end.
    """
    with rows.open("wb") as out:
        process = subprocess.Popen(
            tool.command,
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | ({"PYTHONPATH": tool.source} if tool.source else {}),
        )
    assert process.stderr
    try:
        if "tcptrace" in tool.command:
            for line in process.stderr:
                if line.startswith("Tracing "):
                    break
        time.sleep(SETTLED_S)
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
        if words is not None:
            words += said.splitlines()


def settle(rows: Path) -> None:
    """Wait until nothing more is written, but not for what others go on making."""
    size = -1
    for _ in range(MOST_WAITS):
        if size == rows.stat().st_size:
            return
        size = rows.stat().st_size
        time.sleep(SETTLED_S)


def lines(rows: Path) -> int:
    """Return how many lines a file has."""
    with rows.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1 << 20), b""))


def measure(tool: Tool, storm: Storm, count: int, plain_us: float, idle_s: float) -> Cost:
    """Trace a storm with a tool."""
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / "rows"
        with traced(tool, rows) as pid:
            storm.make(WARM)
            settle(rows)
            lines_before, cpu_before = lines(rows), cpu_ns(pid)
            _, us = storm.make(count)
            settle(rows)
            cpu, written = cpu_ns(pid) - cpu_before, lines(rows) - lines_before
            resident = resident_mb(pid)
            with statistics_on():
                before = programs_ns(pid)
                storm.make(count)
                in_kernel = programs_ns(pid) - before
            settle(rows)
            quiet = cpu_ns(pid)
            time.sleep(idle_s)
            quiet = cpu_ns(pid) - quiet
    expected = count * tool.per_connection
    return Cost(
        cpu / (written or count) / 1e3,
        in_kernel / count / 1e3,
        us - plain_us,
        max(0.0, 100 * (1 - written / expected)) if expected else 0.0,
        resident,
        100 * quiet / (idle_s * 1e9) if idle_s else 0.0,
    )


def long_storm(tool: Tool, storm: Storm, seconds: float) -> None:
    """Print how many rows are missing after a storm of so many seconds."""
    if "tcptrace" in tool.command:  # others make connections meanwhile
        tool = tool._replace(command=(*tool.command, "--netns", storm.namespace))
    with tempfile.TemporaryDirectory() as place:
        rows = Path(place) / "rows"
        words: list[str] = []
        with traced(tool, rows, words):
            before = lines(rows)
            made, _ = storm.make(seconds, "seconds")
            settle(rows)
        missing = made * tool.per_connection - (lines(rows) - before)
        share = 100 * missing / (made * tool.per_connection)
    print(f"{tool.name}: {made} connections, {missing} rows missing ({share:.2f} %)")
    print(f"its own words: {words[-1]}" if words else "it said nothing")


def tools(also: Sequence[str], only: str) -> list[Tool]:
    """Return what is measured: tcptrace, other versions of it, and peers that are installed."""
    found = []
    for at, source in enumerate(("", *also)):
        for command, per_connection in COMMANDS:
            name = f"{'before: ' if at else ''}tcptrace {' '.join(command)}"
            whole = (sys.executable, "-m", "tcptrace", *command)
            found.append(Tool(name, whole, per_connection, source))
    for name, per_connection in PEERS:
        path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        if path:
            found.append(
                Tool(
                    f"{name} (libbpf-tools)", (*WITH_TRACEFS, MOUNTED.format(path)), per_connection
                )
            )
    return [tool for tool in found if re.search(only, tool.name)]


def main() -> None:
    """Measure and print everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storm", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--connections", type=int, default=10_000, help="of one storm")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=5, help="seconds without a storm")
    parser.add_argument("--long", type=float, default=0, help="seconds of a storm for losses")
    parser.add_argument("--also", action="append", default=[], help="src of another version")
    parser.add_argument(
        "--only", default="", help="tools whose names have this: a regular expression"
    )
    arguments = parser.parse_args()
    if arguments.storm:
        storm()
        return
    source = Storm(cpu=0)
    costs: dict[Tool, list[Cost]] = {}
    known = tools(arguments.also, arguments.only)
    for _ in range(arguments.rounds):
        for tool in known:
            source.make(WARM)
            plain_us = statistics.median(source.make(WARM)[1] for _ in range(9))
            cost = measure(tool, source, arguments.connections, plain_us, arguments.idle)
            costs.setdefault(tool, []).append(cost)
    print(
        f"{'':34} {'us/row':>7} {'kernel':>7} {'added':>7} {'lost %':>7} {'MiB':>6} {'idle %':>7}"
    )
    for tool, several in costs.items():
        row, in_kernel, added, missing, resident, idle = map(
            statistics.median, zip(*several, strict=True)
        )
        print(
            f"{tool.name:34} {row:7.2f} {in_kernel:7.2f} {added:7.1f} {missing:7.2f} "
            f"{resident:6.1f} {idle:7.3f}"
        )
    if arguments.long:
        for tool in known:
            long_storm(tool, source, arguments.long)
    source.end()


if __name__ == "__main__":
    main()
