"""The filters: one table of what an option becomes, wherever events are told apart.

An entry knows its option and how its text is read; the C defines for the BPF programs, of which
probes/c/filters.h has the other half, one ``keep_`` predicate per define; the expression over
an event's fields by which tracefs filters without BPF (Documentation/trace/events.rst); and the
test of a record in Python, for what sock_diag lists, what tracefs cannot tell, and what was
recorded. No text of the user's reaches the C source: a value becomes integers in a define.

Nothing here asks the kernel. What a name stands for on this host, a `System` tells.
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter
from types import MappingProxyType
from typing import Any

from tcptrace.model import expressions, given, places, tables
from tcptrace.model.events import decode_text
from tcptrace.model.ranges import KEEP, Ranges
from tcptrace.model.systems import Cgroup, PinnedMap, System

Defines = dict[str, str]
Expression = Callable[[Any, Sequence[str]], str]
Test = Callable[..., bool]
"""Tells of a field's value, of ports of one value or more, whether it is wanted."""

MOST_COMPARED = 32
"""A list of more values is a table."""
EITHER_PORT = ("lport", "rport")
NO_VALUES: Mapping[str, Any] = MappingProxyType({})


def _place_defines(_patterns: Sequence[str]) -> Defines:
    return {"KEEP_PLACES": "1"}


def _range_defines(name: str) -> Callable[[Ranges], Defines]:
    def defines(ranges: Ranges) -> Defines:
        lists = {f"KEEP_{name}": ranges.keep, f"DROP_{name}": ranges.drop}
        return {
            key: " ".join(_range(low, high, ranges.began.get(low)) for low, high in pairs)
            for key, pairs in lists.items()
            if pairs
        }

    return defines


def _range(low: int, high: int, began: int | None) -> str:
    return f"X({low}U,{high}U)" if began is None else f"P({low}U,{began}ULL)"


def _listed(name: str, suffix: str, values: Iterable[int | None]) -> Defines:
    return {name: " ".join(f"X({value}{suffix},{value}{suffix})" for value in values)}


def _padded(name: bytes) -> bytes:
    """Return a name as the kernel has it."""
    return name.ljust(given.COMM_LENGTH + 1, b"\0")


def _comm_defines(names: Sequence[bytes]) -> Defines:
    words = (struct.unpack("=QQ", _padded(name)) for name in names)
    return {"KEEP_COMM": " ".join(f"Y({first:#x}ULL,{second:#x}ULL)" for first, second in words)}


def _ranges_test(ranges: Ranges) -> Test:
    """Compare a number; where there is none, a record passes unless only some are to be kept."""
    wants, without = ranges.test(), not ranges.keep
    return lambda number: without if number is None else wants(number)


def _ports_test(ranges: Ranges) -> Test:
    """Compare ports: one is to be kept and none to be dropped; 0 stands where there is none."""
    verdicts = ranges.table(given.U16_MAX + 1)

    def keeps(first: int | None, *more: int | None) -> bool:
        verdict = verdicts[first or 0]
        for port in more:
            verdict |= verdicts[port or 0]
        return verdict == KEEP

    return keeps


def _pids_test(ranges: Ranges) -> Test:
    """Compare a process id; 0 stands where a record has no process, as in the kernel."""
    wants = ranges.test()
    return lambda pid: wants(pid or 0)


def _comms_test(names: Sequence[bytes]) -> Test:
    return frozenset(map(decode_text, names)).__contains__


def _cgroups_test(cgroups: Sequence[Cgroup]) -> Test:
    """Compare the ids and paths of a record's cgroup and of those above, as far as known."""
    wanted = frozenset(name for cgroup in cgroups for name in cgroup if name is not None)
    return lambda known: not wanted.isdisjoint(known)


def _map_test(pinned: PinnedMap) -> Test:
    """Compare with the keys that the map has now."""
    return frozenset(pinned.keys()).__contains__


@dataclasses.dataclass(frozen=True, slots=True)
class Filter:
    """One filter: its option, how its values are read, and what they become where."""

    name: str
    """Its parameter name; probes name the filters that they honour by it."""
    flags: tuple[str, ...]
    metavar: str
    help: str
    parse: Callable[[Any, System], Any]
    """From the option's texts to a value; raises ValueError with a message for the user."""
    defines: Callable[[Any], Defines]
    expression: Expression | None
    """From a value, and the fields that hold ports, to tracefs's filter expression; None where
    tracefs cannot tell."""
    entries: Callable[[Any], Iterable[tables.Entry]] | None
    """From a value to a table's entries, for a list that is too long to be compared with; None
    where there is no list."""
    field: str
    """What it is about: an attribute of records; empty for ports, as probes differ in which."""
    test: Callable[[Any], Test]
    """From a value to a test of the field, which is None where it is not known."""
    multiple: bool = True
    """Whether the option can be repeated; then `parse` takes a sequence."""


FILTERS = (
    Filter(
        "pid",
        ("-p", "--pid"),
        "PIDS",
        "These processes (thread group ids): a list, ranges, exclusions (!181).",
        given.parse_pids,
        _range_defines("PID"),
        lambda _ranges, _ports: "",  # events have thread ids
        tables.of_ranges,
        "pid",
        _pids_test,
    ),
    Filter(
        "port",
        ("-P", "--port"),
        "PORTS",
        "{ports}: a list, ranges, exclusions (80,443,8000-8100 or !22).",
        given.parse_ports,
        _range_defines("PORT"),
        lambda ranges, ports: expressions.of_ranges(ranges, ports, expressions.port_between),
        tables.of_ranges,
        "",
        _ports_test,
    ),
    Filter(
        "uid",
        ("-u", "--uid"),
        "USERS",
        "These users, by name or id.",
        given.parse_user_ids,
        _range_defines("UID"),
        lambda ranges, _ports: expressions.of_ranges(ranges, ("uid",), expressions.between),
        tables.of_ranges,
        "uid",
        _ranges_test,
    ),
    Filter(
        "comm",
        ("--comm",),
        "NAME",
        "Threads of this name (at most 15 bytes); repeatable.",
        given.parse_comms,
        _comm_defines,
        expressions.of_names,
        lambda names: tables.of_values(map(_padded, names)),
        "comm",
        _comms_test,
    ),
    Filter(
        "netns",
        ("-N", "--netns"),
        "NETNS",
        "A network namespace: inode number, name under /run/netns, or path.",
        given.parse_netns,
        lambda inodes: _listed("KEEP_NETNS", "U", inodes),
        lambda inodes, _ports: expressions.either(f"netns == {inode}" for inode in inodes),
        lambda inodes: tables.of_values(inode.to_bytes(4, "big") for inode in inodes),
        "netns",
        lambda inodes: frozenset(inodes).__contains__,
    ),
    Filter(
        "cgroup",
        ("--cgroup",),
        "PATH",
        "Processes in this cgroup v2 directory or below it.",
        given.parse_cgroups,
        lambda cgroups: _listed("KEEP_CGROUP", "ULL", (cgroup.id for cgroup in cgroups)),
        None,
        lambda cgroups: tables.of_values((cgroup.id or 0).to_bytes(8, "big") for cgroup in cgroups),
        "cgroups",
        _cgroups_test,
    ),
    Filter(
        "unit",
        ("--unit",),
        "UNIT",
        "Processes in this systemd unit or below it: a name (nginx), or a pattern.",
        given.parse_units,
        _place_defines,
        None,
        None,
        "identity",
        places.of_units,
    ),
    Filter(
        "container",
        ("--container",),
        "CONTAINER",
        "Processes in this container, by name, pattern, or the beginning of its id.",
        given.parse_containers,
        _place_defines,
        None,
        None,
        "identity",
        places.of_containers,
    ),
    Filter(
        "pod",
        ("--pod",),
        "POD",
        "Processes in this Kubernetes pod: NAMESPACE/NAME or NAME, or a pattern.",
        given.parse_pods,
        _place_defines,
        None,
        None,
        "identity",
        places.of_pods,
    ),
    Filter(
        "cgroupmap",
        ("--cgroupmap",),
        "PATH",
        "Processes whose cgroup id is a key of this pinned BPF map.",
        given.parse_map,
        lambda _map: {"CGROUPMAP": "1"},
        None,
        None,
        "cgroup_id",
        _map_test,
        multiple=False,
    ),
    Filter(
        "mntnsmap",
        ("--mntnsmap",),
        "PATH",
        "Processes whose mount namespace is a key of this pinned BPF map.",
        given.parse_map,
        lambda _map: {"MNTNSMAP": "1"},
        None,
        None,
        "mntns",
        _map_test,
        multiple=False,
    ),
)
FAMILY = Filter(
    "family",
    ("-4/-6",),
    "",
    "IPv4 or IPv6 only; an IPv4-mapped IPv6 address is IPv4.",
    given.parse_family,
    lambda family: {"KEEP_FAMILY": str(family)},
    expressions.of_family,
    None,
    "family",
    lambda family: family.__eq__,
    multiple=False,
)
BY_PLACE = frozenset({"unit", "container", "pod"})
"""The filters that user space judges, once for each cgroup: see `tcptrace.sources.places`."""
BY_NAME = {entry.name: entry for entry in (*FILTERS, FAMILY)}


def _length(value: Any) -> int:
    """Return how many values a list has."""
    return len(value.keep) + len(value.drop) if isinstance(value, Ranges) else len(value)


def _text(value: Any) -> str:
    """Return a value as text, alike for what is alike."""
    if isinstance(value, Ranges):
        pairs = [("", *pair) for pair in value.keep] + [("!", *pair) for pair in value.drop]
        return ",".join(
            f"{mark}{low}" if low == high else f"{mark}{low}-{high}" for mark, low, high in pairs
        )
    if isinstance(value, Cgroup):
        return value.path or str(value.id)
    if isinstance(value, PinnedMap):
        return value.path
    if isinstance(value, bytes):
        return decode_text(value)
    return str(value)


class Filters:
    """The filters of a run: what was asked, and what becomes of it in each place."""

    def __init__(
        self,
        values: Mapping[str, Any] = NO_VALUES,
        port_fields: Sequence[str] = EITHER_PORT,
    ) -> None:
        """Take parsed values by filter name, and the fields of records that ``-P`` is about."""
        self.values = dict(values)
        self.port_fields = tuple(port_fields)

    def texts(self) -> dict[str, str]:
        """Return the values as text by name, for people and recordings."""
        return {
            name: ",".join(map(_text, value)) if type(value) is tuple else _text(value)
            for name, value in self.values.items()
        }

    def only(self, names: Collection[str]) -> Filters:
        """Return those of these names."""
        values = {name: self.values[name] for name in self.values if name in names}
        return Filters(values, self.port_fields)

    def without(self, names: Collection[str]) -> Filters:
        """Return all but those of these names."""
        return self.only(self.values.keys() - names)

    def defines(self) -> Defines:
        """Return the C defines; of a long list, that there is a table."""
        result: Defines = {}
        for name, value in self.values.items():
            if name in self.tables:
                result[f"{name.upper()}_TABLE"] = "1"
            else:
                result |= BY_NAME[name].defines(value)
        return result

    @functools.cached_property
    def tables(self) -> dict[str, list[tables.Entry]]:
        """Return the entries of long lists, by filter name; ``NAME_table`` is the map of each."""
        return {
            name: list(entries(value))
            for name, value in self.values.items()
            if (entries := BY_NAME[name].entries) and _length(value) > MOST_COMPARED
        }

    def expression(self, ports: Sequence[str]) -> str:
        """Return a filter expression in tracefs; `ports` are fields.

        It keeps all that is wanted, but may keep more: sources/tracefs/session.py filters by task
        once more.
        """
        conditions = (
            entry.expression(value, ports)
            for name, value in self.values.items()
            if (entry := BY_NAME[name]).expression
        )
        return " && ".join(filter(None, conditions))

    def test(self, name: str) -> Test:
        """Return the test of the field that one of the filters is about, or of ports.

        It passes all where the filter was not asked for.
        """
        if name not in self.values:
            return lambda *_: True
        return BY_NAME[name].test(self.values[name])

    def predicate(self, port_fields: Sequence[str] = ()) -> Callable[[Any], bool]:
        """Return `keeps` as a function, for many records; `port_fields` in place of the run's.

        What a filter asks of the system, such as the keys of a pinned map, it asks now.
        """
        tests = [
            _of_record(self.test(name), BY_NAME[name].field or port_fields or self.port_fields)
            for name in self.values
        ]
        return functools.reduce(_both, tests) if tests else lambda _record: True

    @functools.cached_property
    def keeps(self) -> Callable[[Any], bool]:
        """Tell whether a record passes all filters, as the kernel judges it when it happens.

        A connection that has ended is judged by the process in its record; the kernel also keeps
        one whose beginning it has kept.
        """
        return self.predicate()


def _of_record(test: Test, fields: str | Sequence[str]) -> Callable[[Any], bool]:
    """Return a test of a record by one of its attributes, or by several."""
    if isinstance(fields, str) or len(fields) == 1:
        get = attrgetter(fields if isinstance(fields, str) else fields[0])
        return lambda record: test(get(record))
    get_all = attrgetter(*fields)
    return lambda record: test(*get_all(record))


def _both(first: Callable[[Any], bool], second: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda record: first(record) and second(record)
