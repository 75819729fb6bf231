"""The clock of the probes: CLOCK_MONOTONIC of the initial time namespace (time_namespaces(7))."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from tcptrace.kernel.processes import is_in_initial

OFFSETS = Path("/proc/self/timens_offsets")


def parse_offset(text: str) -> int:
    """Return what timens_offsets says that a namespace adds to the clock, in nanoseconds."""
    for line in text.splitlines():
        name, seconds, ns = line.split()
        if name == "monotonic":
            return int(seconds) * 1_000_000_000 + int(ns)
    return 0


@functools.cache
def _offset_ns() -> int:
    """Return how far the clock of this process's time namespace is ahead."""
    return 0 if is_in_initial("time") else parse_offset(OFFSETS.read_text())


def now_ns() -> int:
    """Return the time as `bpf_ktime_get_ns` and the probes of tracefs have it, in nanoseconds."""
    return time.monotonic_ns() - _offset_ns()
