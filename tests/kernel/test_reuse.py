"""Numbers that the kernel gives again: a filter is about what has them when tracing begins."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.backends import not_offered
from tests.kernel.harness import Worker
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import accept_once, in_namespace, ip, namespace_id, raise_loopback

from tcptrace.kernel.netns import NAMED
from tcptrace.kernel.processes import is_in_initial
from tcptrace.kernel.syscalls import libc
from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("accept")

CLONE3 = 435  # on all machines
SIGCHLD = 17
NAMESPACES = 10


def fork_as(pid: int) -> int:
    """Fork as os.fork does; the child has this id. Skip the test where the kernel has no way."""
    wanted = ctypes.c_int(pid)
    arguments = struct.pack("=11Q", *(0, 0, 0, 0, SIGCHLD, 0, 0, 0), ctypes.addressof(wanted), 1, 0)
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    result: int = libc.syscall(CLONE3, buffer, len(arguments))
    if result < 0 and ctypes.get_errno() in {errno.ENOSYS, errno.EEXIST}:
        not_offered("a process id of one's choice")
    assert result >= 0, os.strerror(ctypes.get_errno())
    return result


def accept_here() -> int:
    """Accept a connection; return the process's id."""
    accept_once()
    return os.getpid()


@pytest.mark.parametrize("others", [0, 40], ids=["few", "many"])
def test_a_process_id_is_that_process_s(backend: Backend, others: int) -> None:
    """-p and its exclusions end with the process: another that gets its id is another."""
    if not (is_in_initial("pid") and is_in_initial("time")):
        not_offered("the ids and times of processes that the kernel itself has")
    first, last = Worker(accept_here), Worker(accept_here)
    options = ("--json", "--backend", backend, "-p")
    unused = range(1 << 23, (1 << 23) + 2 * others, 2)
    keep = ",".join(map(str, (first.pid, last.pid, *unused)))
    drop = ",".join(f"!{pid}" for pid in (first.pid, os.getpid(), *unused))
    with Tracer(*options, keep) as keeping, Tracer(*options, drop) as dropping:
        first.run()
        second = Worker(accept_here, fork=lambda: fork_as(first.pid))
        assert first.pid == second.run()
        last.run()
        for tracer in (keeping, dropping):
            tracer.wait_for(pid=last.pid)
        assert (1, 1) == tuple(len(tracer.where(pid=first.pid)) for tracer in (keeping, dropping))


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Names for network namespaces; those that are there at the end are deleted."""
    chosen = [f"tcptrace-reuse-{os.getpid()}-{number}" for number in range(NAMESPACES)]
    yield chosen
    for name in chosen:
        if (NAMED / name).exists():
            ip(f"netns delete {name}")


def accept_there(name: str) -> int:
    """Accept a connection in a new namespace of this name; return its inode number."""
    ip(f"netns add {name}")

    def accept() -> int:
        raise_loopback()
        accept_once()
        return (NAMED / name).stat().st_ino

    return in_namespace(name, accept)


@pytest.mark.parametrize("by", ["name", "path", "number"])
def test_a_namespace_is_not_another_that_gets_its_number(
    by: str, names: list[str], backend: Backend
) -> None:
    """A namespace that -N names keeps its number until tracing ends, also when it is deleted."""
    first, *others = names
    here = namespace_id("net")
    inode = accept_there(first)
    text = {"name": first, "path": str(NAMED / first), "number": str(inode)}[by]
    with Tracer("--json", "--backend", backend, "-N", text, "-N", str(here)) as tracer:
        in_namespace(first, accept_once)
        ip(f"netns delete {first}")
        assert inode not in [accept_there(name) for name in others]
        accept_once()
        tracer.wait_for(netns=here)
        assert 1 == len(tracer.where(netns=inode))


def test_a_cgroup_is_not_another_of_its_path(backend: Backend, cgroup: Path) -> None:
    """A cgroup that is removed and made again is another: its processes do not show."""
    if backend == "ftrace":
        not_offered("cgroups with ftrace")
    place, always = cgroup / "once", cgroup / "always"
    place.mkdir()
    always.mkdir()

    def accept_in(directory: Path) -> int:
        (directory / "cgroup.procs").write_text(str(os.getpid()))
        return accept_here()

    options = ("--cgroup", str(place), "--cgroup", str(always))
    with Tracer("--json", "--backend", backend, *options) as tracer:
        first = Worker(lambda: accept_in(place)).run()
        place.rmdir()
        place.mkdir()
        second = Worker(lambda: accept_in(place)).run()
        last = Worker(lambda: accept_in(always)).run()
        tracer.wait_for(pid=last)
        assert [1, 0] == [len(tracer.where(pid=pid)) for pid in (first, second)]
