"""A recorder under a storm, for an hour, with mishaps: `nox -s soak -- --seconds 600`. Run as root.

`tcptrace tracer -d --failed --who -w DIR/` records what a storm in a network namespace of its own
makes. At random moments the recorder is stopped for some seconds, killed and begun anew, and its
disk is full. `--host` adds what the whole host feels: a processor goes offline, the clock is set.
At the end stand memory, descriptors, BPF maps and files, and the recorded rows against those that
the storm made.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

DISK_MB = 64
SAMPLE_S = 5.0
QUIET_S = 12.0
"""Without traffic before a kill: what has happened is on the disk nine seconds later, and what it
takes to write it."""
STOPPED_S = 3.0
FULL_S = 20.0
BETWEEN_S = (20.0, 60.0)
"""From one mishap to the next."""
ENDS_WITHIN_S = 60.0 * float(os.environ.get("TCPTRACE_TIME_SCALE", "1"))
BATCH = 20
REFUSED_OF = 10
"""One attempt in so many goes to a port where nobody listens."""
PROCESSOR = Path("/sys/devices/system/cpu/cpu1/online")
SUMMARY = re.compile(r"(\d+) events? in .*?, (\d+) lost")
LOST = re.compile(r"(\d+) events? (?:was|were) lost")
"""What is said of losses, of each once."""


class Made(NamedTuple):
    """What the storm has made."""

    connections: int
    refused: int

    def rows(self) -> Counter[str]:
        """Return the rows that tell of it: of a connection C and X, and A and X."""
        both = self.connections
        return Counter(connect=both + self.refused, accept=both, close=2 * both)


class Span(NamedTuple):
    """The time of one recorder."""

    end_ns: int
    made: int
    """How many rows tell of what the storm had made until then."""
    lost: int
    """How many the recorder has counted as lost."""


class Sample(NamedTuple):
    """The recorder at a moment."""

    at_s: float
    resident_kb: int
    descriptors: int
    maps: int
    files: int


def storm() -> None:
    """Make a batch of connections for each line of standard input; answer what was made."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    print(Path("/proc/self/ns/net").stat().st_ino, flush=True)
    server = socket.create_server(("127.0.0.1", 0), backlog=BATCH)
    closed = socket.create_server(("127.0.0.1", 0))
    address, nobody = server.getsockname(), closed.getsockname()
    closed.close()
    for _ in sys.stdin:
        connections = refused = 0
        for number in range(BATCH):
            if number % REFUSED_OF == 0:
                with contextlib.suppress(ConnectionRefusedError), socket.create_connection(nobody):
                    pass
                refused += 1
                continue
            with socket.create_connection(address) as client, server.accept()[0] as taken:
                client.sendall(b"question")
                taken.recv(64)
                taken.sendall(b"answer")
                client.recv(64)
            connections += 1
        print(connections, refused, flush=True)


class Storm:
    """The process that makes connections, at a rate."""

    def __init__(self, rate: float) -> None:
        """Start it; `rate` is in connections for each second."""
        command = ("unshare", "--net", sys.executable, __file__, "--storm")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._pause_s = BATCH / rate
        self.netns = int(self._answer())
        self.made = Made(0, 0)
        self._next = time.monotonic()

    def _answer(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline()

    def blow(self) -> None:
        """Make a batch when its time has come; what was missed is not made up for."""
        now = time.monotonic()
        if now < self._next:
            time.sleep(self._next - now)
        self._next = max(self._next + self._pause_s, now)
        assert self._process.stdin
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        connections, refused = map(int, self._answer().split())
        self.made = Made(self.made.connections + connections, self.made.refused + refused)

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(ENDS_WITHIN_S)


class Recorder:
    """tcptrace, recording into a directory."""

    def __init__(self, directory: Path, log: TextIO, netns: int) -> None:
        """Begin to record what happens in a network namespace; `log` takes what is said."""
        self._directory = directory
        self._log = log
        self._netns = netns
        self.spans: list[Span] = []
        self.said = ""
        self.process = self._started()

    def _started(self) -> subprocess.Popen[str]:
        program = Path(sys.executable).with_name("tcptrace")
        options = ("-d", "--failed", "--who", "-N", str(self._netns), "--rotate", "1m")
        self._log.truncate(0)
        process = subprocess.Popen(
            [program, "tracer", *options, "-w", f"{self._directory}/"],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            text=True,
        )
        deadline = time.monotonic() + ENDS_WITHIN_S
        while "Tracing" not in self._told():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the recorder did not start: {self._told()}")
            time.sleep(0.05)
        return process

    def _told(self) -> str:
        self._log.seek(0)
        return self._log.read()

    def kill(self, made: Made) -> None:
        """End it without notice, and begin anew."""
        self.process.kill()
        self.process.wait()
        self._has_ended(made, sum(map(int, LOST.findall(self._told()))))
        self.process = self._started()

    def _has_ended(self, made: Made, lost: int) -> None:
        self.spans.append(Span(time.monotonic_ns(), made.rows().total(), lost))

    def end(self, made: Made) -> None:
        """Have it end, and take what it says that it lost."""
        self.process.send_signal(signal.SIGTERM)  # nohup has SIGINT ignored
        self.process.wait(ENDS_WITHIN_S)
        self.said = self._told().strip().splitlines()[-1]
        match = SUMMARY.search(self.said)
        if not match:
            raise SystemExit(f"the recorder's last words are no summary: {self._told()}")
        self._has_ended(made, int(match[2]))

    def written_at(self) -> float:
        """Return when it has written to the disk last."""
        files = [path for path in self._directory.rglob("*") if path.is_file()]
        return max((path.stat().st_mtime for path in files), default=0)

    def sample(self, at_s: float) -> Sample:
        """Return what it takes now."""
        proc = Path(f"/proc/{self.process.pid}")
        resident = re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text())
        maps = subprocess.run(["bpftool", "-j", "map"], capture_output=True, check=True).stdout
        return Sample(
            at_s,
            int(resident[1]) if resident else 0,
            len(list((proc / "fd").iterdir())),
            len(json.loads(maps)),
            sum(1 for path in self._directory.rglob("*") if path.is_file()),
        )


class Mishaps:
    """What befalls the recorder."""

    def __init__(self, storm: Storm, recorder: Recorder, disk: Path, *, host: bool) -> None:
        """Nothing has befallen it yet."""
        self._storm, self._recorder, self._disk = storm, recorder, disk
        self.count: Counter[str] = Counter()
        self._all: dict[str, Callable[[], None]] = {
            "stopped": self._stop,
            "killed": self._kill,
            "disk full": self._fill,
        }
        if host:
            self._all |= {"processor offline": self._unplug, "clock set": self._set_clock}
        self._next: list[str] = []

    def befall(self, chance: random.Random) -> None:
        """Have one of them happen; none happens again before all others have."""
        if not self._next:
            self._next = chance.sample([*self._all], len(self._all))
        name = self._next.pop()
        self._all[name]()
        self.count[name] += 1

    def _blow_for(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._storm.blow()

    def _stop(self) -> None:
        self._recorder.process.send_signal(signal.SIGSTOP)
        self._blow_for(STOPPED_S)
        self._recorder.process.send_signal(signal.SIGCONT)

    def _kill(self) -> None:
        quiet = time.time()
        time.sleep(QUIET_S)
        deadline = time.monotonic() + ENDS_WITHIN_S  # where it gets little of the processor
        while self._recorder.written_at() < quiet and time.monotonic() < deadline:
            time.sleep(1)
        self._recorder.kill(self._storm.made)

    def _fill(self) -> None:
        ballast = self._disk / "ballast"
        with contextlib.suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(1 << 16))
        self._blow_for(FULL_S)
        ballast.unlink()

    def _unplug(self) -> None:
        PROCESSOR.write_text("0")
        try:
            self._blow_for(STOPPED_S)
        finally:
            PROCESSOR.write_text("1")

    def _set_clock(self) -> None:
        for seconds in (7200, -7200):
            time.clock_settime(time.CLOCK_REALTIME, time.time() + seconds)
            self._blow_for(STOPPED_S)


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    """Mount a file system that is soon full."""
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", place], check=True
        )
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


def recorded(directory: Path, spans: Sequence[Span]) -> list[Counter[str]]:
    """Return how many rows of each type are in the recording, by the recorder's time."""
    program = Path(sys.executable).with_name("tcptrace")
    read = (program, "tracer", "--failed", "-r", f"{directory}/", "--json")
    rows = [Counter[str]() for _ in spans]
    ends = [span.end_ns for span in spans]
    with subprocess.Popen(read, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for line in process.stdout:
            row = json.loads(line)
            rows[bisect(ends, row["ts_ns"])][row["type"]] += 1
    return rows


def soak(seconds: float, rate: float, seed: str, *, host: bool) -> int:
    """Run it all, print what came of it, and return an exit status."""
    chance = random.Random(seed)  # noqa: S311 - for mishaps, not for secrets
    with small_disk() as disk, tempfile.TemporaryFile("a+") as log:
        directory = disk / "recording"
        directory.mkdir()
        storm_ = Storm(rate)
        recorder = Recorder(directory, log, storm_.netns)
        mishaps = Mishaps(storm_, recorder, disk, host=host)
        begin = time.monotonic()
        samples = [recorder.sample(0)]
        mishap_at = begin + chance.uniform(*BETWEEN_S)
        while (now := time.monotonic()) < begin + seconds:
            storm_.blow()
            if now - begin > samples[-1].at_s + SAMPLE_S:
                samples.append(recorder.sample(now - begin))
            if now > mishap_at:
                mishaps.befall(chance)
                mishap_at = time.monotonic() + chance.uniform(*BETWEEN_S)
        recorder.end(storm_.made)
        storm_.end()
        rows = recorded(directory, recorder.spans)
        return report(samples, mishaps.count, storm_.made.rows(), rows, recorder)


def report(
    samples: list[Sample],
    mishaps: Counter[str],
    made: Counter[str],
    rows: Sequence[Counter[str]],
    recorder: Recorder,
) -> int:
    """Print what came of it; return 1 where rows are missing that nobody counted."""
    found = sum(rows, Counter[str]())
    print(f"mishaps: {', '.join(f'{name} {count}' for name, count in mishaps.items()) or 'none'}")
    part = max(1, len(samples) // 6)
    print(f"{'':14}{'first sixth':>14}{'last sixth':>14}{'most':>10}")
    for field in ("resident_kb", "descriptors", "maps", "files"):
        values = [getattr(sample, field) for sample in samples]
        first, last = (sum(some) / len(some) for some in (values[:part], values[-part:]))
        print(f"{field:14}{first:14.0f}{last:14.0f}{max(values):10}")
    for kind in made:
        print(f"{kind:14}{made[kind]:14} made{found[kind]:14} recorded")
    is_good, before = True, 0
    for number, (span, of_span) in enumerate(zip(recorder.spans, rows, strict=True), 1):
        missing = span.made - before - of_span.total()
        before = span.made
        is_good &= 0 <= missing <= span.lost
        if missing or span.lost:
            print(f"recorder {number}: missing {missing}, counted as lost {span.lost}")
    print(f"missing {made.total() - found.total()}")
    print(recorder.said)
    return 0 if is_good else 1


def main() -> None:
    """Take the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--rate", type=float, default=500, help="connections a second")
    parser.add_argument("--seed", default="soak", help="of the mishaps")
    parser.add_argument("--host", action="store_true", help="also what the whole host feels")
    parser.add_argument("--storm", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.storm:
        storm()
        return
    if os.geteuid():
        raise SystemExit("run it as root, with sudo")
    raise SystemExit(soak(given.seconds, given.rate, given.seed, host=given.host))


if __name__ == "__main__":
    main()
