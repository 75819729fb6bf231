"""Measure what `--unit`, `--container` and `--pod` cost in the kernel. Run as root.

A storm of connections of one process, in a cgroup that is called as a service, is traced without a
filter, with one that keeps it, and with ones that drop it, all at the same time. Printed is the
time of all BPF programs for a connection with both of its ends, as kernel.bpf_stats_enabled has it
counted: the least of several rounds, in us, for programs run for connections of the whole host.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cost import WARM, Storm, Tool, programs_ns, settle, statistics_on, traced

from tcptrace.kernel.cgroups import mount_point

UNIT = f"tcptrace-bench-{os.getpid()}.service"
FILTERS = {
    "no filter": (),
    "--unit, kept": ("--unit", UNIT),
    "--unit, dropped": ("--unit", "tcptrace-bench-other"),
    "--container, dropped": ("--container", "tcptrace-bench-other"),
    "--unit and --pod, dropped": ("--unit", UNIT, "--pod", "tcptrace-bench-other"),
}
COMMANDS = ("accept", "connect", "tracer")


@contextlib.contextmanager
def service(process: int) -> Iterator[None]:
    """Have a process be in a service, as its cgroup's name has it."""
    mount = mount_point()
    if mount is None:
        sys.exit("cgroup v2 is not mounted")
    place = Path(mount) / UNIT
    place.mkdir()
    try:
        (place / "cgroup.procs").write_text(str(process))
        yield
        (place.parent / "cgroup.procs").write_text(str(process))
    finally:
        place.rmdir()


def measure(command: str, storm: Storm, count: int, rounds: int) -> dict[str, float]:
    """Return how long all programs run for a connection, in us, by filter."""
    least: dict[str, float] = {}
    own = ("-N", storm.namespace)
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as tracers:
        pids = {}
        for number, (name, options) in enumerate(FILTERS.items()):
            rows = Path(place) / str(number)
            tool = Tool(name, (sys.executable, "-m", "tcptrace", command, *own, *options), 1)
            pids[name] = tracers.enter_context(traced(tool, rows))
        storm.make(WARM)
        settle(Path(place) / "0")
        tracers.enter_context(statistics_on())
        for _ in range(rounds):
            before = {name: programs_ns(pid) for name, pid in pids.items()}
            storm.make(count)
            for name, pid in pids.items():
                taken = (programs_ns(pid) - before[name]) / count / 1e3
                least[name] = min(taken, least.get(name, taken))
            settle(Path(place) / "0")
    return least


def main() -> None:
    """Measure, and print everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=2000, help="of a round")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    storm = Storm(cpu=0)
    print(f"{'':28}" + "".join(f"{command:>10}" for command in COMMANDS))
    with service(storm.pid):
        found = [
            measure(command, storm, arguments.connections, arguments.rounds) for command in COMMANDS
        ]
    for name in FILTERS:
        print(f"{name:28}" + "".join(f"{costs[name]:10.2f}" for costs in found))
    storm.end()


if __name__ == "__main__":
    main()
