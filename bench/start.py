"""Measure how long commands take to start: compiled, and from kept programs. Run as root.

All are started in turn, so that what else the machine does falls on each of them alike; compare
figures of one run only. Other tracers that are installed are measured beside.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

TCPTRACE = (sys.executable, "-m", "tcptrace")
COMMANDS = ("accept", "connect", "connect -d", "tracer", "dns")
FOLLOWING = ("connect", "connect --who")
REPEATS = 9
BANNER = b"Tracing "
# With the beginning of what they print when attached; some would keep it back from a pipe.
PEERS = {
    "bpftrace, tcpaccept.bt": (("bpftrace", "/usr/sbin/tcpaccept.bt"), b"Tracing"),
    "libbpf-tools, tcpconnect": (("stdbuf", "--output=L", "tcpconnect"), b"PID"),
    "bcc, tcpaccept": (("env", "PYTHONUNBUFFERED=1", "tcpaccept-bpfcc"), b"PID"),
}


def armed(command: Sequence[str], sign: bytes, environment: Mapping[str, str]) -> float:
    """Return the seconds from a tracer's start until it says that it is attached."""
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )
    assert process.stdout
    try:
        for line in process.stdout:
            if line.lstrip().startswith(sign):
                return time.perf_counter() - start
        raise RuntimeError(f"{' '.join(command)} ended before it was attached")
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


def ended(command: Sequence[str]) -> float:
    """Return the seconds that a program takes from its start to its end."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def run_whole(command: Sequence[str], environment: Mapping[str, str]) -> float:
    """Return the seconds that `-- true` takes from the start of a tracer to its end."""
    start = time.perf_counter()
    arguments = (*command, "--", "true")
    subprocess.run(arguments, stderr=subprocess.DEVNULL, env=environment, check=True)
    return time.perf_counter() - start


def peers(environment: Mapping[str, str]) -> dict[str, tuple[Sequence[str], bytes]]:
    """Return the other tracers that are installed and that this kernel permits."""
    found = {}
    for name, (command, sign) in PEERS.items():
        if shutil.which(command[-1]):
            with contextlib.suppress(RuntimeError):
                armed(command, sign, environment)
                found[name] = command, sign
    return found


def measure(
    repeats: int, commands: Sequence[str], environment: Mapping[str, str], *, compiles: bool
) -> dict[str, list[float]]:
    """Start everything in turn; return the seconds by name."""
    times: defaultdict[str, list[float]] = defaultdict(list)
    others = peers(environment)
    for number in range(repeats + 1):
        taken: dict[str, float] = {
            "Python alone": ended((sys.executable, "-c", "pass")),
            "--help": ended((*TCPTRACE, "--help")),
            "true": ended(("true",)),
        }
        for name in commands:
            command = (*TCPTRACE, *name.split())
            if compiles:
                taken[f"{name}, compiled"] = armed((*command, "--no-cache"), BANNER, environment)
            taken[f"{name}, kept"] = armed(command, BANNER, environment)
        for name in FOLLOWING:
            command = (*TCPTRACE, *name.split())
            taken[f"{name} -- true, kept"] = armed((*command, "--", "true"), BANNER, environment)
            taken[f"{name} -- true, kept, to its end"] = run_whole(command, environment)
        for name, (command, sign) in others.items():
            taken[name] = armed(command, sign, environment)
        if number:  # in the first round, programs are compiled and files read from disk
            for name, seconds in taken.items():
                times[name].append(seconds)
    return times


def main() -> None:
    """Measure, and print a table for docs/performance.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--kept-only", action="store_true", help="compile nothing that is measured")
    parser.add_argument("commands", nargs="*", default=COMMANDS, metavar="COMMAND")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        environment = {**os.environ, "CACHE_DIRECTORY": place}
        times = measure(given.repeats, given.commands, environment, compiles=not given.kept_only)
    print(f"Linux {os.uname().release}, medians of {given.repeats}, in seconds\n")
    print("| started | after | range |\n| --- | --- | --- |")
    for name, values in times.items():
        print(
            f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |"
        )


if __name__ == "__main__":
    main()
