"""What a map has: edges, from who asked to who answered, and how far clocks are apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

from tcptrace.model.columns import SLOW_MS, TIME, Column, Mark, field, milliseconds
from tcptrace.model.events import time_text

KB = 1000
FAILURES = ("refused", "timed_out", "unreachable", "aborted", "failed_otherwise")
"""The kinds of failures, as in the JSON of `tcptrace top`."""
WORDS = {"timed_out": "timeout", "failed_otherwise": "other"}
PROCESS, EXTERNAL, UNMONITORED = "process", "external", "unmonitored"


class Node(NamedTuple):
    """One end of an edge."""

    kind: str
    """process: of a host that was recorded; external: a name or address to which connections were
    made; unmonitored: an address from which they came."""
    name: str | None
    """A process's program, unit or whatever the map is by; else a name or address."""
    host: str | None
    """Of a process."""

    def __str__(self) -> str:
        """Return it as people read it: nginx@web1, or db.example.org."""
        if self.host is None:
            return self.name or "?"
        return f"{self.name}@{self.host}" if self.name else self.host


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """All connections and attempts of a client to a port of a server."""

    weight: ClassVar[int] = 1

    client: Node
    server: Node
    port: int | None
    """Where the server listens; of an external one, where connections were made to."""
    name: str | None
    """What the client asked for, one of them where it was several."""
    attempts: int
    refused: int
    timed_out: int
    unreachable: int
    aborted: int
    failed_otherwise: int
    tx_bytes: int | None
    """Payload from the client to the server, of connections that have ended."""
    rx_bytes: int | None
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    first_ns: int
    last_ns: int

    @property
    def failed(self) -> int:
        """How many attempts failed."""
        return sum(getattr(self, kind) for kind in FAILURES)

    @property
    def target(self) -> str:
        """The server with its port, as people read it."""
        text = str(self.server)
        if self.port is None:
            return text
        is_address = self.server.host is None and ":" in text
        return f"[{text}]:{self.port}" if is_address else f"{text}:{self.port}"

    @property
    def wall_ns(self) -> int:
        """When it was last used."""
        return self.last_ns

    @property
    def ts_ns(self) -> int:
        """The same."""
        return self.last_ns


class Clock(NamedTuple):
    """How far a host's clock is ahead of another's."""

    host: str
    of: str
    ahead_ms: float
    """By the connections between them, so a part of their latency is in it."""
    pairs: int
    """So many connections agree, to a tenth of a second."""


class Map(NamedTuple):
    """A map, and what is to be known of it."""

    edges: list[Edge]
    clocks: list[Clock]

    @property
    def counts(self) -> dict[str, int]:
        """How many connections there are, of clients and of servers, and with both ends."""
        pairs, alone, unmonitored = 0, 0, 0
        for edge in self.edges:
            made = edge.attempts - edge.failed
            if edge.client.kind == UNMONITORED:
                unmonitored += made
            elif edge.server.kind == EXTERNAL:
                alone += made
            else:
                pairs += made
        return {"connects": pairs + alone, "accepts": pairs + unmonitored, "pairs": pairs}


def _why(edge: Any) -> str | None:
    """Return the most frequent reason why attempts failed."""
    most = max(FAILURES, key=lambda kind: getattr(edge, kind))
    return WORDS.get(most, most) if getattr(edge, most) else None


def _failed(edge: Any) -> Mark | None:
    return "failure" if edge.failed else None


def _kilobytes(key: str, heading: str, meaning: str) -> Column:
    def value(edge: Any, _first_ns: int) -> str | None:
        count = getattr(edge, key)
        return None if count is None else f"{count / KB:.1f}"

    return Column(key.removesuffix("_bytes"), heading, len(heading), value, meaning=meaning)


def _first(edge: Any, _first_ns: int) -> str:
    return time_text(edge.first_ns)


def _last(edge: Any, _first_ns: int) -> str:
    return time_text(edge.last_ns)


COLUMNS = (
    Column("from", "FROM", 24, lambda edge, _: str(edge.client), "bold", meaning="who connects"),
    Column("to", "TO", 28, lambda edge, _: edge.target, meaning="to whom, and which port"),
    field("name", "NAME", 20, meaning="the name that was asked for"),
    field("attempts", "ATTEMPTS", 8, meaning="attempts to connect, those that failed included"),
    field("failed", "FAILED", 6, concern=_failed, meaning="those that failed"),
    Column("why", "WHY", 11, lambda edge, _: _why(edge), meaning="why most of them failed"),
    _kilobytes("tx_bytes", "TX(KB)", "payload that clients sent, in connections that have ended"),
    _kilobytes("rx_bytes", "RX(KB)", "payload that they received"),
    milliseconds(
        "p50",
        "P50(ms)",
        7,
        name="latency_p50_ms",
        slow_ms=SLOW_MS,
        meaning="median of the time to connect",
    ),
    milliseconds(
        "p95",
        "P95(ms)",
        7,
        name="latency_p95_ms",
        slow_ms=SLOW_MS,
        meaning="95th percentile of the time to connect",
    ),
)
MORE_COLUMNS = (
    Column("first", "FIRST", 30, _first, "dim", meaning="when it was first used, UTC"),
    Column("last", "LAST", 30, _last, "dim", meaning="when it was last used, UTC"),
    TIME,
)


def edge_of(row: tuple[Any, ...]) -> Edge:
    """Return the edge of a row of the table `edges` in map.sql."""
    (kind, client, host, server_kind, server, server_host, port, name, attempts, *rest) = row
    (*failures, tx_bytes, rx_bytes, p50_ns, p95_ns, first_ns, last_ns) = rest
    return Edge(
        client=Node(kind, client, host),
        server=Node(server_kind, server, server_host),
        port=port,
        name=name,
        attempts=int(attempts),
        **dict(zip(FAILURES, map(int, failures), strict=True)),
        tx_bytes=None if tx_bytes is None else int(tx_bytes),
        rx_bytes=None if rx_bytes is None else int(rx_bytes),
        latency_p50_ms=None if p50_ns is None else round(p50_ns / 1e6, 6),
        latency_p95_ms=None if p95_ns is None else round(p95_ns / 1e6, 6),
        first_ns=int(first_ns),
        last_ns=int(last_ns),
    )


def _end(prefix: str, node: Node) -> dict[str, Any]:
    return {f"{prefix}_kind": node.kind, prefix: node.name, f"{prefix}_host": node.host}


def edge_to_json(edge: Edge) -> dict[str, Any]:
    """Return an edge as JSON has it, see docs/map.md; what is not known is left out."""
    values = {
        "type": "edge",
        **_end("client", edge.client),
        **_end("server", edge.server),
        "port": edge.port,
        "name": edge.name,
        "attempts": edge.attempts,
        "failed": edge.failed,
        **{kind: getattr(edge, kind) for kind in FAILURES},
        "tx_bytes": edge.tx_bytes,
        "rx_bytes": edge.rx_bytes,
        "latency_p50_ms": edge.latency_p50_ms,
        "latency_p95_ms": edge.latency_p95_ms,
        "first": time_text(edge.first_ns),
        "last": time_text(edge.last_ns),
    }
    return {key: value for key, value in values.items() if value is not None}


def clock_to_json(clock: Clock) -> dict[str, Any]:
    """Return how far two clocks are apart, as JSON has it."""
    return {"type": "clock", **clock._asdict()}


def to_json(made: Map) -> Iterator[dict[str, Any]]:
    """Yield all that a map has."""
    yield from map(edge_to_json, made.edges)
    yield from map(clock_to_json, made.clocks)
