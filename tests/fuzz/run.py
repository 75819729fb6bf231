"""Fuzzes what strangers choose: `nox -s fuzz -- dns-message --seconds 600`, or all targets.

Each target runs in a process of its own, under atheris, which follows the lines that inputs reach.
What reached new ones is kept in .cache/fuzz/TARGET for the next time. An input that shows a fault
is printed, and kept beside it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).resolve().parents[2] / ".cache" / "fuzz"
MOST_BYTES = 4096
SHM = "/dev/shm"  # noqa: S108 - a directory of its own is made there
SLOW_S = 60
"""One input that takes so long is a fault, too."""


def fuzz(name: str, seconds: int) -> None:
    """Run a target in this process until its time is over; a fault ends it with status 77."""
    import atheris  # noqa: PLC0415 - the parent does without

    with atheris.instrument_imports(include=["tcptrace"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - what is imported here is followed

    target = TARGETS[name]
    place = CORPUS / name
    place.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (place / f"seed-{number}").write_bytes(seed)
    options = (
        f"-max_total_time={seconds}",
        f"-max_len={MOST_BYTES}",
        f"-timeout={SLOW_S}",
        f"-artifact_prefix={place}-",
        "-print_final_stats=1",
        "-verbosity=0",
    )
    atheris.Setup([name, *options, str(place)], target.check)
    atheris.Fuzz()


def names(asked: list[str]) -> list[str]:
    """Return the targets that were asked for, or all. Raises SystemExit for what is none."""
    from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - not before atheris, in a child

    unknown = set(asked) - TARGETS.keys()
    if unknown:
        raise SystemExit(
            f"no target is called {', '.join(unknown)}; there are {', '.join(TARGETS)}"
        )
    return asked or list(TARGETS)


def main() -> None:
    """Fuzz one target after the other; exit with 1 where any showed a fault."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=600, help="for each target; default: 600")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        fuzz(given.targets[0], given.seconds)
        return
    failed = []
    for name in names(given.targets):
        print(f"{name}: {given.seconds} s", flush=True)
        command = (sys.executable, "-m", "tests.fuzz.run", "--here", name)
        # The fuzzer ends without any clearing up; its files are in memory, where it can be.
        with tempfile.TemporaryDirectory(dir=SHM if Path(SHM).is_dir() else None) as place:
            environment = {**os.environ, "TMPDIR": place}
            seconds = f"--seconds={given.seconds}"
            done = subprocess.run([*command, seconds], env=environment, check=False)
        if done.returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"faults: {', '.join(failed)}")


if __name__ == "__main__":
    main()
