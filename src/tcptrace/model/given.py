"""What the options of filters are given, as texts: read here, each by a function.

They raise ValueError with a message for the user. What a name stands for, a `System` tells.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable

from tcptrace.model import places
from tcptrace.model.ranges import U32_MAX, Ranges, items_of, parse_ranges
from tcptrace.model.systems import Cgroup, PinnedMap, System

U16_MAX = 0xFFFF
COMM_LENGTH = 15


def parse_pids(specs: Iterable[str], system: System) -> Ranges:
    """Read process ids; a single one stands for the process that has it now, if one has."""
    ranges = parse_ranges(specs, "process id", U32_MAX)
    began = {pid: system.began(pid) for pid in sorted(ranges.singles())}
    known = {pid: ticks for pid, ticks in began.items() if ticks is not None}
    return dataclasses.replace(ranges, began=known)


def parse_ports(specs: Iterable[str], _system: System) -> Ranges:
    """Read ports."""
    return parse_ranges(specs, "port", U16_MAX)


def parse_user_ids(specs: Iterable[str], system: System) -> Ranges:
    """Read user names and ids; a name may hold a dash, so a known name is never a range."""
    numbers = []
    for item in items_of(specs):
        name = item.removeprefix("!")
        is_number = re.fullmatch("[0-9]+(-[0-9]+)?", name)
        number = name if is_number else str(system.user_id(name))
        numbers.append(item[: len(item) - len(name)] + number)
    return parse_ranges(numbers, "user id", U32_MAX)


def parse_comms(specs: Iterable[str], _system: System) -> tuple[bytes, ...]:
    """Read names of threads, as long as the kernel's."""
    names = tuple(os.fsencode(spec)[:COMM_LENGTH] for spec in specs)
    if b"" in names:
        msg = "a name is not empty"
        raise ValueError(msg)
    return names


def parse_netns(specs: Iterable[str], system: System) -> tuple[int, ...]:
    """Find network namespaces."""
    return tuple(map(system.netns, specs))


def parse_cgroups(specs: Iterable[str], system: System) -> tuple[Cgroup, ...]:
    """Find cgroups."""
    return tuple(map(system.cgroup, specs))


def parse_map(path: str, system: System) -> PinnedMap:
    """Find a pinned map."""
    return system.pinned_map(path)


def parse_units(specs: Iterable[str], _system: System) -> tuple[str, ...]:
    """Read names of units."""
    return tuple(map(places.unit_pattern, specs))


def parse_containers(specs: Iterable[str], _system: System) -> tuple[str, ...]:
    """Read names of containers."""
    return tuple(map(places.container_pattern, specs))


def parse_pods(specs: Iterable[str], _system: System) -> tuple[str, ...]:
    """Read names of pods."""
    return tuple(map(places.pod_pattern, specs))


def parse_family(family: str, _system: System) -> int:
    """Read 4 or 6."""
    return int(family)
