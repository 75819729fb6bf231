"""Runs the kernel tests on other kernels: `python tests/vm/run.py [JOB ...] [-- PYTEST'S]`.

Each kernel is one of Debian's, downloaded once, booted in a virtual machine over this host's files.
Tests marked ``anywhere`` do not depend on the kernel and are left out. A job is one boot: that of a
kernel's name runs tests/kernel there, ``parity`` compares tcptrace with others, and ``runtimes``
has systemd and what runs containers.
TCPTRACE_VM_KVM=1 has the processor's help instead of emulation.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.kernel.backends import NOT_OFFERED  # noqa: E402 - found in ROOT
from tests.vm import arm64, kernels, machine, results, roots  # noqa: E402
from tests.vm.results import FAILED, HOST, PASSED, SKIPPED, Result  # noqa: E402

ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONUNBUFFERED": "1",
    "TCPTRACE_REQUIRE": "fentry,kprobe,tracepoint,ftrace",
}
# Emulation is so much slower than a real machine.
TIME_SCALE = "15"
JUNIT = "junit.xml"
PROGRAMS = ROOT / ".cache" / "programs"
TIMEOUT_S = 2700
STANDS_S = 300
"""After so long it is printed where a test stands, also one that no signal can end."""


# The tests whose events have all the fields that there are.
EVENTS = tuple(
    f"tests/kernel/test_{name}.py" for name in ("accept", "connect", "tracer", "dns", "filters")
)
# Of these, for the backends that do not need BTF, those that compare whole events.
WHOLE_EVENTS = "not (fentry or ftrace) and (once or asked_for or container)"
RUNTIMES = "tests/vm/test_runtimes.py"
PARITY = ("tests/vm", f"--ignore={RUNTIMES}")
FORK = {"TCPTRACE_TEST_FORK": "1"}
HEADERS = {"TCPTRACE_TEST_HEADERS": "system"}


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Tests to run in one boot."""

    name: str
    series: str
    tests: tuple[str, ...] = ("tests/kernel",)
    """What pytest is told to run."""
    environment: Mapping[str, str] = dataclasses.field(default_factory=lambda: FORK)
    starts_from_kept: bool = True
    """Whether tracers may start from programs that an earlier boot has kept."""
    suite: str = ""
    """The Debian release whose user space it has, if not this host's."""
    arm64: bool = False
    """Whether it is an emulated arm64 machine, with that one's own user space and kernel."""
    packages: tuple[str, ...] = ()
    """What that has beside what every other has."""
    has_systemd: bool = False
    """Whether systemd is its first process."""


JOBS = {
    job.name: job
    for job in (
        *(Job(series, series) for series in kernels.SUITES),
        # As on a kernel without BTF. Reading all headers takes a minute for each tracer.
        Job("headers", "6.1", (*EVENTS, "-k", WHOLE_EVENTS), FORK | HEADERS),
        # With newer versions of bcc, libbpf, LLVM and Python.
        Job("trixie", "6.12", EVENTS, suite="trixie"),
        # Only when it is asked for: it needs another QEMU.
        Job(arm64.NAME, "6.12", (*EVENTS[:2], "tests/kernel/test_apart.py"), arm64=True),
        # Without forks: arming times are those of whole processes.
        Job("parity", "6.1", PARITY, environment={}, starts_from_kept=False),
        # systemd, and what runs containers.
        Job(
            "runtimes",
            "6.12",
            (RUNTIMES,),
            suite="trixie",
            packages=roots.RUNTIMES,
            has_systemd=True,
        ),
    )
}


def pytest_command(job: Job, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a job's tests in the guest."""
    options = [
        *("--verbose", "--durations=10", "-p", "no:cacheprovider", "-m", "not anywhere"),
        *("--reruns=1", "-rfEsR"),  # as in noxfile.py
        *("-o", f"faulthandler_timeout={STANDS_S}"),
        *(f"--junitxml={machine.SHARED / JUNIT}", "-o", "junit_family=xunit1"),  # has properties
    ]
    return [python_of(job), "-m", "pytest", *options, *job.tests, *arguments]


def python_of(job: Job) -> str:
    """Return the interpreter that has the project in the job's root."""
    if job.arm64:
        return str(arm64.PYTHON)
    return str(roots.PYTHON) if job.suite else sys.executable


def prepared(job: Job) -> tuple[kernels.Kernel, Path]:
    """Return a job's kernel, and the root that it boots over. Raises VmError."""
    if job.arm64:
        return arm64.fetch()
    kernel = kernels.fetch(job.series)
    root = roots.fetch(job.suite, kernel, job.packages) if job.suite else machine.HOST
    return kernel, root


def run_job(job: Job, arguments: Sequence[str], timeout_s: float) -> Result:
    """Boot a kernel and run tests there."""
    result = Result(job.name)
    try:
        kernel, root = prepared(job)
        result.release = kernel.release
        say(f"== {job.name}: {' '.join(job.tests)} on Linux {kernel.release}")
        if not kernel.release.startswith(f"{job.series}."):
            say(f"   instead of {job.series}, which the archive no longer has")
        started = time.monotonic()
        with (
            tempfile.TemporaryDirectory(prefix="tcptrace-vm-") as name,
            kept_programs(job, Path(name)) as programs,
        ):
            status = machine.run(
                kernel,
                pytest_command(job, arguments),
                shared=Path(name),
                root=root,
                cwd=ROOT if root == machine.HOST else roots.TREE,
                environment={
                    **ENVIRONMENT,
                    **job.environment,
                    **programs,
                    "TCPTRACE_TIME_SCALE": time_scale(),
                },
                timeout_s=timeout_s,
                has_systemd=job.has_systemd,
            )
            result.seconds = time.monotonic() - started
            if (junit := Path(name) / JUNIT).exists():
                result.read(junit)
                if not arguments:
                    keep(job, junit)
        if status and not result.problems:
            result.problems.append(f"pytest ended with status {status}")
    except kernels.VmError as error:
        result.problems.append(str(error))
    return result


@contextlib.contextmanager
def kept_programs(job: Job, shared: Path) -> Iterator[dict[str, str]]:
    """Share the programs that the last boot of this job has kept; yield variables for the guest.

    Files of a user other than root are not root's there, and programs would not be taken from them.
    """
    if os.geteuid() != 0 or not job.starts_from_kept:
        yield {}
        return
    kept, guests = PROGRAMS / job.name, shared / "programs"
    if kept.is_dir():
        shutil.copytree(kept, guests)
    else:
        guests.mkdir(mode=0o700)
    try:
        yield {"CACHE_DIRECTORY": str(machine.SHARED / guests.name)}
    finally:
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(guests, kept)


def time_scale() -> str:
    """Return how much slower than a real machine the guest is taken to be."""
    return os.environ.get("TCPTRACE_TIME_SCALE", TIME_SCALE)


def compile_sources() -> None:
    """Compile the work tree's Python: here that takes no time, in the guest at every start."""
    for directory in ("src", "tests", "bench"):
        compileall.compile_dir(ROOT / directory, quiet=2)


def say(text: str) -> None:
    """Print a line at once: the guest's output comes between ours."""
    print(text, flush=True)


def report(done: Sequence[Result]) -> None:
    """Print what was measured, skipped and failed, tables, and the line that CI reads."""
    for run in done:
        lines = [*run.figures, *(f"{number} {reason}" for reason, number in run.skips.items())]
        for line in (*lines, *(f"FAILED {problem}" for problem in run.problems)):
            say(f"{run.name}: {line}")
    say(results.table(done))
    kinds = (PASSED, FAILED, SKIPPED, NOT_OFFERED)
    form = "{:8} {:28} {:>7} {:>7} {:>7} {:>12} {:>8}"
    say(form.format("", "kernel", *kinds, "seconds"))
    totals: Counter[str] = Counter()
    for run in done:
        tally = run.tally | Counter({FAILED: run.failures})
        totals += tally
        numbers = [tally[kind] for kind in kinds]
        say(form.format(run.name, run.release, *numbers, round(run.seconds)))
    say(", ".join(f"{totals[kind]} {kind}" for kind in kinds))


def keep(job: Job, file: Path) -> None:
    """Keep the junit file of a whole run."""
    results.KEPT.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, results.KEPT / f"{job.name}.xml")


def write_page() -> None:
    """Write docs/matrix.md from the whole runs that are kept."""
    page = results.PAGE.read_text(encoding="utf-8")
    kept = results.kept((*JOBS, HOST))
    results.PAGE.write_text(results.written(page, kept), encoding="utf-8")


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the parsed command line, and what is for pytest."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "jobs", nargs="*", metavar="JOB", help=f"of {', '.join(JOBS)}; else all but {arm64.NAME}"
    )
    parser.add_argument(
        "--write-page", action="store_true", help="write docs/matrix.md only, from what is kept"
    )
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, metavar="SECONDS")
    options = parser.parse_args(arguments[:split])
    for name in options.jobs:
        if name not in JOBS:
            parser.error(f"there is no job {name}; choose from {', '.join(JOBS)}")
    return options, list(arguments[split + 1 :])


def main(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit status."""
    options, for_pytest = parse(arguments)
    if options.write_page:
        write_page()
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the machine too
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # has depmod
    compile_sources()
    every = [job.name for job in JOBS.values() if not job.arm64]
    chosen = [JOBS[name] for name in dict.fromkeys(options.jobs or every)]
    done = [run_job(job, for_pytest, options.timeout) for job in chosen]
    report(done)
    if not arguments:
        write_page()
    return 0 if all(result.good for result in done) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
