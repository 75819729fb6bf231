"""Every filter with every backend: what it keeps, and what differs in that one thing.

A trace costs seconds under emulation, so that each one here has several filters: an actor that
satisfies all of them is kept, and for each filter there is one that breaks only that.
"""

from __future__ import annotations

import functools
import os
import pwd
from collections.abc import Iterable
from pathlib import Path

import pytest
from tests.kernel.backends import FROM_BTF, need, not_offered
from tests.kernel.bpfmaps import pinned
from tests.kernel.harness import Worker, take_ports
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import (
    DUAL,
    NAME,
    NOBODY,
    V4,
    V6,
    Actor,
    cast,
    namespace_id,
    near_misses,
    shown,
)

from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("accept")


def pids(workers: dict[str, Worker], *names: str) -> str:
    """Return the process ids of the workers that are named."""
    return ",".join(str(workers[name].pid) for name in names)


def kept(names: Iterable[str]) -> list[str]:
    """Return the names of those that should be shown."""
    return [name for name in names if name.startswith("kept")]


def check(workers: dict[str, Worker], backend: Backend, *arguments: str) -> None:
    """Trace with these filters while each actor accepts: the "kept" ones are shown, no others."""
    with Tracer("--json", "--backend", backend, *arguments) as tracer:
        assert kept(workers) == shown(tracer, workers)


def test_filters_that_keep(backend: Backend, netns: str) -> None:
    """-p, -P, -u, --comm, -N NAME and -4 together keep what satisfies all of them."""
    low, dropped, high, alone, outside = take_ports(5)
    likewise = functools.partial(Actor, uid=NOBODY, comm=NAME)
    workers = cast(
        {
            **near_misses(likewise, kept=low, dropped=dropped, outside=outside),
            "kept: low": likewise(port=low),
            "kept: high, second user": likewise(port=high, uid=1),
            "kept: alone": likewise(port=alone),
            "kept: IPv4-mapped": likewise(server=DUAL, client=V4, port=low),
        }
    )
    arguments = ["-p", pids(workers, *(workers.keys() - {"dropped: other process"}))]
    arguments += ["-P", f"{low}-{high},{alone}", "-P", f"!{dropped}"]
    arguments += ["-u", pwd.getpwuid(NOBODY).pw_name, "-u", "1"]
    check(workers, backend, *arguments, "--comm", NAME.decode(), "-N", netns, "-4")


def test_filters_that_drop(backend: Backend) -> None:
    """Exclusions of -p, -P and -u, -N INODE and -6 together drop what one of them names."""
    first, dropped, last = take_ports(3)
    likewise = functools.partial(Actor, server=V6, port=first, uid=NOBODY)
    workers = cast(
        {
            "dropped: IPv4": likewise(server=V4),
            "dropped: IPv4-mapped": likewise(server=DUAL, client=V4),
            "dropped: excluded process": likewise(),
            "dropped: another excluded process": likewise(),
            "dropped: excluded port": likewise(port=dropped),
            "dropped: excluded user": likewise(uid=0),
            "dropped: other namespace": likewise(new_netns=True),
            "kept: dual-stack": likewise(server=DUAL, client=V6),
            "kept": likewise(port=last),
        }
    )
    excluded = pids(workers, "dropped: excluded process", "dropped: another excluded process")
    arguments = ["-p", ",".join(f"!{pid}" for pid in excluded.split(","))]
    arguments += ["-P", f"!{dropped}", "-u", "!0", "-N", str(namespace_id("net"))]
    check(workers, backend, *arguments, "-6")


def test_thousands_of_ports(backend: Backend) -> None:
    """A list of 8,000 ports is a table: the probe is armed soon, and keeps just these."""
    if backend == "ftrace":
        not_offered("more than a page of filters with ftrace")
    first, dropped, last = take_ports(3)
    many = ",".join(map(str, range(1, 16_000, 2)))
    workers = cast(
        {
            "kept": Actor(port=first),
            "dropped: other port": Actor(port=dropped),
            "kept: last": Actor(port=last),
        }
    )
    check(workers, backend, "-P", f"{many},{first},{last}")


def test_container_filters(backend: Backend, cgroup: Path, bpffs: Path) -> None:
    """--cgroup, --cgroupmap, --mntnsmap and -N PATH together keep what satisfies all of them.

    The cgroups below and the maps' keys are made while tracing.
    """
    need(backend, ACCEPT, filters=["cgroup", "cgroupmap", "mntnsmap"])
    with (
        pinned(bpffs / 'with "quote\\', 8, 8) as cgroups,
        pinned(bpffs / "mntns", 8, 4) as mntns,
        Tracer(
            *("--json", "--backend", backend, "-N", f"/proc/{os.getpid()}/ns/net"),
            *("--cgroup", str(cgroup), "--cgroupmap", str(cgroups.path)),
            *(("--mntnsmap", str(mntns.path)) if FROM_BTF else ()),
        ) as tracer,
    ):
        inside, below, not_in_map = cgroup, cgroup / "below", cgroup / "not-in-map"
        for directory in (below, not_in_map):
            directory.mkdir()
        for place in (inside, below, cgroup.parent):
            cgroups.add(place.stat().st_ino)
        mntns.add(namespace_id("mnt"))
        outsider = Actor(cgroup=inside, new_mntns=True)
        workers = cast(
            {
                "dropped: other cgroup": Actor(cgroup=cgroup.parent),
                "dropped: cgroup not in the map": Actor(cgroup=not_in_map),
                "dropped: other network namespace": Actor(cgroup=inside, new_netns=True),
                **({"dropped: other mount namespace": outsider} if FROM_BTF else {}),
                "kept": Actor(cgroup=inside),
                "kept: below": Actor(cgroup=below),
            }
        )
        assert kept(workers) == shown(tracer, workers)
