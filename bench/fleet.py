"""The join of a fleet's recordings, on a fleet that is made up: precision, recall, time, memory.

What happens is known: who connects to whom, when, through which translation, between hosts whose
clocks are apart. It is written as `tracer` would have kept it on each host, and joined.

    bench/fleet.py --connections 1000000
    bench/fleet.py --connections 100000 --engine spark

Hosts: 1,000, with 20 services; each fiftieth clock is 3 s ahead. Of the connections, a fifth comes
from behind address translation, half goes to a service's address that is translated, 3 % leave the
fleet, 2 % come from elsewhere, and 2.5 % of the attempts fail. Each tenth host's recordings have no
sequence numbers. A file has all hosts' rows of a million connections.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from tcptrace.map.duck import DuckDb
from tcptrace.map.engine import Engine, Files, statements
from tcptrace.map.inputs import Wanted, make_input
from tcptrace.map.join import make_map

START_NS = 1_796_000_000 // 86_400 * 86_400 * 1_000_000_000
"""Midnight of the day that is made up, UTC."""
HOSTS, SERVICES = 1000, 20
PER_FILE = 1_000_000
SALT = 10**12
"""Numbers so far apart have hashes that know nothing of each other."""

# One row a connection. Every choice is a hash of the connection's number.
HAPPENED = f"""
CREATE OR REPLACE TEMP TABLE happened AS
WITH numbered AS (
    SELECT
        range AS i, hash(range) AS h1, hash(range + {SALT}) AS h2, hash(range + 2 * {SALT}) AS h3
    FROM range({{first}}, {{end}})
), chosen AS (
    SELECT
        *,
        h1 % {HOSTS} AS client, (h1 >> 16) % 4 AS nth, (h1 >> 24) % 3 AS replica,
        CASE
            WHEN (h1 >> 32) % 100 < 2 THEN 'refused'
            WHEN (h1 >> 32) % 1000 < 25 THEN 'timeout'
            ELSE 'established'
        END AS outcome,
        (h1 >> 42) % 100 < 3 AS is_external,
        (h1 >> 52) % 100 < 2 AS is_unmonitored,
        {START_NS} + CAST((h2 % 1000000000) * 86000.0 AS BIGINT) AS at_ns,
        100000 + h3 % 5000000 AS latency_ns,
        h3 >> 24 AS bytes
    FROM numbered
)
SELECT
    *,
    (client * 7 + nth * 3) % {SERVICES} AS service,
    ((client * 13 + nth * 5 + replica * 31) % {HOSTS // SERVICES}) * {SERVICES}
        + (client * 7 + nth * 3) % {SERVICES} AS server,
    client % 5 = 0 AS is_translated,
    client % 2 = 1 AS by_name,
    32768 + (h2 >> 32) % 28000 AS port,
    20000 + (h2 >> 48) % 40000 AS port_behind,
    h3 & 4294967295 AS iss,
    hash(i + 3 * {SALT}) & 4294967295 AS irs
FROM chosen
"""  # noqa: S608 - numbers of ours
# What each end sees of it, and keeps. `unit` is the connection's number: the truth.
SEEN = """
CREATE OR REPLACE TEMP VIEW seen AS
WITH ends AS (
    SELECT
        *,
        'host-' || lpad(client::VARCHAR, 4, '0') AS client_host,
        'host-' || lpad(server::VARCHAR, 4, '0') AS server_host,
        '10.' || client // 250 || '.' || client % 250 || '.1' AS client_addr,
        '10.' || server // 250 || '.' || server % 250 || '.1' AS server_addr,
        CASE WHEN client % 50 = 7 THEN 3000000000 ELSE (client % 9) * 10000000 END AS client_off,
        CASE WHEN server % 50 = 7 THEN 3000000000 ELSE (server % 9) * 10000000 END AS server_off,
        8000 + service AS server_port
    FROM happened
), views AS (
    SELECT
        *,
        CASE WHEN is_translated THEN '172.17.0.2' ELSE client_addr END AS own_addr,
        CASE
            WHEN is_external THEN '198.51.100.' || service
            WHEN by_name THEN '10.96.0.' || service
            ELSE server_addr
        END AS asked_addr,
        CASE WHEN is_external THEN 443 WHEN by_name THEN 80 ELSE server_port END AS asked_port,
        CASE WHEN is_external OR by_name THEN 'service-' || service || '.example' END AS name,
        CASE WHEN is_unmonitored THEN '203.0.113.' || i % 5 ELSE client_addr END AS seen_addr,
        CASE WHEN is_translated THEN port_behind ELSE port END AS seen_port,
        CASE WHEN client % 10 <> 3 THEN iss END AS client_iss,
        CASE WHEN client % 10 <> 3 THEN irs END AS client_irs,
        CASE WHEN server % 10 <> 3 THEN iss END AS server_irs,
        CASE WHEN server % 10 <> 3 THEN irs END AS server_iss
    FROM ends
), rows AS (
    SELECT
        i, 'connect' AS type, client_host AS host, at_ns + client_off AS ts,
        'app-' || client % 7 AS comm, own_addr AS laddr,
        CASE WHEN outcome = 'established' THEN port END AS lport,
        asked_addr AS raddr, asked_port AS rport,
        CASE WHEN outcome = 'established' THEN client_iss END AS iss,
        CASE WHEN outcome = 'established' THEN client_irs END AS irs,
        CASE WHEN outcome <> 'timeout' THEN latency_ns / 1e6 END AS latency_ms,
        outcome, name AS query, NULL AS tx_bytes, NULL AS rx_bytes
    FROM views WHERE NOT is_unmonitored
    UNION ALL
    SELECT
        i, 'accept', server_host, at_ns + server_off + latency_ns // 2 + 100000,
        'service-' || service, server_addr, server_port, seen_addr, seen_port,
        server_iss, server_irs, NULL, NULL, NULL, NULL, NULL
    FROM views WHERE outcome = 'established' AND NOT is_external
    UNION ALL
    SELECT
        i, 'close', client_host, at_ns + client_off + 50000000 + bytes % 1000000,
        'app-' || client % 7, own_addr, port, asked_addr, asked_port,
        client_iss, client_irs, NULL, NULL, NULL, bytes % 1000, bytes % 100000
    FROM views WHERE outcome = 'established' AND NOT is_unmonitored
    UNION ALL
    SELECT
        i, 'close', server_host, at_ns + server_off + 55000000 + bytes % 1000000,
        'service-' || service, server_addr, server_port, seen_addr, seen_port,
        server_iss, server_irs, NULL, NULL, NULL, bytes % 100000, bytes % 1000
    FROM views WHERE outcome = 'established' AND NOT is_external
)
SELECT
    host, type, make_timestamp_ns(ts::BIGINT) AS time, (ts - {start})::UBIGINT AS ts_ns,
    'boot-' || host AS boot_id, 4026531840::UINTEGER AS netns, comm, 4::USMALLINT AS family,
    laddr, lport::USMALLINT AS lport, raddr, rport::USMALLINT AS rport, iss::UINTEGER AS iss,
    irs::UINTEGER AS irs, latency_ms, outcome, query, tx_bytes::UBIGINT AS tx_bytes,
    rx_bytes::UBIGINT AS rx_bytes, i::VARCHAR AS unit
FROM rows
"""
# What could be joined, by what there is to join it by.
JOINABLE = """
SELECT
    CASE
        WHEN client % 10 <> 3 AND server % 10 <> 3 THEN 'numbers'
        WHEN NOT is_translated AND NOT by_name THEN 'ends'
        ELSE 'neither'
    END AS means,
    COUNT(*)
FROM happened
WHERE outcome = 'established' AND NOT is_external AND NOT is_unmonitored
GROUP BY means
"""
RIGHT = """
SELECT COUNT(*), SUM(CASE WHEN c.label = a.label THEN 1 ELSE 0 END)
FROM pairs p
JOIN connects c ON c.id = p.connect_id
JOIN accepts a ON a.id = p.accept_id
"""


def generate(place: Path, connections: int, memory: str) -> dict[str, int]:
    """Write what a fleet has kept; return how many connections have both ends in it, by means."""
    able: dict[str, int] = {}
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{memory}'; SET preserve_insertion_order = false")
        for number, first in enumerate(range(0, connections, PER_FILE)):
            end = min(first + PER_FILE, connections)
            connection.execute(HAPPENED.format(first=first, end=end))
            for means, count in connection.execute(JOINABLE).fetchall():
                able[means] = able.get(means, 0) + count
            connection.execute(SEEN.format(start=START_NS))
            path = place / f"tracer-{number:04d}.parquet"
            connection.execute(f"COPY seen TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    return able


def make_engine(name: str, memory: int, place: str) -> Engine:
    """Start an engine."""
    if name == "duckdb":
        return DuckDb(memory, place)
    from tcptrace.map.spark import Spark  # noqa: PLC0415 - an extra

    return Spark("local[*]", memory, place)


def join(place: Path, name: str, memory: int) -> dict[str, Any]:
    """Make the map; return what it cost. This is the whole of a process."""
    tables = [Files(sorted(map(str, place.glob("*.parquet"))))]
    engine = make_engine(name, memory, str(place))
    began = time.monotonic()
    made = make_map(engine, tables, Wanted())
    seconds = time.monotonic() - began
    engine.close()
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "edges": len(made.edges),
        "attempts": sum(edge.attempts for edge in made.edges),
        "clocks": len(made.clocks),
        **made.counts,
        "s": round(seconds, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "max_mb": used.ru_maxrss >> 10,
    }


def judge(place: Path, memory: int) -> dict[str, int]:
    """Return how many pairs there are, and how many of them are right."""
    engine = DuckDb(memory, str(place))
    make_input(engine, [Files(sorted(map(str, place.glob("*.parquet"))))], Wanted(by="unit"))
    for statement in statements():
        engine.run(statement)
        if "CREATE TABLE pairs" in statement:
            break
    ((pairs, right),) = engine.rows(RIGHT)
    engine.close()
    return {"pairs": int(pairs), "right": int(right)}


def part(place: Path, what: str, *more: str) -> dict[str, Any]:
    """Return the result of a part that has a process of its own."""
    command = [sys.executable, __file__, "--place", str(place), "--part", what, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Generate, join, judge and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb")
    parser.add_argument("--memory-mb", type=int, default=4000)
    parser.add_argument("--place", type=Path, help="where recordings are that are to be joined")
    parser.add_argument("--part", choices=("join", "judge"))
    given = parser.parse_args()
    memory = given.memory_mb * 1_000_000
    if given.part == "join":
        print(json.dumps(join(given.place, given.engine, memory)))
    elif given.part == "judge":
        print(json.dumps(judge(given.place, memory)))
    else:
        _all(given)


def _all(given: argparse.Namespace) -> None:
    more = ("--engine", given.engine, "--memory-mb", str(given.memory_mb))
    with tempfile.TemporaryDirectory(prefix="tcptrace-fleet-") as name:
        place = Path(name)
        began = time.monotonic()
        able = generate(place, given.connections, f"{given.memory_mb}MB")
        size = sum(path.stat().st_size for path in place.iterdir())
        print(f"generated in {time.monotonic() - began:.0f} s: {size / 1e6:.0f} MB")
        print(f"connections with both ends, by what could join them: {able}")
        print(part(place, "join", *more), flush=True)
        found = part(place, "judge", *more)
        print(f"precision {found['right'] / found['pairs']:.6f} of {found['pairs']} pairs")
        print(f"recall {found['right'] / (able['numbers'] + able['ends']):.6f}")


if __name__ == "__main__":
    main()
