"""The TCP connections that are open now, and the processes that hold them.

The kernel's sock_diag (sock_diag(7)) tells of one network namespace at a time, so a child process
visits each. Who holds a socket is read from /proc, which needs the right to trace processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from socket import AF_NETLINK
from typing import Any, NamedTuple

from tcptrace.errors import TcptraceError
from tcptrace.kernel import cgroups, in_child, seccomp, sock_diag
from tcptrace.kernel.apart import confine_helper
from tcptrace.kernel.netns import NAMED, NS_GET_NSTYPE, enter, is_netns
from tcptrace.kernel.privileges import (
    CAP_DAC_READ_SEARCH,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    permitted_capabilities,
)
from tcptrace.kernel.processes import threads_of
from tcptrace.kernel.syscalls import CLONE_NEWNET

PROC = Path("/proc")


RIGHTS = frozenset((CAP_DAC_READ_SEARCH, CAP_SYS_PTRACE, CAP_SYS_ADMIN))
"""The capabilities that this takes: to enter namespaces, and to see what processes hold."""


def calls() -> Iterator[seccomp.Rule]:
    """Yield the system calls that this takes."""
    yield from seccomp.reads_only()
    yield seccomp.Rule("setns", 1, (CLONE_NEWNET,))
    yield seccomp.Rule("socket", 0, (AF_NETLINK,))
    yield seccomp.Rule("ioctl", 1, (NS_GET_NSTYPE,))


class Ends(NamedTuple):
    """What names a connection: its network namespace's inode number, both ends, and its link.

    On two links, and for sockets that are bound to them, the same addresses and ports are others.
    """

    netns: int | None
    laddr: str | None
    lport: int | None
    raddr: str | None
    rport: int | None
    link: int
    """Index of the interface that the socket is bound to; 0 for any."""


class Connection(NamedTuple):
    """An open connection."""

    ends: Ends
    uid: int
    """The socket's owner."""
    inode: int
    """The socket's inode number."""


class Process(NamedTuple):
    """A process that holds a socket."""

    pid: int
    comm: bytes
    mntns: int
    cgroups: tuple[int, ...]
    """Ids of its cgroup and of those above that, nearest first; empty where v2 is not mounted."""


NOBODY = Process(0, b"", 0, ())
"""Stands where no process is known to hold a socket, as with the kernel's own."""


def namespaces() -> dict[int, Path]:
    """Return a path to each network namespace that has a process or a name, by inode number."""
    found: dict[int, Path] = {}
    for path in (*PROC.glob("[0-9]*/ns/net"), *filter(is_netns, NAMED.glob("*"))):
        with contextlib.suppress(OSError):  # it has ended
            found.setdefault(path.stat().st_ino, path)
    return found


def _dump(netns: int) -> Iterator[Connection]:
    """Yield the connections of this thread's network namespace that a process can have."""
    for connection in sock_diag.sockets():
        if connection.inode:  # else it waits to be accepted, or was closed
            ends = Ends(
                netns,
                connection.laddr,
                connection.lport,
                connection.raddr,
                connection.rport,
                connection.link,
            )
            yield Connection(ends, connection.uid, connection.inode)


def connections(wanted: Collection[int] | None = None) -> list[Connection]:
    """Return the open connections in all network namespaces, or in those of these inode numbers.

    The process is in one of them afterwards.

    Raises:
        TcptraceError: the kernel does not tell, or this process may not enter the namespaces.

    """
    found: list[Connection] = []
    for netns, path in namespaces().items():
        if wanted is None or netns in wanted:
            try:
                enter(path)
                found += _dump(netns)
            except FileNotFoundError:  # it has ended meanwhile
                continue
            except PermissionError as error:
                if wanted is not None or not out_of_reach():
                    raise _refusal(netns, error) from error
            except OSError as error:
                raise _refusal(netns, error) from error
    return found


def _refusal(netns: int, error: OSError) -> TcptraceError:
    return TcptraceError(
        f"cannot enter the network namespace {netns}: {error.strerror}.\n"
        "--existing needs CAP_SYS_ADMIN and CAP_SYS_PTRACE"
    )


def out_of_reach() -> str:
    """Return what this process cannot list, for want of the right to enter namespaces."""
    if permitted_capabilities() >> CAP_SYS_ADMIN & 1:
        return ""
    return (
        "only sockets of this network namespace are listed: "
        "to enter others takes CAP_SYS_ADMIN and CAP_SYS_PTRACE"
    )


def holders(inodes: Collection[int]) -> dict[int, list[int]]:
    """Return the ids of the processes that have each of these sockets open, lowest first."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, list[int]] = {}
    for pid in sorted(int(path.name) for path in PROC.glob("[0-9]*")):
        held = set()
        for link in _descriptors(pid):
            with contextlib.suppress(OSError):
                held.add(links.get(os.readlink(link)))  # noqa: PTH115 - ten times as fast as Path
        for inode in held - {None}:
            found.setdefault(inode or 0, []).append(pid)
    return found


def _threads(pid: int) -> Iterator[str]:
    """Yield where /proc tells of a process: itself, then of each of its threads.

    Where the first thread has ended and others go on, only theirs tell what it has.
    """
    yield f"{PROC}/{pid}"
    for thread in threads_of(pid) - {pid}:
        yield f"{PROC}/{pid}/task/{thread}"


def _descriptors(pid: int) -> list[str]:
    """Return links to what a process has open."""
    with contextlib.suppress(OSError):  # it has ended, or is not for us to see
        for place in _threads(pid):
            if names := os.listdir(f"{place}/fd"):  # noqa: PTH208 - ten times as fast as Path
                return [f"{place}/fd/{name}" for name in names]
    return []


def _mount_namespace(pid: int) -> int | None:
    for place in _threads(pid):
        with contextlib.suppress(OSError):
            return os.stat(f"{place}/ns/mnt").st_ino  # noqa: PTH116 - as above
    return None


def process(pid: int) -> Process | None:
    """Return what is known of a process; None when it has ended."""
    mntns = _mount_namespace(pid)
    if mntns is None:
        return None
    try:
        comm = (PROC / str(pid) / "comm").read_bytes().removesuffix(b"\n")
        return Process(pid, comm, mntns, cgroups.ids_of(pid))
    except OSError:
        return None


class Survey:
    """The open connections, those who hold them and what is known of these, by a child process."""

    def __init__(self, wanted: Collection[int] | None = None) -> None:
        """Begin; `wanted` is as in `connections`."""
        self._question = in_child.Question(
            "lists the open connections", lambda: _survey(wanted), confine
        )
        self.is_complete = self._question.is_answered
        self._is_closed = False

    def close(self) -> None:
        """End the child, if it still works; nothing is found then."""
        self._question.close()
        self._is_closed = True

    def result(self) -> tuple[list[Connection], dict[int, list[int]], dict[int, Process]]:
        """Wait for the end; return connections, holders by inode and processes by id.

        Raises TcptraceError as `connections` does, and HungError.
        """
        if self._is_closed:
            return [], {}, {}
        found, held, known = self._question.answer()
        return (
            [Connection(Ends(*ends), *rest) for ends, *rest in found],
            dict(held),
            {
                pid: Process(pid, bytes.fromhex(comm), mntns, tuple(cgroup_ids))
                for pid, comm, mntns, cgroup_ids in known
            },
        )


def confine(answering: int) -> None:
    """Leave this process the rights of who lists sockets, and the descriptor that it answers to."""
    confine_helper(RIGHTS, calls(), (answering,))


def _survey(wanted: Collection[int] | None) -> list[Any]:
    """Return what `Survey.result` does, in JSON's types."""
    found = connections(wanted)
    held = holders({connection.inode for connection in found})
    pids = sorted({pid for group in held.values() for pid in group})
    known = [
        (pid, owner.comm.hex(), owner.mntns, owner.cgroups)
        for pid in pids
        if (owner := process(pid))
    ]
    return [found, list(held.items()), known]
