"""systemd, and what runs containers, as they are.

Where systemd is the first process of the machine (`tests/vm/init`), it is that one. Elsewhere one
is started as the first process of a PID and mount namespace of the test's own.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.kernel.harness import children_of, eventually, limit

INIT = Path("/usr/lib/systemd/systemd")
IS_INIT = Path("/proc/1/comm").read_text() == "systemd\n"
"""Whether systemd is this machine's first process."""
BUSYBOX = Path("/usr/bin/busybox")
UNITS = Path("/run/systemd/system")
START = """\
echo 0 >"$1/cgroup.procs" &&
exec unshare --mount --pid --fork --kill-child sh -c '
    mount -t proc proc /proc && mount -t cgroup2 cgroup2 /sys/fs/cgroup &&
    exec env container=test {init} --unit=basic.target --log-target=console --show-status=no'
"""
NAMESPACES = ("--mount", "--pid", "--root", "--wd")


class Systemd:
    """A systemd that runs."""

    def __init__(self, pid: int) -> None:
        """Know it by its process id."""
        self._enter = () if pid == 1 else ("nsenter", f"--target={pid}", *NAMESPACES)

    def run(self, *command: str, is_checked: bool = True) -> str:
        """Run a command where it runs services, and return what that prints."""
        ended = subprocess.run(
            [*self._enter, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=limit(60),
        )
        if is_checked and ended.returncode:
            raise AssertionError(f"{' '.join(command)}: {ended.stdout}{ended.stderr}")
        return ended.stdout.strip()

    def service(self, name: str, *lines: str, place: Path = UNITS) -> None:
        """Write a service of these lines."""
        place.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("\n".join(["[Service]", *lines, ""]))
        self.run("systemctl", "daemon-reload")

    def is_up(self) -> bool:
        """Tell whether it has started what it starts by itself."""
        state = self.run("systemctl", "is-system-running", is_checked=False)
        return state in {"running", "degraded"}


@contextlib.contextmanager
def systemd(cgroup: Path) -> Iterator[Systemd]:
    """Find systemd, or start it in a cgroup, which it may fill."""
    if IS_INIT:
        running = Systemd(1)
        eventually(running.is_up, "systemd")
        yield running
        return
    with subprocess.Popen(
        ["sh", "-c", START.format(init=INIT), "sh", str(cgroup)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as starter:
        try:
            eventually(lambda: any(children_of(starter.pid)), "systemd's process")
            running = Systemd(next(children_of(starter.pid)))
            eventually(running.is_up, "systemd")
            yield running
        finally:
            starter.kill()
            starter.wait()
            (cgroup / "cgroup.kill").write_text("1")
            eventually(lambda: is_empty(cgroup), "the end of all that systemd has started")
            remove(cgroup)


def is_empty(cgroup: Path) -> bool:
    """Tell whether no process is left in a cgroup or below it."""
    return "populated 0" in (cgroup / "cgroup.events").read_text()


def remove(cgroup: Path) -> None:
    """Remove what is below a cgroup."""
    for place, names, _ in os.walk(cgroup, topdown=False):
        for name in names:
            Path(place, name).rmdir()


def image(file: Path) -> None:
    """Write a file system with nothing but busybox."""
    with tarfile.open(file, "w") as tar:
        tar.add(BUSYBOX, "bin/busybox")
