"""From recordings to the view `recorded`, which map.sql reads: the same columns in every engine."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from tcptrace.map.conditions import conditions
from tcptrace.map.engine import Engine, Files
from tcptrace.model.filters import BY_PLACE, Filters
from tcptrace.model.identity import Identity

SECOND_NS = 1_000_000_000
MARGIN_NS = 600 * SECOND_NS
"""So long before the map's time a connection may have begun whose other end is in it."""
LATER_NS = 86_400 * SECOND_NS
"""So long after it an end is looked for, which tells the bytes."""
TYPES: Mapping[str, str] = {
    **dict.fromkeys(("type", "host", "boot_id", "comm", "laddr", "raddr"), "STRING"),
    "filename": "STRING",
    **dict.fromkeys(Identity._fields, "STRING"),
    **dict.fromkeys(("outcome", "error", "query"), "STRING"),
    **dict.fromkeys(("lport", "rport", "iss", "irs", "netns", "pid", "uid"), "BIGINT"),
    **dict.fromkeys(("ts_ns", "tx_bytes", "rx_bytes", "family"), "BIGINT"),
    "latency_ms": "DOUBLE",
}
"""Columns that are read, of recordings and of the engine; older recordings lack some."""
LABELS: Mapping[str, str] = {
    "program": "comm",
    "unit": "unit",
    "container": "COALESCE(container_name, SUBSTRING(container, 1, 12))",
    "pod": "COALESCE(pod_namespace || '/' || pod, pod)",
    "host": "CAST(NULL AS STRING)",
    "namespace": "CAST(netns AS STRING)",
}
"""What the map shows of a process, by the names of ``--by``."""
_OUTCOME = """CASE
        WHEN type <> 'connect' THEN CASE WHEN type = 'accept' THEN error END
        WHEN outcome IS NOT NULL THEN outcome
        ELSE error END"""
_LOOPBACK = "laddr = '::1' OR SUBSTRING(laddr, 1, 4) = '127.'"


class Wanted(NamedTuple):
    """What a map is of."""

    by: str = "program"
    """One of `LABELS`."""
    filters: Filters = Filters()
    since_ns: int | None = None
    until_ns: int | None = None
    namesakes: Collection[str] = ()
    """Names of several hosts, which are told apart by the ids of their boots."""


def make_input(engine: Engine, tables: Iterable[Files], wanted: Wanted) -> None:
    """Make the view `recorded` of files."""
    parts = [
        _read(engine, f"files_{at}", table, wanted.namesakes) for at, table in enumerate(tables)
    ]
    engine.run(f"CREATE TEMP VIEW kept AS {' UNION ALL '.join(parts)}")
    engine.run(_recorded(engine, wanted))


def _host(engine: Engine, table: Files) -> str | None:
    """Return the expression of the host of a file's rows; None where a column tells.

    It is not an engine's own way to read such paths: that would take all parts with a `=` for
    columns, those above the recordings, too.
    """
    if table.host is not None:
        return engine.text(table.host)
    if not table.hosts:
        return None
    named = "regexp_extract(filename, '(?s).*/host=([^/]+)/', 1)"
    coded = {engine.in_filename(part)[len("host=") :]: host for part, host in table.hosts.items()}
    whens = [
        f"WHEN {engine.text(code)} THEN {engine.text(host)}"
        for code, host in sorted(coded.items())
        if code != host
    ]
    return f"CASE {named} {' '.join(whens)} ELSE {named} END" if whens else named


def _told_apart(engine: Engine, host: str, namesakes: Collection[str]) -> str:
    """Return the expression of a host's name with its boot's id, where several have that name."""
    if not namesakes:
        return host
    names = ", ".join(map(engine.text, sorted(namesakes)))
    boot = "SUBSTRING(boot_id, 1, 8)"
    return f"CASE WHEN {host} IN ({names}) THEN {host} || ' ' || {boot} ELSE {host} END"


def _read(engine: Engine, view: str, table: Files, namesakes: Collection[str]) -> str:
    """Return the query of all columns of files; one that they lack is NULL."""
    there = engine.scan(table, view)
    host = _host(engine, table) or ("host" if "host" in there else "NULL")
    made = {"host": _told_apart(engine, host, namesakes if "boot_id" in there else ())}
    if "clock_offset_ns" in there:
        made["ts_ns"] = f"{engine.time_ns} - clock_offset_ns"
    columns = [
        f"CAST({made.get(name, name if name in there else 'NULL')} AS {kind}) AS {name}"
        for name, kind in TYPES.items()
    ]
    return f"SELECT {', '.join(columns)}, {engine.time_ns} AS ts FROM {view}"  # noqa: S608 - names of ours


def _places(engine: Engine, filters: Filters) -> list[str]:
    """Return the conditions of filters by unit, container and pod.

    Who was recorded is judged here, once for each cgroup, as it is when a trace runs.
    """
    asked = filters.only(BY_PLACE)
    if not asked.values:
        return []
    keeps = [asked.test(name) for name in asked.values]
    key, columns = engine.hashed(*Identity._fields), ", ".join(Identity._fields)
    known = engine.rows(f"SELECT DISTINCT {key} AS identity, {columns} FROM kept")  # noqa: S608 - names of ours
    wanted = [str(row[0]) for row in known if all(keep(Identity(*row[1:])) for keep in keeps)]
    return [f"{key} IN ({', '.join(wanted)})" if wanted else "FALSE"]


def _all_of(tests: Sequence[str]) -> str:
    return " AND ".join(tests) or "TRUE"


def _times(since_ns: int | None, until_ns: int | None) -> list[str]:
    """Return the conditions that a time is in between."""
    since = [] if since_ns is None else [f"ts >= {since_ns}"]
    return since if until_ns is None else [*since, f"ts < {until_ns}"]


def _recorded(engine: Engine, wanted: Wanted) -> str:
    """Return the statement that makes the view."""
    since_ns, until_ns = wanted.since_ns, wanted.until_ns
    around = _times(
        None if since_ns is None else since_ns - MARGIN_NS,
        None if until_ns is None else until_ns + LATER_NS,
    )
    netns = ("host", "boot_id", "netns")
    ends = ("laddr", "lport", "raddr", "rport")
    numbers = ("host", "iss", "irs")
    tests = (*conditions(wanted.filters, engine.text), *_places(engine, wanted.filters))
    keeps = _all_of(tests)
    return f"""
CREATE TEMP VIEW recorded AS
SELECT
    host, type, ts, {LABELS[wanted.by]} AS label,
    laddr, lport, raddr, rport, iss, irs,
    COALESCE({_OUTCOME}, 'established') AS outcome,
    query AS name, CAST(ROUND(latency_ms * 1000000) AS BIGINT) AS latency_ns, tx_bytes, rx_bytes,
    {engine.hashed(*netns)} AS netns_key,
    {engine.hashed(*numbers)} AS numbers,
    {engine.hashed(*netns, *ends)} AS socket,
    {engine.hashed(*netns, *ends, "iss", "irs", "type", "ts_ns", "filename")} AS id,
    {_LOOPBACK} AS is_loopback,
    COALESCE({keeps}, FALSE) AS is_wanted,
    {_all_of(_times(since_ns, until_ns))} AS is_in_time
FROM kept
WHERE type IN ('connect', 'accept', 'close') AND {_all_of(around)}
"""  # noqa: S608 - what the user says is quoted, or a number
