#!/usr/bin/env python3
"""Measure recordings: how long half a million rows take to be kept, filtered and shown.

Prints microseconds of processor time per row. Root is not needed, nothing is traced.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tcptrace.model.kept import new_row
from tcptrace.model.losses import NOTHING_LOST
from tcptrace.model.meta import Meta
from tcptrace.probes.accept.probe import Accept
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.probes.tracer.records import Closed, Connected
from tcptrace.sinks.parquet import ParquetRecording
from tcptrace.sinks.recording import JsonLinesRecording

ROWS = 500_000
AT_ONCE = 1000
WANTED = 443
START_NS = 1_700_000_000_000_000_000
META = Meta("tracer", "tracepoint", "bench", "boot", "6.1", START_NS)
TCPTRACE = (sys.executable, "-m", "tcptrace")


def rows(port: int) -> Iterator[object]:
    """Yield rows of connections to a port: C, A and X by turns."""
    for number in range(ROWS):
        row = new_row((Connected, Accept, Closed)[number % 3])
        row.ts_ns = number * 1000
        row.wall_ns = START_NS + row.ts_ns
        row.pid = row.tid = 1000 + number % 50
        row.uid, row.comm, row.family = 1000, "service", 4
        row.laddr, row.raddr = f"10.0.{number % 200}.7", "10.1.0.9"
        row.lport, row.rport = 30_000 + number % 20_000, port
        row.netns, row.mntns, row.cgroup_id = 4_026_531_840, 4_026_531_841, 4242
        if isinstance(row, Closed):
            row.duration_ms, row.tx_bytes, row.rx_bytes = 1.5, 100, 200
            row.retransmits, row.ended_by = 0, "local"
        yield row


def cpu_seconds() -> float:
    """Return the processor time of this process and of the children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def show(name: str, seconds: float) -> None:
    """Print a line."""
    print(f"{name:48} {seconds / ROWS * 1e6:6.2f} us per row")


def keep(path: Path, port: int) -> None:
    """Write rows of a port to a recording, and print what that took."""
    form: type[JsonLinesRecording] | None = JsonLinesRecording if path.suffix == ".jsonl" else None
    kept = list(rows(port))
    began = cpu_seconds()
    sink = (
        form(str(path), force=True)
        if form
        else ParquetRecording(str(path), TRACER.shown, force=True)
    )
    sink.open(META)
    for at in range(0, ROWS, AT_ONCE):
        sink.write(kept[at : at + AT_ONCE])
        sink.flush()
    sink.close(NOTHING_LOST)
    show(f"-w {path.name}", cpu_seconds() - began)
    print(f"{'':48} {path.stat().st_size / ROWS:6.1f} bytes per row")


def read(path: Path, *options: str, name: str, base: float = 0.0) -> float:
    """Read a recording in a process of its own; print and return what that took."""
    command = (*TCPTRACE, "tracer", "-r", str(path), *options)
    began = cpu_seconds()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True)
    seconds = cpu_seconds() - began - base
    show(f"-r {path.name} {' '.join(options)}: {name}", seconds)
    return seconds


def main() -> None:
    """Measure and print everything."""
    with tempfile.TemporaryDirectory() as place:
        for suffix in (".parquet", ".jsonl"):
            for port in (WANTED, WANTED + 1):
                keep(Path(place, f"{port}{suffix}"), port)
            wanted = Path(place, f"{WANTED}{suffix}")
            other = Path(place, f"{WANTED + 1}{suffix}")
            read(other, "-P", str(WANTED), name="each row dropped")
            read(wanted, "-P", str(WANTED), name="each row shown")
            read(wanted, "--json", name="each row shown")


if __name__ == "__main__":
    main()
