"""Measure what `--who` costs, and whether it tells of processes that end at once. Run as root.

- The time of all BPF programs for an event, as kernel.bpf_stats_enabled has it counted, with and
  without `--who`: of one process that goes on, and of processes of one event each. The least of
  several rounds, in us: programs run for connections of the whole host.
- A storm of processes that connect once and end, by several parents at once: how many rows have the
  program, arguments and parent that the storm knows of. It is run with `-- COMMAND`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cost import Tool, programs_ns, statistics_on, traced

ADDRESS = ("127.0.0.1", 9)
"""Where nobody listens."""
BUSYBOX = os.path.realpath(shutil.which("busybox") or "/bin/busybox")
OF_OTHERS = "connect_on_swit"
"""A program that runs when any process of the host gives way: it is left out."""
TCPTRACE = (sys.executable, "-m", "tcptrace")


def attempt() -> None:
    """Try to connect."""
    with socket.socket() as client:
        client.connect_ex(ADDRESS)


def by_itself(count: int) -> None:
    """Try so many times, in this process."""
    for _ in range(count):
        attempt()


def by_others(count: int) -> None:
    """Try so many times, each in a process of its own."""
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            attempt()
            os._exit(0)
        os.waitpid(pid, 0)


MAKERS = {"one process": by_itself, "a process each": by_others}


def event_us(options: tuple[str, ...], count: int, rounds: int) -> dict[str, float]:
    """Return how long all programs run for an event, in us, by who makes it."""
    port = str(ADDRESS[1])
    tool = Tool("", (*TCPTRACE, "connect", "--json", "-P", port, *options), 1)
    least: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as place,
        traced(tool, Path(place) / "rows") as pid,
        statistics_on(),
    ):
        for name, make in [*MAKERS.items()] * rounds:
            before = programs_ns(pid, OF_OTHERS)
            make(count)
            taken = (programs_ns(pid, OF_OTHERS) - before) / count / 1e3
            least[name] = min(taken, least.get(name, taken))
    return least


def print_costs(count: int, rounds: int) -> None:
    """Print what an event costs."""
    without, with_who = (event_us(options, count, rounds) for options in ((), ("--who",)))
    for name, us in without.items():
        more = with_who[name] - us
        print(f"{name:16} {us:5.2f} us, with --who {with_who[name]:5.2f} us: {more:5.2f} more")


def breed(numbers: Iterator[int], file: Path) -> None:
    """Run a short process for each number, one after the other; tell what was run."""
    with file.open("w") as told:
        for number in numbers:
            arguments = [f"/{number}/nc", "-w", "1", ADDRESS[0], str(ADDRESS[1])]
            pid = os.posix_spawn(
                BUSYBOX, arguments, os.environ, file_actions=[(os.POSIX_SPAWN_CLOSE, 2)]
            )
            os.waitpid(pid, 0)
            told.write(json.dumps([pid, os.getpid(), BUSYBOX, arguments]) + "\n")


def storm(count: int, parents: int, place: Path) -> None:
    """Run so many short processes by several parents at once."""
    for number in range(parents):
        if os.fork() == 0:
            breed(iter(range(number, count, parents)), place / f"made{number}")
            os._exit(0)
    for _ in range(parents):
        os.wait()


def print_storm(count: int, parents: int) -> None:
    """Print how many of a storm's processes were known."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        command = (sys.executable, __file__, "--storm", name)
        sizes = ("--processes", str(count), "--parents", str(parents))
        options = ("--who", "--json", "--to", str(place / "rows"))
        began = time.monotonic()
        ended = subprocess.run(
            [*TCPTRACE, "connect", *options, "--", *command, *sizes],
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        )
        seconds = time.monotonic() - began
        made = [
            json.loads(line)
            for file in place.glob("made*")
            for line in file.read_text().splitlines()
        ]
        rows = map(json.loads, (place / "rows").read_text().splitlines())
        seen = Counter(
            json.dumps([row["pid"], row.get("ppid"), row.get("exe"), row.get("args")])
            for row in rows
        )
    known = sum(seen[json.dumps(process)] == 1 for process in made)
    print(f"{count} processes in {seconds:.1f} s: {known} known, {seen.total()} rows")
    print(ended.stderr.splitlines()[-1])


def main() -> None:
    """Measure, and print everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--storm", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--events", type=int, default=500, help="of a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processes", type=int, default=10_000, help="of the storm")
    parser.add_argument("--parents", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.storm:
        storm(arguments.processes, arguments.parents, arguments.storm)
        return
    print_costs(arguments.events, arguments.rounds)
    print_storm(arguments.processes, arguments.parents)


if __name__ == "__main__":
    main()
