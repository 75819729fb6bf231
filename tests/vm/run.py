"""Runs the kernel tests on other kernels: `python tests/vm/run.py [KERNEL ...] [-- PYTEST'S]`.

Each kernel is one of Debian's, downloaded once, booted in a virtual machine over this host's files.
Tests marked ``anywhere`` do not depend on the kernel and are left out.
6.1 also compares tcptrace with bcc's tcpaccept, in a boot of its own; ``parity`` does that alone.
TCPTRACE_VM_KVM=1 has the processor's help instead of emulation.
"""

from __future__ import annotations

import argparse
import compileall
import dataclasses
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.vm import kernels, machine  # noqa: E402 - found in ROOT

PARITY, PARITY_SERIES = "parity", "6.1"
ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
    "TCPTRACE_REQUIRE": "fentry,kprobe,tracepoint",
    "TCPTRACE_TEST_FORK": "1",
}
# Emulation is so much slower than a real machine.
TIME_SCALE = "15"
JUNIT = "junit.xml"
TIMEOUT_S = 1800


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Tests to run in one boot."""

    name: str
    series: str
    tests: str


@dataclasses.dataclass(slots=True)
class Result:
    """What came of one job."""

    name: str
    release: str = "-"
    seconds: float = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    """Tests that failed, or why none ran."""
    figures: list[str] = dataclasses.field(default_factory=list)
    """What tests measured, by `record_property`."""

    @property
    def good(self) -> bool:
        """Whether tests ran, and all of them well."""
        return self.passed > 0 and not self.failed and not self.problems


def jobs(names: Iterable[str]) -> list[Job]:
    """Return the jobs for some kernels, the parity run behind its kernel's tests."""
    chosen = list(dict.fromkeys(names)) or list(kernels.SUITES)
    found = []
    for name in chosen:
        if name != PARITY:
            found.append(Job(name, name, "tests/kernel"))
        if name == PARITY or (name == PARITY_SERIES and PARITY not in chosen):
            found.append(Job(PARITY, PARITY_SERIES, "tests/vm/test_parity.py"))
    return found


def read_junit(file: Path, result: Result) -> None:
    """Add up what pytest wrote."""
    for case in ET.parse(file).iter("testcase"):  # noqa: S314 - pytest wrote it for us
        if case.find("failure") is not None or case.find("error") is not None:
            result.failed += 1
            result.problems.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            result.skipped += 1
        else:
            result.passed += 1
        result.figures += [
            f"{one.get('name')}: {one.get('value')}" for one in case.iter("property")
        ]


def pytest_command(job: Job, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a job's tests in the guest."""
    options = [
        *("--verbose", "--durations=10", "-p", "no:cacheprovider", "-m", "not anywhere"),
        *(f"--junitxml={machine.SHARED / JUNIT}", "-o", "junit_family=xunit1"),  # has properties
    ]
    return [sys.executable, "-m", "pytest", *options, job.tests, *arguments]


def run_job(job: Job, arguments: Sequence[str], timeout_s: float) -> Result:
    """Boot a kernel and run tests there."""
    result = Result(job.name)
    try:
        kernel = kernels.fetch(job.series)
        result.release = kernel.release
        say(f"== {job.name}: {job.tests} on Linux {kernel.release}")
        if not kernel.release.startswith(f"{job.series}."):
            say(f"   instead of {job.series}, which the archive no longer has")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="tcptrace-vm-") as name:
            status = machine.run(
                kernel,
                pytest_command(job, arguments),
                shared=Path(name),
                cwd=ROOT,
                environment={**ENVIRONMENT, "TCPTRACE_TIME_SCALE": time_scale()},
                timeout_s=timeout_s,
            )
            result.seconds = time.monotonic() - started
            if (Path(name) / JUNIT).exists():
                read_junit(Path(name) / JUNIT, result)
        if status and not result.problems:
            result.problems.append(f"pytest ended with status {status}")
    except kernels.VmError as error:
        result.problems.append(str(error))
    return result


def time_scale() -> str:
    """Return how much slower than a real machine the guest is taken to be."""
    return os.environ.get("TCPTRACE_TIME_SCALE", TIME_SCALE)


def say(text: str) -> None:
    """Print a line at once: the guest's output comes between ours."""
    print(text, flush=True)


def report(results: Sequence[Result]) -> None:
    """Print what was measured, what failed, a table, and the line that CI reads."""
    for result in results:
        for line in (*result.figures, *(f"FAILED {problem}" for problem in result.problems)):
            say(f"{result.name}: {line}")
    form = "{:8} {:28} {:>7} {:>7} {:>7} {:>8}"
    say(form.format("", "kernel", "passed", "failed", "skipped", "seconds"))
    for one in results:
        row = (one.name, one.release, one.passed, failures(one), one.skipped, round(one.seconds))
        say(form.format(*row))
    totals = [sum(one.passed for one in results), sum(map(failures, results))]
    totals.append(sum(one.skipped for one in results))
    say("{} passed, {} failed, {} skipped".format(*totals))


def failures(result: Result) -> int:
    """Return how many tests failed; a run that did not come to its end counts as one."""
    return result.failed or int(not result.good)


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the parsed command line, and what is for pytest."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = [*kernels.SUITES, PARITY]
    parser.add_argument("kernels", nargs="*", metavar="KERNEL", help=", ".join(choices))
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS")
    options = parser.parse_args(arguments[:split])
    for name in options.kernels:
        if name not in choices:
            parser.error(f"unknown kernel {name}; choose from {', '.join(choices)}")
    return options, list(arguments[split + 1 :])


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    options, for_pytest = parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the machine too
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # has depmod
    for directory in ("src", "tests"):  # compiled here in no time, in the guest at every start
        compileall.compile_dir(ROOT / directory, quiet=2)
    results = [run_job(job, for_pytest, options.timeout) for job in jobs(options.kernels)]
    report(results)
    return 0 if all(result.good for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
