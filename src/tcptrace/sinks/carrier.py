"""Starts uploads for a process that may start no program itself; between uploads it is small.

For each line on its standard input it carries what has ended, and answers with a line: why that
failed, or nothing. It ends with its parent.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tcptrace.kernel import apart
from tcptrace.kernel.syscalls import die_with_parent

MOST_S = 600.0
"""After how many seconds an upload is given up."""


def carry(spool: str, url: str) -> str:
    """Carry what has ended; return why that failed, or nothing."""
    program = (sys.executable, "-I", "-m", "tcptrace.sinks.upload", spool, url)
    try:
        done = subprocess.run(
            program,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MOST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"it took more than {MOST_S:.0f} s"
    if not done.returncode:
        return ""
    return next(reversed(done.stderr.strip().splitlines()), "the upload was killed")


def main() -> None:
    """Work until there is nobody to ask for it."""
    spool, url = sys.argv[1:]
    parent = os.getppid()
    if os.geteuid() != 0:
        apart.become(apart.person_for({}))  # what a unit has is for tracing, not for the network
    die_with_parent(parent)
    for _ in sys.stdin:
        sys.stdout.write(f"{carry(spool, url)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
