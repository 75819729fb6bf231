"""Filters as conditions of SQL, on the columns of recordings; what is not known is NULL there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tcptrace.model.events import decode_text
from tcptrace.model.filters import BY_PLACE, Filters
from tcptrace.model.ranges import Pairs, Ranges
from tcptrace.model.systems import Cgroup

Quote = Callable[[str], str]
"""Returns a text as it stands in a query."""
PORT = "CASE WHEN type = 'accept' THEN lport ELSE rport END"
"""The port that a connection was made to, as this end sees it."""


def _between(value: str, pairs: Pairs) -> str:
    return " OR ".join(f"{value} BETWEEN {low} AND {high}" for low, high in pairs) or "FALSE"


def _of_ranges(value: str, ranges: Ranges) -> str:
    """Return what holds for numbers that are kept."""
    keeps = _between(value, ranges.keep) if ranges.keep else "TRUE"
    return f"(({keeps}) AND NOT ({_between(value, ranges.drop)}))"


def _of_users(ranges: Ranges) -> str:
    """Return what holds for users; one who is not known passes unless only some are kept."""
    without = "FALSE" if ranges.keep else "TRUE"
    return f"(CASE WHEN uid IS NULL THEN {without} ELSE {_of_ranges('uid', ranges)} END)"


def _any_of(column: str, values: Iterable[str]) -> str:
    return f"({column} IN ({', '.join(values)}))"


def _of_cgroups(cgroups: Sequence[Cgroup], quote: Quote) -> str:
    """Return what holds for cgroups and those below them."""
    tests = []
    for path in (cgroup.path or "" for cgroup in cgroups):
        below = path.rstrip("/") + "/"
        tests.append(f"cgroup = {quote(path)}")
        tests.append(f"SUBSTRING(cgroup, 1, {len(below)}) = {quote(below)}")
    return f"({' OR '.join(tests)})"


def conditions(filters: Filters, quote: Quote) -> list[str]:
    """Return conditions that a row of a recording meets, all of them, which is wanted.

    Those by place, such as units, are not among them: they are judged by `tcptrace.map.inputs`.
    """
    of: Mapping[str, Callable[[Any], str]] = {
        "pid": lambda ranges: _of_ranges("COALESCE(pid, 0)", ranges),
        "port": lambda ranges: _of_ranges(f"COALESCE({PORT}, 0)", ranges),
        "uid": _of_users,
        "comm": lambda names: _any_of("comm", (quote(decode_text(name)) for name in names)),
        "netns": lambda inodes: _any_of("netns", map(str, inodes)),
        "cgroup": lambda cgroups: _of_cgroups(cgroups, quote),
        "family": lambda family: f"(family = {family})",
    }
    return [of[name](value) for name, value in filters.without(BY_PLACE).values.items()]
