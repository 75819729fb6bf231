"""Who connected to whom in some time, as far as two times can be compared: `Baseline`.

Process ids, ports of clients and single addresses change by themselves. What is compared is a
program, the name that it asked for or else the network of the address, and the port.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from ipaddress import ip_address, ip_network
from typing import Literal, NamedTuple

PREFIXES: Mapping[int, int] = {4: 24, 6: 64}
"""How long the prefix of a network is, by IP version."""
SIGNIFICANT = 0.001
"""An edge fails more often where chance would make as many failures less often than that."""
Change = Literal["new", "gone", "failing"]


class Attempt(NamedTuple):
    """Whom a program asked for."""

    program: str | None
    name: str | None
    network: str | None
    port: int | None


class Edge(NamedTuple):
    """What is compared."""

    program: str | None
    destination: str | None
    """A name, or a network."""
    port: int | None

    @property
    def target(self) -> str:
        """The destination with its port, as people read it."""
        text = self.destination or "?"
        is_network = "/" in text and ":" in text
        port = "?" if self.port is None else self.port
        return f"[{text}]:{port}" if is_network else f"{text}:{port}"


class Counts(NamedTuple):
    """How often it was tried, and failed."""

    attempts: int = 0
    failed: int = 0

    def plus(self, other: Counts) -> Counts:
        """Return the sum of both."""
        return Counts(self.attempts + other.attempts, self.failed + other.failed)

    def __str__(self) -> str:
        """Return it as people read it."""
        if not self.attempts:
            return "-"
        return f"{self.attempts}, {self.failed} failed" if self.failed else str(self.attempts)


NONE = Counts()


@lru_cache(maxsize=65536)
def network_of(address: str | None) -> str | None:
    """Return the network of an address: of 256 addresses, or of IPv6's smallest networks."""
    try:
        version = ip_address(address or "").version
    except ValueError:
        return address
    return str(ip_network(f"{address}/{PREFIXES[version]}", strict=False))


@dataclasses.dataclass(frozen=True)
class Baseline:
    """All attempts of a time."""

    counts: dict[Attempt, Counts] = dataclasses.field(default_factory=dict)

    def add(self, attempt: Attempt, counts: Counts) -> None:
        """Take attempts."""
        self.counts[attempt] = self.counts.get(attempt, NONE).plus(counts)

    @cached_property
    def has_names(self) -> bool:
        """Whether names were recorded."""
        return any(attempt.name for attempt in self.counts)

    def edges(self, *, by_name: bool) -> dict[Edge, Counts]:
        """Return what is compared, by name where there is one, or by network alone."""
        edges: dict[Edge, Counts] = {}
        for attempt, counts in self.counts.items():
            edge = edge_of(attempt, by_name=by_name)
            edges[edge] = edges.get(edge, NONE).plus(counts)
        return edges

    @cached_property
    def known(self) -> frozenset[Edge]:
        """What such attempts are by name, and what they are by network."""
        return frozenset((*self.edges(by_name=True), *self.edges(by_name=False)))

    def knows(self, attempt: Attempt) -> bool:
        """Tell whether such an attempt was made before."""
        return edge_of(attempt, by_name=self.has_names) in self.known

    def unnamed_in(self, other: Baseline) -> set[Edge]:
        """Return edges by name whose networks another time has without one: it may be the same."""
        unnamed = {edge_of(attempt, by_name=True) for attempt in other.counts if not attempt.name}
        return {
            edge_of(attempt, by_name=True)
            for attempt in self.counts
            if edge_of(attempt, by_name=False) in unnamed
        }


def edge_of(attempt: Attempt, *, by_name: bool) -> Edge:
    """Return what is compared of an attempt."""
    name = attempt.name if by_name else None
    return Edge(attempt.program, name or attempt.network, attempt.port)


class Difference(NamedTuple):
    """An edge that is not as it was."""

    change: Change
    edge: Edge
    before: Counts
    now: Counts

    @property
    def ts_ns(self) -> int:
        """No time: it is of two."""
        return 0


def differences(base: Baseline, new: Baseline) -> Iterator[Difference]:
    """Yield what has come, what is gone, and what fails more often, the most frequent first."""
    by_name = base.has_names and new.has_names
    before, now = base.edges(by_name=by_name), new.edges(by_name=by_name)
    yield from _sorted(Difference("new", key, NONE, now[key]) for key in now.keys() - base.known)
    yield from _sorted(
        Difference("failing", key, before[key], now[key])
        for key in now.keys() & before.keys()
        if fails_more(before[key], now[key])
    )
    yield from _sorted(
        Difference("gone", key, before[key], NONE)
        for key in before.keys() - new.known - base.unnamed_in(new)
    )


def _sorted(found: Iterable[Difference]) -> list[Difference]:
    def order(difference: Difference) -> tuple[int, str]:
        return -difference.now.attempts - difference.before.attempts, str(difference.edge)

    return sorted(found, key=order)


def fails_more(before: Counts, now: Counts) -> bool:
    """Tell whether attempts fail more often than before, and not by chance.

    The chance is that of Fisher's exact test: of all failures, at least as many would be among the
    new attempts if both times were alike.
    """
    if now.failed * before.attempts <= before.failed * now.attempts:
        return False
    return _chance(before, now) < SIGNIFICANT


def _chance(before: Counts, now: Counts) -> float:
    failed = before.failed + now.failed
    every = _choices(before.attempts + now.attempts, failed)
    chance = 0.0
    for at in range(now.failed, min(failed, now.attempts) + 1):
        ways = _choices(now.attempts, at) + _choices(before.attempts, failed - at)
        term = math.exp(ways - every)
        chance += term
        if term < chance * 1e-9:
            break
    return chance


def _choices(count: int, of: int) -> float:
    """Return the logarithm of in how many ways `of` can be chosen; none where they are too many."""
    if of > count:
        return -math.inf
    return math.lgamma(count + 1) - math.lgamma(of + 1) - math.lgamma(count - of + 1)
