"""The map of recordings: `make_map` runs map.sql and reads what it made."""

from __future__ import annotations

from collections.abc import Iterable

from tcptrace.map.edges import Clock, Map, edge_of
from tcptrace.map.engine import Engine, Files, statements
from tcptrace.map.inputs import Wanted, make_input

NOTICED_NS = 100_000_000
"""Clocks that are less apart are not worth a word."""
_EDGES = """
SELECT client_kind, client, client_host, server_kind, server, server_host, port, name, attempts,
    refused, timed_out, unreachable, aborted, failed_otherwise, tx_bytes, rx_bytes, p50_ns, p95_ns,
    first_ns, last_ns
FROM edges
ORDER BY
    attempts DESC, client NULLS FIRST, client_host NULLS FIRST, server NULLS FIRST,
    server_host NULLS FIRST, port NULLS FIRST, client_kind, server_kind
"""
# Each pair of hosts once: by connections of one way, or the mean of both, in which latency cancels.
_CLOCKS = f"""
SELECT host, of, SUM(ahead_ns * pairs) / SUM(pairs), SUM(pairs)
FROM (
    SELECT
        GREATEST(client_host, server_host) AS host, LEAST(client_host, server_host) AS of, pairs,
        CASE WHEN server_host > client_host THEN ahead_ns ELSE -ahead_ns END AS ahead_ns
    FROM clocks
    WHERE hour IS NULL AND ABS(ahead_ns) >= {NOTICED_NS}
) directed
GROUP BY host, of
ORDER BY host, of
"""  # noqa: S608 - a number of ours


def make_map(engine: Engine, tables: Iterable[Files], wanted: Wanted) -> Map:
    """Return the map of recordings. Raises TcptraceError."""
    make_input(engine, tables, wanted)
    for statement in statements():
        engine.run(statement)
    edges = [edge_of(row) for row in engine.rows(_EDGES)]
    clocks = [
        Clock(host, of, round(float(ahead_ns) / 1e6, 3), int(pairs))
        for host, of, ahead_ns, pairs in engine.rows(_CLOCKS)
    ]
    return Map(edges, clocks)
