"""The join of a fleet's recordings, on a fleet that is made up: precision, recall, time, memory.

What happens is known: who connects to whom, when, through which translation, between hosts whose
clocks are apart. It is written as `tracer` would have kept it on each host, and joined.

    bench/fleet.py --connections 1000000
    bench/fleet.py --connections 100000 --engine spark
    bench/fleet.py --connections 100000000 --place DIR     what is there is not made again

Hosts: 1,000, with 20 services; each fiftieth clock is 3 s ahead. Of the connections, a fifth comes
from behind address translation, half goes to a service's address that is translated, 3 % leave the
fleet, 2 % come from elsewhere, and 2.5 % of the attempts fail. Each tenth host's recordings have no
sequence numbers. A file has all hosts' rows of a million connections.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import duckdb

from tcptrace.map.duck import DuckDb
from tcptrace.map.engine import Engine, Files
from tcptrace.map.inputs import Wanted
from tcptrace.map.join import make_map

START_NS = 1_796_000_000 // 86_400 * 86_400 * 1_000_000_000
"""Midnight of the day that is made up, UTC."""
HOSTS, SERVICES = 1000, 20
PER_FILE = 1_000_000
BLOCK = 512
LOOK_S = 0.5
"""So often it is looked at what a join takes."""
SALT = 10**12
"""Numbers so far apart have hashes that know nothing of each other."""


def ahead(host: str) -> str:
    """Return the expression of how far a host's clock is ahead, in nanoseconds."""
    return f"CASE WHEN {host} % 50 = 7 THEN 3000000000 ELSE ({host} % 9) * 10000000 END"


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
# What each end sees of it, and keeps.
SEEN = """
CREATE OR REPLACE TEMP VIEW seen AS
WITH ends AS (
    SELECT
        *,
        'host-' || lpad(client::VARCHAR, 4, '0') AS client_host,
        'host-' || lpad(server::VARCHAR, 4, '0') AS server_host,
        '10.' || client // 250 || '.' || client % 250 || '.1' AS client_addr,
        '10.' || server // 250 || '.' || server % 250 || '.1' AS server_addr,
        {client_off} AS client_off,
        {server_off} AS server_off,
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
        'connect' AS type, client_host AS host, at_ns + client_off AS ts,
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
        'accept', server_host, at_ns + server_off + latency_ns // 2 + 100000,
        'service-' || service, server_addr, server_port, seen_addr, seen_port,
        server_iss, server_irs, NULL, NULL, NULL, NULL, NULL
    FROM views WHERE outcome = 'established' AND NOT is_external
    UNION ALL
    SELECT
        'close', client_host, at_ns + client_off + 50000000 + bytes % 1000000,
        'app-' || client % 7, own_addr, port, asked_addr, asked_port,
        client_iss, client_irs, NULL, NULL, NULL, bytes % 1000, bytes % 100000
    FROM views WHERE outcome = 'established' AND NOT is_unmonitored
    UNION ALL
    SELECT
        'close', server_host, at_ns + server_off + 55000000 + bytes % 1000000,
        'service-' || service, server_addr, server_port, seen_addr, seen_port,
        server_iss, server_irs, NULL, NULL, NULL, bytes % 100000, bytes % 1000
    FROM views WHERE outcome = 'established' AND NOT is_external
)
SELECT
    host, type, make_timestamp_ns(ts::BIGINT) AS time, (ts - {start})::UBIGINT AS ts_ns,
    'boot-' || host AS boot_id, 4026531840::UINTEGER AS netns, comm, 4::USMALLINT AS family,
    laddr, lport::USMALLINT AS lport, raddr, rport::USMALLINT AS rport, iss::UINTEGER AS iss,
    irs::UINTEGER AS irs, latency_ms, outcome, query, tx_bytes::UBIGINT AS tx_bytes,
    rx_bytes::UBIGINT AS rx_bytes
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
# A pair is right if its times are: to the nanosecond, they are no other's. The server has accepted
# half of the latency and 0.1 ms after the connect, each by its own clock.
RIGHT = f"""
SELECT
    COUNT(*),
    SUM(CASE
        WHEN 2 * (a.ts - ({ahead("CAST(SUBSTRING(a.host, 6) AS BIGINT)")}) - 100000
            - c.ts + ({ahead("CAST(SUBSTRING(c.host, 6) AS BIGINT)")}))
            = c.latency_ns - c.latency_ns % 2
        THEN 1 ELSE 0 END)
FROM pairs p
JOIN connects c ON c.id = p.connect_id
JOIN accepts a ON a.id = p.accept_id
"""  # noqa: S608 - numbers of ours


def generate(place: Path, connections: int, memory: str) -> None:
    """Write what a fleet has kept, and beside it how many connections could be joined, by means."""
    with duckdb.connect() as connection:
        connection.execute(f"SET memory_limit = '{memory}'; SET preserve_insertion_order = false")
        for number, first in enumerate(range(0, connections, PER_FILE)):
            end = min(first + PER_FILE, connections)
            path = place / f"tracer-{number:04d}-{end}.parquet"
            if path.exists():
                continue
            connection.execute(HAPPENED.format(first=first, end=end))
            able = dict(connection.execute(JOINABLE).fetchall())
            path.with_suffix(".json").write_text(json.dumps(able), encoding="ascii")
            offs = {"client_off": ahead("client"), "server_off": ahead("server")}
            connection.execute(SEEN.format(start=START_NS, **offs))
            part = path.with_suffix(".part")
            connection.execute(f"COPY seen TO '{part}' (FORMAT parquet, COMPRESSION zstd)")
            part.rename(path)


def joinable(place: Path) -> dict[str, int]:
    """Return how many connections have both ends in recordings, by what could join them."""
    able: dict[str, int] = {}
    for path in place.glob("*.json"):
        for means, count in json.loads(path.read_text(encoding="ascii")).items():
            able[means] = able.get(means, 0) + count
    return able


def make_engine(name: str, memory: int, place: str) -> Engine:
    """Start an engine."""
    if name == "duckdb":
        return DuckDb(memory, place)
    from tcptrace.map.spark import Spark  # noqa: PLC0415 - an extra

    return Spark("local[*]", memory, place)


def join(place: Path, name: str, memory: int) -> Iterator[dict[str, Any]]:
    """Yield what the map is, and then what is right of it. This is the whole of a process."""
    tables = [Files(sorted(map(str, place.glob("*.parquet"))))]
    engine = make_engine(name, memory, str(place))
    began = time.monotonic()
    made = make_map(engine, tables, Wanted())
    yield {
        "edges": len(made.edges),
        "attempts": sum(edge.attempts for edge in made.edges),
        "clocks": len(made.clocks),
        **made.counts,
        "s": round(time.monotonic() - began, 1),
    }
    ((pairs, right),) = engine.rows(RIGHT)
    engine.close()
    yield {"pairs": int(pairs), "right": int(right)}


def _size(path: Path) -> int:
    """Return what a file takes on disk, nothing where it is gone."""
    with suppress(OSError):
        return path.stat().st_blocks * BLOCK
    return 0


class Watch:
    """What a process and those that it has started take: an engine may be one of them."""

    def __init__(self, pid: int, place: Path) -> None:
        """Watch a process, and what stands on disk beside recordings."""
        self._place = place
        self._ours = {pid}
        self._cpu_s: dict[int, float] = {}
        self._peak_mb: dict[int, int] = {}
        self._disk = 0

    def go_on(self, process: subprocess.Popen[str]) -> None:
        """Look until a process has ended."""
        while process.poll() is None:
            self._look()
            time.sleep(LOOK_S)

    def _look(self) -> None:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it has ended
                self._take(int(stat.parent.name), stat.read_bytes().rpartition(b")")[2].split())
        self._disk = max(self._disk, sum(map(_size, self._place.glob("tcptrace-map-*/**/*"))))

    def _take(self, pid: int, fields: list[bytes]) -> None:
        if pid not in self._ours and int(fields[1]) not in self._ours:
            return
        self._ours.add(pid)
        self._cpu_s[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        status = Path(f"/proc/{pid}/status").read_bytes()
        peak = status.partition(b"VmHWM:")[2].split()
        self._peak_mb[pid] = int(peak[0]) >> 10 if peak else 0

    def taken(self) -> dict[str, Any]:
        """Return what was taken so far."""
        return {
            "cpu_s": round(sum(self._cpu_s.values()), 1),
            "max_mb": sum(self._peak_mb.values()),
            "disk_mb": self._disk // 1_000_000,
        }


def watched(place: Path, *more: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of `join`, in processes of its own, with what was taken so far."""
    command = [sys.executable, __file__, "--place", str(place), "--join", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = Watch(process.pid, place)
        Thread(target=watch.go_on, args=(process,)).start()
        for line in process.stdout or ():
            yield {**json.loads(line), **watch.taken()}
    if process.returncode:
        raise SystemExit(process.returncode)


def main() -> None:
    """Generate, join, judge and tell."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--engine", choices=("duckdb", "spark"), default="duckdb")
    parser.add_argument("--memory-mb", type=int, default=4000)
    parser.add_argument("--place", type=Path, help="where recordings are kept, or were")
    parser.add_argument("--join", action="store_true", help="join what is there, and nothing else")
    given = parser.parse_args()
    if given.join:
        for found in join(given.place, given.engine, given.memory_mb * 1_000_000):
            print(json.dumps(found), flush=True)
    elif given.place:
        given.place.mkdir(parents=True, exist_ok=True)
        _all(given, given.place)
    else:
        with tempfile.TemporaryDirectory(prefix="tcptrace-fleet-") as name:
            _all(given, Path(name))


def _all(given: argparse.Namespace, place: Path) -> None:
    began = time.monotonic()
    generate(place, given.connections, f"{given.memory_mb}MB")
    size = sum(path.stat().st_size for path in place.glob("*.parquet"))
    print(f"generated in {time.monotonic() - began:.0f} s: {size / 1e6:.0f} MB")
    able = joinable(place)
    print(f"connections with both ends, by what could join them: {able}", flush=True)
    for found in watched(place, "--engine", given.engine, "--memory-mb", str(given.memory_mb)):
        print(found, flush=True)
    print(f"precision {found['right'] / found['pairs']:.7f}")
    print(f"recall {found['right'] / (able['numbers'] + able['ends']):.7f}")


if __name__ == "__main__":
    main()
