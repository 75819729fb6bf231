"""The kernel's verdict on a connection is Python's, whatever the filters.

Random filters are given to tracers that run beside one without any: each shows what `Filters.keeps`
keeps of what that one shows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.kernel.backends import need
from tests.kernel.harness import TIME_SCALE, Event, Worker, take_ports
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import (
    DUAL,
    NOBODY,
    V4,
    V6,
    Actor,
    connect,
    listen,
    namespace_id,
    reset,
    set_comm,
)

from tcptrace.model.events import lineage
from tcptrace.model.filters import BY_NAME, MOST_COMPARED, Filters
from tcptrace.model.identity import Identity
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.probe import Backend, Probe
from tcptrace.probes.tracer.kept import Kept
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.shell.host import Host

TRACERS = 6 if TIME_SCALE == 1 else 2
COMMS = (b"first", b"second", b"exactly-fifteen", b"caf\xc3\xa9 \xff")
UIDS = (0, 1, NOBODY)
CONTAINER = "0123456789abcdef" * 4
KEYS = (
    *("pid", "uid", "comm", "family", "netns", "mntns", "cgroup_id", "cgroup"),
    *("laddr", "lport", "raddr", "rport"),
)

Texts = dict[str, list[str]]
"""What is typed for each filter, by its name."""


@dataclasses.dataclass(frozen=True, slots=True)
class Peer(Actor):
    """An actor whose connection is closed under another name than it was made under."""

    last_comm: bytes = COMMS[0]

    def work(self) -> None:
        """Accept a connection of one's own, and close it."""
        self.enter()
        with listen(self.server, self.port) as server:
            client = connect(server, self.client or self.server)
            accepted, _ = server.accept()
            set_comm(self.last_comm)
            accepted.close()
            reset(client)


def peers(pick: random.Random, ports: list[int], cgroups: list[Path]) -> Iterator[Peer]:
    """Yield connections, of each family and namespace, with random ports, users and names."""
    for server, client in ((V4, ""), (V6, ""), (DUAL, V4), (DUAL, V6)) * 2:
        yield Peer(
            server,
            client,
            port=pick.choice(ports),
            uid=pick.choice(UIDS),
            comm=pick.choice(COMMS),
            new_netns=pick.random() < 0.25,
            cgroup=pick.choice(cgroups),
            last_comm=pick.choice(COMMS),
        )


def some_of(pick: random.Random, values: Iterable[object], most: int = 3) -> list[str]:
    """Return some values as they are typed."""
    known = sorted({str(value) for value in values})
    return pick.sample(known, pick.randint(1, min(most, len(known))))


def ranges(pick: random.Random, values: list[int]) -> list[str]:
    """Return numbers, ranges and exclusions, in one text or several."""
    items = [pick.choice(["", "", "!"]) + text for text in some_of(pick, values)]
    if pick.random() < 0.3:
        low, high = sorted(pick.choices(values, k=2))
        items.append(f"{low}-{high}")
    return [",".join(items)] if pick.random() < 0.5 else items


def random_filters(
    pick: random.Random, names: list[str], ports: list[int], pids: list[int], cgroups: list[Path]
) -> Texts:
    """Return one to three filters."""
    here = [namespace_id("net"), f"/proc/{os.getpid()}/ns/net", 1]
    makers: dict[str, Callable[[], list[str]]] = {
        "pid": lambda: ranges(pick, pids),
        "port": lambda: ranges(pick, ports),
        "uid": lambda: ranges(pick, list(UIDS)),
        "comm": lambda: some_of(pick, map(os.fsdecode, COMMS), 2),
        "netns": lambda: some_of(pick, here, 1),
        "cgroup": lambda: some_of(pick, cgroups, 2),
        "unit": lambda: some_of(pick, [*(place.name for place in cgroups[1:-1]), "web", "*@*"], 2),
        "container": lambda: some_of(pick, [CONTAINER[:12], "nobody"], 2),
        "family": lambda: [pick.choice("46")],
    }
    chosen = pick.sample(names, pick.randint(1, 3))
    return {name: next(filter(may_keep, iter(makers[name], []))) for name in chosen}


def may_keep(typed: list[str]) -> bool:
    """Tell whether ranges, if that is what they are, keep any number; else they are refused."""
    kept = {int(number) for number in re.findall(r"(?<![!\d-])\d+", ",".join(typed))}
    dropped = {int(number) for number in re.findall(r"!(\d+)", ",".join(typed))}
    return not kept or not kept <= dropped


def among(typed: list[str], ports: str) -> list[str]:
    """Return a filter of ports that passes none but these: there may be others' traffic."""
    items = ",".join(typed).split(",")
    return typed if any(item and item[0] != "!" for item in items) else [ports, *typed]


def lengthened(texts: Texts, cgroup: Path) -> Texts:
    """Return filters with many more values, which no actor has; cgroups are made in `cgroup`."""
    more = range(1, 2 * MOST_COMPARED + 2, 2)
    others: dict[str, list[str]] = {
        "pid": [",".join(str((1 << 23) + number) for number in more)],
        "port": [",".join(str(30_000 + number) for number in more)],
        "uid": [",".join(str(100_000 + number) for number in more)],
        "comm": [f"nobody-{number}" for number in more],
        "netns": [str(number) for number in more],
        "cgroup": [str(cgroup / f"empty-{number}") for number in more],
    }
    for directory in others["cgroup"]:
        Path(directory).mkdir(exist_ok=True)
    excluding = {name for name, typed in texts.items() if ",".join(typed).count("!")}
    return {
        name: [*typed, *others.get(name, [])]
        if name not in excluding
        else [*typed, ",".join(f"!{value}" for value in others[name][0].split(","))]
        for name, typed in texts.items()
    }


def arguments(texts: Texts) -> Iterator[str]:
    """Yield what is typed on a command line."""
    for name, values in texts.items():
        for value in values:
            yield from [f"-{value}"] if name == "family" else [BY_NAME[name].flags[0], value]


def parsed(texts: Texts, probe: Probe, host: Host) -> Filters:
    """Return the filters that a command line becomes."""
    values = {}
    for name, typed in texts.items():
        entry = BY_NAME[name]
        values[name] = entry.parse(typed if entry.multiple else typed[0], host)
    return Filters(values, probe.port_fields)


def record(event: Event) -> Any:
    """Return an object of JSON as the record that filters look at."""
    known = {key: event.get(key) for key in KEYS}
    return SimpleNamespace(
        **known,
        type=event["type"],
        link=0,
        cgroups=(known["cgroup_id"], *lineage(known["cgroup"])),
        identity=Identity(**{key: event.get(key) for key in Identity._fields}),
    )


def ends(event: Event) -> tuple[Any, ...]:
    """Return what names a connection."""
    return tuple(event.get(key) for key in ("netns", "laddr", "lport", "raddr", "rport"))


def kept(events: list[Event], probe: Probe, texts: Texts) -> list[Event]:
    """Return the events that filters keep."""
    with contextlib.closing(Host()) as host:
        filters = parsed(texts, probe, host)
        keeps = Kept(filters) if probe is TRACER else filters.keeps
        return [event for event in events if keeps(record(event))]


def brief(events: list[Event]) -> list[tuple[Any, ...]]:
    """Return what tells events apart, in an order that does not depend on the CPU."""
    return sorted(
        (event["type"], event["pid"], event["comm"], *map(str, ends(event))) for event in events
    )


@pytest.mark.parametrize(
    ("probe", "rows"),
    [
        pytest.param(ACCEPT, 1, marks=pytest.mark.command("accept"), id="accept"),
        pytest.param(CONNECT, 1, marks=pytest.mark.command("connect"), id="connect"),
        pytest.param(TRACER, 4, marks=pytest.mark.command("tracer"), id="tracer"),
    ],
)
def test_the_kernel_s_verdict_is_python_s(
    probe: Probe, rows: int, backend: Backend, cgroup: Path
) -> None:
    """Tracers with random filters show what Python keeps of what happened."""
    need(backend, probe)
    pick = random.Random(f"{probe.name} {backend}")  # noqa: S311 - no secret
    names = [name for name in BY_NAME if name not in ("cgroupmap", "mntnsmap", "pod")]
    if backend == "ftrace":
        names = [name for name in names if BY_NAME[name].expression]
    below = ("web.service", "db@1.service", f"docker-{CONTAINER}.scope")
    cgroups, ports = [cgroup, *(cgroup / name for name in below)], take_ports(4)
    for directory in cgroups[1:]:
        directory.mkdir()
    workers = [Worker(peer.work) for peer in peers(pick, ports, cgroups)]
    pids = [worker.pid for worker in workers]
    asked = [random_filters(pick, names, ports, pids, cgroups) for _ in range(TRACERS)]
    asked[::2] = (lengthened(texts, cgroup) for texts in asked[::2])
    here = f"{ports[0]}-{ports[-1]}"
    asked = [{**texts, "port": among(texts.get("port", []), here)} for texts in asked]
    options = ("--json", "--backend", backend)
    with contextlib.ExitStack() as stack:
        everything, *filtered = (
            stack.enter_context(Tracer(*options, *arguments(texts), command=probe.name))
            for texts in [{"port": [here]}, *asked]
        )
        for worker in workers:
            worker.run()
        everything.wait_until(
            lambda: len(of(everything, pids)) == rows * len(pids), "all that happened"
        )
        for tracer in filtered:
            tracer.stop(signal.SIGINT)
    happened = of(everything, pids)
    for texts, tracer in zip(asked, filtered, strict=True):
        expected = kept(happened, probe, texts)
        assert brief(expected) == brief(of(tracer, pids)), texts


def of(tracer: Tracer, pids: list[int]) -> list[Event]:
    """Return the events of these processes."""
    return [event for event in tracer.events if event.get("pid") in pids]
