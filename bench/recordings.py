#!/usr/bin/env python3
"""Measure recordings: what a quarter of a million connections cost to be kept, filtered, shown.

Prints microseconds of processor time, and bytes on disk, of a row or a connection, which has two.
Times, sequence numbers, ports and sizes are random, so that they cannot be compressed; a tenth of
the connections is of programs that make but one. Root is not needed, nothing is traced.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Any

from tcptrace.model.identity import Identity
from tcptrace.model.kept import new_row
from tcptrace.model.limits import Limits
from tcptrace.model.losses import NOTHING_LOST
from tcptrace.model.meta import Meta
from tcptrace.probes.dns.probe import ANSWERS
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.probes.tracer.records import Closed, Connected
from tcptrace.sinks.directory import DirectoryRecording
from tcptrace.sinks.parquet import ParquetRecording
from tcptrace.sinks.recording import JsonLinesRecording
from tcptrace.sinks.sink import Sink

CONNECTIONS = 250_000
ROWS = 2 * CONNECTIONS
AT_ONCE = 1000
PER_SECOND = 1000
WANTED, OTHER = 443, 444
SERVICES, SERVERS = 30, 500
START_NS = 1_700_000_000_000_000_000
META = Meta(
    "tracer",
    "tracepoint",
    "bench",
    "0b4e1c8c-9a51-4b3d-a1a2-6b7a7d1d0c2e",
    "6.1",
    START_NS,
    companions=(ANSWERS.name,),
)
TCPTRACE = (sys.executable, "-m", "tcptrace")


def pair(chance: random.Random, number: int, begun_ns: int, port: int) -> tuple[Any, Any]:
    """Return the beginning and the end of a connection."""
    service = min(int(chance.paretovariate(0.7)), SERVICES)
    server = min(int(chance.paretovariate(0.5)), SERVERS)
    short = chance.random() < 0.1
    unit = f"service{service}.service"
    common: dict[str, Any] = {
        "pid": 20_000 + number if short else 1000 + 10 * service + chance.randrange(4),
        "uid": 1000 + service % 5,
        "comm": f"service{service}",
        "family": 4,
        "laddr": "10.0.0.7",
        "lport": chance.randrange(32_768, 60_999),
        "raddr": f"10.1.{server // 250}.{server % 250}",
        "rport": port,
        "netns": 4_026_531_840 + service % 10,
        "mntns": 4_026_532_840 + service % 10,
        "cgroup_id": 5000 + service,
        "iss": chance.getrandbits(32),
        "irs": chance.getrandbits(32),
        "identity": Identity(cgroup=f"/system.slice/{unit}", unit=unit),
    }
    duration_ns = int(chance.lognormvariate(16, 2))
    latency_ns = int(chance.lognormvariate(13, 1))
    beginning, end = new_row(Connected), new_row(Closed)
    for row, ts_ns in ((beginning, begun_ns), (end, begun_ns + duration_ns)):
        for key, value in common.items():
            setattr(row, key, value)
        row.tid, row.ts_ns, row.wall_ns = row.pid, ts_ns, START_NS + ts_ns
    beginning.outcome, beginning.latency_ms = "established", latency_ns / 1e6
    beginning.query = f"server{server}.example.org"
    beginning.query_age_ms = chance.randrange(10**10) / 1e6
    end.duration_ms, end.ended_by = duration_ns / 1e6, "local"
    end.tx_bytes = int(chance.lognormvariate(6, 1.5))
    end.rx_bytes = int(chance.lognormvariate(8, 2))
    end.retransmits = int(chance.random() < 0.01)
    return beginning, end


def make_rows(port: int) -> list[Any]:
    """Return rows of connections to a port, in their order."""
    chance = random.Random(port)  # noqa: S311 - for data, not for secrets
    rows, ts_ns = [], 0
    for number in range(CONNECTIONS):
        ts_ns += int(chance.expovariate(PER_SECOND) * 1e9)
        rows += pair(chance, number, ts_ns, port)
    return sorted(rows, key=attrgetter("ts_ns"))


def cpu_seconds() -> float:
    """Return the processor time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def show(name: str, seconds: float, count: int = ROWS, of: str = "row") -> None:
    """Print a line."""
    print(f"{name:56} {seconds / count * 1e6:7.2f} us per {of}")


def size_of(path: Path) -> int:
    """Return how many bytes a recording takes."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def keep(name: str, path: Path, make: Callable[[], Sink], rows: list[Any], group: int) -> None:
    """Write rows to a recording, and print what that took; each `group` of them is as of 9 s."""
    began = cpu_seconds()
    sink = make()
    sink.open(META)
    for at in range(0, ROWS, AT_ONCE):
        sink.write(rows[at : at + AT_ONCE])
        if at % group == 0 and isinstance(sink, DirectoryRecording):
            sink._write_group()
        sink.flush()
    sink.close(NOTHING_LOST)
    show(f"-w {name}", cpu_seconds() - began, CONNECTIONS, "connection")
    print(f"{'':56} {size_of(path) / CONNECTIONS:7.1f} bytes per connection")


def read(path: Path, *options: str, name: str) -> None:
    """Read a recording in a process of its own; print what that took."""
    command = (*TCPTRACE, "tracer", "-d", "-r", str(path), *options)
    began = cpu_seconds()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    show(f"-r {path.name} {' '.join(options)}: {name}", cpu_seconds() - began)


def recorder(path: Path) -> DirectoryRecording:
    """Return a recording in a directory."""
    return DirectoryRecording(str(path), "tracer", TRACER.row_classes, Limits(), print)


def main() -> None:
    """Measure and print everything."""
    rows = make_rows(WANTED)
    with tempfile.TemporaryDirectory() as place:
        large, small = Path(place, "large"), Path(place, "small")
        keep("DIR/, 65536 rows in 9 s", large, lambda: recorder(large), rows, 1 << 16)
        keep("DIR/, 5000 rows in 9 s", small, lambda: recorder(small), rows, 5000)
        parquet, lines = Path(place, "x.parquet"), Path(place, "x.jsonl")
        keep(
            "FILE.parquet",
            parquet,
            lambda: ParquetRecording(str(parquet), TRACER.row_classes, force=True),
            rows,
            ROWS,
        )
        keep("FILE.jsonl", lines, lambda: JsonLinesRecording(str(lines), force=True), rows, ROWS)
        for path in (large, parquet, lines):
            read(path, "-P", str(OTHER), name="each row dropped")
            read(path, "-P", str(WANTED), name="each row shown")


if __name__ == "__main__":
    main()
