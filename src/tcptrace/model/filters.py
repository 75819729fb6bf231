"""The filters: one table from option to C define, and to filter expression in tracefs.

Every filter is applied in the kernel. A value becomes integers in a define: no text of the user's
reaches the C source. probes/c/prelude.bpf.c has the other half, one ``keep_`` predicate per define;
the maps that it names are held in their places by sources/bpf/load.py.

Without BPF, tracefs filters by expressions over an event's fields (Documentation/trace/events.rst).
"""

from __future__ import annotations

import dataclasses
import os
import pwd
import re
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tcptrace.kernel import netns

Defines = dict[str, str]
Expression = Callable[[Any, Sequence[str]], str]
Between = Callable[[str, int, int], str]

U16_MAX = 0xFFFF
U32_MAX = 0xFFFFFFFF
COMM_LENGTH = 15
_RANGE = re.compile("(!?)([0-9]{1,20})(?:-([0-9]{1,20}))?")  # int() refuses 4,300 digits


@dataclasses.dataclass(frozen=True, slots=True)
class Ranges:
    """Inclusive ranges of integers to keep and to drop; with nothing to keep, all but `drop`."""

    keep: tuple[tuple[int, int], ...]
    drop: tuple[tuple[int, int], ...]

    def wants(self, *values: int) -> bool:
        """Tell whether one of `values` is to be kept and none to be dropped, as the C does."""

        def within(ranges: tuple[tuple[int, int], ...]) -> bool:
            return any(low <= value <= high for low, high in ranges for value in values)

        return (not self.keep or within(self.keep)) and not within(self.drop)


def parse_ranges(specs: Iterable[str], what: str, most: int) -> Ranges:
    """Read ``80,443,8000-8100`` and ``!22`` as inclusive ranges from 0 to `most`.

    Args:
        specs: each a comma list; all are taken together.
        what: the name of such a number in an error, such as "port".
        most: the largest number that is allowed.

    Raises:
        ValueError: with a message for the user.

    """
    keep: list[tuple[int, int]] = []
    drop: list[tuple[int, int]] = []
    for item in (item.strip() for spec in specs for item in spec.split(",")):
        match = _RANGE.fullmatch(item)
        if not match:
            msg = f"{item!r} is not a {what}; give numbers, ranges (1-9) or exclusions (!5)"
            raise ValueError(msg)
        exclusion, low, high = match.groups()
        first, last = int(low), int(high or low)
        if last > most:
            msg = f"{item!r} is not a {what}: the largest is {most}"
            raise ValueError(msg)
        if first > last:
            msg = f"{item!r} is not a {what}: a range goes from low to high"
            raise ValueError(msg)
        (drop if exclusion else keep).append((first, last))
    return Ranges(tuple(keep), tuple(drop))


def _user_id(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,20}", text):
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError:
        msg = f"there is no user {text!r} here; give a name from `getent passwd`, or a number"
        raise ValueError(msg) from None


def _parse_user_ids(specs: Iterable[str]) -> Ranges:
    """Read user names and ids; a name may hold a dash, so a known name is never a range."""
    items = [item.strip() for spec in specs for item in spec.split(",")]
    numbers = []
    for item in items:
        name = item.removeprefix("!")
        is_range = re.fullmatch(r"[0-9]+-[0-9]+", name)
        numbers.append(item if is_range else item[: len(item) - len(name)] + str(_user_id(name)))
    return parse_ranges(numbers, "user id", U32_MAX)


def _inode(text: str) -> int:
    if not 0 < int(text) <= U32_MAX:
        msg = f"{text!r} is not a namespace's inode number: 1 to {U32_MAX}"
        raise ValueError(msg)
    return int(text)


def _parse_netns(specs: Iterable[str]) -> tuple[int, ...]:
    """Read inode numbers, names under /run/netns and paths."""
    inodes = []
    for spec in specs:
        if re.fullmatch(r"[0-9]{1,20}", spec):
            inodes.append(_inode(spec))
            continue
        path = Path(spec) if "/" in spec else netns.NAMED / spec
        if not netns.is_netns(path):
            msg = (
                f"{spec!r} is not a network namespace: give an inode number, "
                f"a name under {netns.NAMED}, or a path such as /proc/PID/ns/net"
            )
            raise ValueError(msg)
        inodes.append(path.stat().st_ino)
    return tuple(inodes)


def _parse_cgroups(specs: Iterable[str]) -> tuple[int, ...]:
    """Read cgroup v2 directories as cgroup ids."""
    ids = []
    for spec in specs:
        path = Path(spec)
        if not (path / "cgroup.controllers").is_file():
            msg = f"{spec!r} is not a cgroup v2 directory"
            raise ValueError(msg)
        ids.append(path.stat().st_ino)
    return tuple(ids)


def _parse_comms(specs: Iterable[str]) -> tuple[bytes, ...]:
    names = tuple(os.fsencode(spec)[:COMM_LENGTH] for spec in specs)
    if b"" in names:
        msg = "a name is not empty"
        raise ValueError(msg)
    return names


def _parse_path(path: str) -> str:
    """Read a path, also an empty one, as an absolute one: the loader has another directory."""
    return str(Path.cwd() / path)


def _range_defines(name: str) -> Callable[[Ranges], Defines]:
    def defines(ranges: Ranges) -> Defines:
        lists = {f"KEEP_{name}": ranges.keep, f"DROP_{name}": ranges.drop}
        return {
            key: " ".join(f"X({low}U,{high}U)" for low, high in pairs)
            for key, pairs in lists.items()
            if pairs
        }

    return defines


def _list_defines(name: str, suffix: str) -> Callable[[Sequence[int]], Defines]:
    def defines(values: Sequence[int]) -> Defines:
        return {name: " ".join(f"X({value}{suffix},{value}{suffix})" for value in values)}

    return defines


def _comm_defines(names: Sequence[bytes]) -> Defines:
    words = (struct.unpack("=QQ", name.ljust(COMM_LENGTH + 1, b"\0")) for name in names)
    return {"KEEP_COMM": " ".join(f"Y({first:#x}ULL,{second:#x}ULL)" for first, second in words)}


def _either(conditions: Iterable[str]) -> str:
    return f"({' || '.join(conditions)})"


def _expression(ranges: Ranges, fields: Sequence[str], between: Between) -> str:
    """Return what holds where a field is in a range to keep, and none in one to drop."""
    parts = [
        _either(between(field, low, high) for field in fields for low, high in pairs)
        for pairs in (ranges.keep, ranges.drop)
        if pairs
    ]
    if ranges.drop:
        parts[-1] = f"!{parts[-1]}"
    return " && ".join(parts)


def _between(field: str, low: int, high: int) -> str:
    return f"({field} >= {low} && {field} <= {high})" if low < high else f"{field} == {low}"


def _port_between(field: str, low: int, high: int) -> str:
    """Compare a port byte for byte: it is in network order."""
    first, second = f"{field}_0", f"{field}_1"
    if low == high:
        return f"({first} == {low >> 8} && {second} == {low & 0xFF})"
    return (
        f"(({first} > {low >> 8} || ({first} == {low >> 8} && {second} >= {low & 0xFF}))"
        f" && ({first} < {high >> 8} || ({first} == {high >> 8} && {second} <= {high & 0xFF})))"
    )


def _comm_expression(names: Sequence[bytes], _ports: Sequence[str]) -> str:
    """Compare names as strings; these have no escapes, so that one with both quotes cannot be."""
    texts = [os.fsdecode(name) for name in names]
    if any('"' in text and "'" in text for text in texts):
        return ""
    quoted = (f'"{text}"' if '"' not in text else f"'{text}'" for text in texts)
    return _either(f"comm == {text}" for text in quoted)


def _family_expression(family: int, _ports: Sequence[str]) -> str:
    mapped = socket.htonl(0xFFFF)
    words = f"raddr6_0 == 0 && raddr6_1 == 0 && raddr6_2 == {mapped}"
    ipv4 = f"(family == {socket.AF_INET:d} || (family == {socket.AF_INET6:d} && {words}))"
    return ipv4 if family == 4 else f"!{ipv4}"


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """One filter: its option, how its values are read, and the C defines that they become."""

    name: str
    """Its parameter name; probes name the filters that they honour by it."""
    flags: tuple[str, ...]
    metavar: str
    help: str
    parse: Callable[[Any], Any]
    """From the option's texts to a value; raises ValueError with a message for the user."""
    defines: Callable[[Any], Defines]
    expression: Expression | None
    """From a value, and the fields that hold ports, to tracefs's filter expression; None where
    tracefs cannot tell."""
    multiple: bool = True
    """Whether the option can be repeated; then `parse` takes a sequence."""


FILTERS = (
    Filter(
        "pid",
        ("-p", "--pid"),
        "PIDS",
        "These processes (thread group ids): a list, ranges, exclusions (!181).",
        lambda specs: parse_ranges(specs, "process id", U32_MAX),
        _range_defines("PID"),
        lambda _ranges, _ports: "",  # events have thread ids
    ),
    Filter(
        "port",
        ("-P", "--port"),
        "PORTS",
        "{ports}: a list, ranges, exclusions (80,443,8000-8100 or !22).",
        lambda specs: parse_ranges(specs, "port", U16_MAX),
        _range_defines("PORT"),
        lambda ranges, ports: _expression(ranges, ports, _port_between),
    ),
    Filter(
        "uid",
        ("-u", "--uid"),
        "USERS",
        "These users, by name or id.",
        _parse_user_ids,
        _range_defines("UID"),
        lambda ranges, _ports: _expression(ranges, ("uid",), _between),
    ),
    Filter(
        "comm",
        ("--comm",),
        "NAME",
        "Threads of this name (at most 15 bytes); repeatable.",
        _parse_comms,
        _comm_defines,
        _comm_expression,
    ),
    Filter(
        "netns",
        ("-N", "--netns"),
        "NETNS",
        "A network namespace: inode number, name under /run/netns, or path.",
        _parse_netns,
        _list_defines("KEEP_NETNS", "U"),
        lambda inodes, _ports: _either(f"netns == {inode}" for inode in inodes),
    ),
    Filter(
        "cgroup",
        ("--cgroup",),
        "PATH",
        "Processes in this cgroup v2 directory or below it.",
        _parse_cgroups,
        _list_defines("KEEP_CGROUP", "ULL"),
        None,
    ),
    Filter(
        "cgroupmap",
        ("--cgroupmap",),
        "PATH",
        "Processes whose cgroup id is a key of this pinned BPF map.",
        _parse_path,
        lambda _path: {"CGROUPMAP": "1"},
        None,
        multiple=False,
    ),
    Filter(
        "mntnsmap",
        ("--mntnsmap",),
        "PATH",
        "Processes whose mount namespace is a key of this pinned BPF map.",
        _parse_path,
        lambda _path: {"MNTNSMAP": "1"},
        None,
        multiple=False,
    ),
)
FAMILY = Filter(
    "family",
    ("-4/-6",),
    "",
    "IPv4 or IPv6 only; an IPv4-mapped IPv6 address is IPv4.",
    int,
    lambda family: {"KEEP_FAMILY": str(family)},
    _family_expression,
    multiple=False,
)
BY_NAME = {one.name: one for one in (*FILTERS, FAMILY)}


def defines(values: dict[str, Any]) -> Defines:
    """Return the C defines of parsed filter values, by filter name."""
    result: Defines = {}
    for name, value in values.items():
        result |= BY_NAME[name].defines(value)
    return result


def expression(values: dict[str, Any], ports: Sequence[str]) -> str:
    """Return parsed filter values as a filter expression in tracefs; `ports` are fields.

    It keeps all that is wanted, but may keep more: sources/tracefs/session.py filters by task
    once more.
    """
    conditions = (
        one.expression(values[name], ports) for name in values if (one := BY_NAME[name]).expression
    )
    return " && ".join(filter(None, conditions))
