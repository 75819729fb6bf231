"""tcptrace in namespaces of its own, as in a container."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from tests.kernel.backends import not_offered
from tests.kernel.harness import Event, Worker, take_port
from tests.kernel.tracers import TCPTRACE, Tracer, ended_well, run_tcptrace
from tests.kernel.traffic import Actor, in_namespace, ip

from tcptrace.kernel.sockets import PROC

pytestmark = [pytest.mark.command("tracer"), pytest.mark.anywhere]

OTHER_PIDS = ("unshare", "--pid", "--fork", "--mount-proc")
DAYS_AHEAD = ("unshare", "--time", "--monotonic", "1000000")
# A cgroup namespace and a mount namespace, in which the hierarchy may be mounted anew.
IN_CGROUP = """
echo $$ >"$1/cgroup.procs"
place=$2
shift 2
exec unshare --cgroup --mount sh -ec '
    if test "$1"; then
        mount --make-rprivate /
        sed -n "s/^[^ ]* \\([^ ]*\\) cgroup2 .*/\\1/p" /proc/mounts | xargs -r -n 1 umount -l
        mount -t cgroup2 none "$1"
    fi
    shift
    exec "$@"' sh "$place" "$@"
"""
OURS6, THEIRS6 = "fe80::a", "fe80::b"
SO_BINDTODEVICE = 25


def test_open_connections_are_refused_among_other_process_ids(netns: str) -> None:
    """--existing finds processes by ids, which inside a PID namespace are others."""
    arguments = ("tracer", "--existing", "-N", netns, "--duration", "1s")
    ended = run_tcptrace(*arguments, program=(*OTHER_PIDS, *TCPTRACE))
    assert 2 == ended.status
    assert "initial PID namespace" in ended.stderr


def test_time_is_the_wall_clocks_in_a_time_namespace(netns: str) -> None:
    """A time namespace has another monotonic clock than the kernel's events."""
    if not (PROC / "self/timens_offsets").exists():
        not_offered("this kernel has no time namespaces")
    with Tracer("--json", "-N", netns, command="accept", prefix=DAYS_AHEAD) as tracer:
        before = time.time()
        lport = Actor().accept()["lport"]
        (event,) = tracer.wait_for(lport=lport)
        after = time.time()
        ended_well(tracer)
    assert (
        before - 1 <= datetime.fromisoformat(event["time"][:26] + "+00:00").timestamp() <= after + 1
    )


@pytest.mark.parametrize("is_mounted_anew", [False, True])
def test_a_cgroups_path_is_the_true_one_or_absent(
    netns: str,
    cgroup: Path,
    cleanup: contextlib.ExitStack,
    tmp_path: Path,
    *,
    is_mounted_anew: bool,
) -> None:
    """A cgroup namespace that shows but a part of the hierarchy has no true paths."""
    own, inner, other = cgroup / "own", cgroup / "own/inner", cgroup / "other"
    for place in (own, inner, other):
        place.mkdir()
    cleanup.callback(inner.rmdir)
    prefix = ("sh", "-ec", IN_CGROUP, "sh", str(own), str(tmp_path) if is_mounted_anew else "")
    arguments = ("--json", "-N", netns)
    with Tracer(*arguments, command="accept", prefix=prefix) as tracer:
        for place in (own, inner, other):
            event = Worker(Actor(cgroup=place).accept).run()
            (actual,) = tracer.wait_for(lport=event["lport"])
            assert event["cgroup_id"] == actual["cgroup_id"]
            path = None if is_mounted_anew else path_of(place)
            assert path == actual.get("cgroup")
        ended_well(tracer)


@pytest.fixture
def cleanup(cgroup: Path) -> Iterator[contextlib.ExitStack]:
    """What is to be done when the test has ended, before its cgroup goes."""
    assert cgroup.is_dir()
    with contextlib.ExitStack() as stack:
        yield stack


def path_of(cgroup: Path) -> str:
    """Return the path of a cgroup from the hierarchy's root."""

    def ask() -> str:
        (cgroup / "cgroup.procs").write_text("0")
        return (PROC / "self/cgroup").read_text().rpartition("0::")[2].strip()

    path: str = Worker(ask).run()
    return path


@pytest.fixture
def twin_links() -> Iterator[list[tuple[str, str]]]:
    """Two links with the same addresses; the interface here, and the namespace behind it."""
    with contextlib.ExitStack() as stack:
        twins = []
        for number in (1, 2):
            here, there = f"tw{number}", f"tcptrace-twin{number}-{os.getpid()}"
            ip(f"netns add {there}")
            stack.callback(ip, f"netns delete {there}")
            ip(f"link add {here} type veth peer name peer netns {there}")
            stack.callback(ip, f"link delete {here}")
            ip(f"address add {OURS6}/64 dev {here} nodad")
            ip(f"-n {there} address add {THEIRS6}/64 dev peer nodad")
            ip(f"link set {here} up")
            ip(f"-n {there} link set peer up")
            twins.append((here, there))
        yield twins


def pair_on(here: str, there: str, ports: list[int]) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection over a link, between these ports."""

    def listen() -> socket.socket:
        listener = socket.socket(socket.AF_INET6)
        listener.bind((THEIRS6, ports[1], 0, socket.if_nametoindex("peer")))
        listener.listen()
        return listener

    near = socket.socket(socket.AF_INET6)
    near.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, here.encode() + b"\0")
    index = socket.if_nametoindex(here)
    near.bind((OURS6, ports[0], 0, index))
    with in_namespace(there, listen) as listener:
        near.connect((THEIRS6, ports[1], 0, index))
        return near, listener.accept()[0]


def test_connections_with_the_same_ends_are_told_apart(
    netns: str, twin_links: list[tuple[str, str]]
) -> None:
    """On two links, two connections can have the same addresses and ports."""
    ports = [take_port(), take_port()]
    pairs = [pair_on(here, there, ports) for here, there in twin_links]
    with Tracer("--json", "--existing", "-N", netns, command="tracer") as tracer:
        tracer.wait_for(2, type="open", lport=ports[0])
        for near, far in pairs:
            near.sendall(bytes(1 + pairs.index((near, far))))
            near.close()
            far.close()
        tracer.wait_for(2, type="close", lport=ports[0])
        ended_well(tracer)
    rows = tracer.where(lport=ports[0])
    assert ["open", "open", "close", "close"] == [row["type"] for row in rows]
    assert [1, 2] == sorted(row["tx_bytes"] for row in rows[2:])
    assert [os.getpid()] * 4 == [row["pid"] for row in rows]
    assert {(OURS6, THEIRS6)} == {(row["laddr"], row["raddr"]) for row in rows}
    check_order(rows)


def check_order(rows: list[Event]) -> None:
    """Hold that no row has a time after that of one that follows it."""
    times = [row["ts_ns"] for row in rows]
    assert sorted(times) == times
