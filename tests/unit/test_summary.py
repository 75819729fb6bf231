"""`--summary`: what came of each destination; and it and the gate on recordings."""

from __future__ import annotations

import dataclasses
import errno
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.conftest import Run
from tests.unit.records import accept_bytes, accepted, to_json
from tests.unit.test_destinations import to
from tests.unit.test_schema import VALIDATOR
from tests.unit.test_tracer import closed, connected

from tcptrace.model.columns import Table
from tcptrace.model.events import NewTable
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta
from tcptrace.model.summary import OF_ATTEMPTS, OF_CONNECTIONS, OTHERS, Summary, Total
from tcptrace.probes.connect.records import Connect
from tcptrace.sinks.choose import make_sink
from tcptrace.sinks.recording import JsonLinesRecording
from tcptrace.sinks.summary import SummarySink

META = Meta("connect", "tracepoint", "host", "boot", "6.1", 0, switches={"CONNECT_OUTCOME": "1"})
FAILED: dict[str, Any] = {"outcome": "refused", "error": "ECONNREFUSED", "latency_ms": None}


def totals(rows: Sequence[Any], *, has_ends: bool = False, most: int = 10) -> list[Total]:
    """Return what rows come to."""
    summary = Summary(has_ends=has_ends, most=most)
    summary.add(rows)
    return summary.rows()


def test_destinations_are_told_by_name_and_port() -> None:
    """Addresses of one name are one destination; those with the most attempts come first."""
    rows = [
        to("192.0.2.9", 80),
        to("192.0.2.1", query="example.org"),
        to("192.0.2.2", query="example.org"),
        to("192.0.2.1", 80, query="example.org"),
        accepted(accept_bytes()),
    ]
    expected = [
        ("example.org", None, 443, 2),
        (None, "192.0.2.9", 80, 1),
        ("example.org", None, 80, 1),
    ]
    assert expected == [
        (total.query, total.raddr, total.rport, total.attempts) for total in totals(rows)
    ]


def test_failures_are_told_by_kind() -> None:
    """By outcome, else by error; what was given up has failed, what is under way has not."""
    rows = [
        to(),
        to(**FAILED),
        to(**FAILED),
        to(outcome="aborted"),
        to(outcome="error", error="EPERM"),
        to(outcome=None, error="ENETUNREACH"),
        to(outcome=None),
    ]
    (total,) = totals(rows)
    assert (7, 5) == (total.attempts, total.failed)
    assert {"refused": 2, "aborted": 1, "EPERM": 1, "unreachable": 1} == total.failures


def test_latencies_are_those_of_connections() -> None:
    """Median and 95th percentile, to three digits, of what succeeded alone."""
    rows = [to(latency_ms=number + 0.00001) for number in range(1, 101)]
    (total,) = totals([*rows, to(outcome="timeout", error="ETIMEDOUT", latency_ms=9e9)])
    assert (50, 95) == (total.latency_p50_ms, total.latency_p95_ms)
    (total,) = totals([to(**FAILED)])
    assert (None, None) == (total.latency_p50_ms, total.latency_p95_ms)


def test_ends_are_those_of_what_began() -> None:
    """Bytes and times are added up; of what is open they are not known, and it is counted."""
    rows = [connected(), connected(lport=40001), closed(lport=40002), closed()]
    (total,) = totals(rows, has_ends=True)
    assert (2, 1, 1000, 2000, 2.5) == (
        total.attempts,
        total.open,
        total.tx_bytes,
        total.rx_bytes,
        total.open_ms,
    )
    (again,) = totals([*rows, closed(lport=40001), connected(), closed()], has_ends=True)
    assert (3, 0, 3000) == (again.attempts, again.open, again.tx_bytes)
    (total,) = totals([connected()])
    assert (None, None) == (total.open, total.tx_bytes)


def test_too_many_destinations_are_one() -> None:
    """A scan of all ports takes no more memory than so much."""
    rows = totals([to(rport=number) for number in (1, 2, 3, 4, 4, 1)], most=2)
    assert [(None, 3), (1, 2), (2, 1)] == [(row.rport, row.attempts) for row in rows]
    assert OTHERS in written("text", OF_ATTEMPTS, [to(rport=number) for number in range(10_242)])


@pytest.mark.parametrize("table", [OF_ATTEMPTS, OF_CONNECTIONS])
def test_columns_are_those_that_are_known(table: Table) -> None:
    """Only what follows connections to their ends knows bytes and times."""
    keys = [column.key for column in table.columns]
    assert ("tx" in keys) is (table is OF_CONNECTIONS)


def test_json_is_valid() -> None:
    """As schema.json says, with what is known and without."""
    rows = [connected(), closed(), to(**FAILED), to(query="example.org")]
    for total in (*totals(rows, has_ends=True), *totals(rows, has_ends=False)):
        VALIDATOR.validate(to_json(total, "tracepoint"))
    (last,) = totals([connected(), closed(ts_ns=7), connected(ts_ns=5)], has_ends=True)
    assert 1_500_000_000 == last.ts_ns


def written(form: str, table: Table, rows: Sequence[Any]) -> str:
    """Return what is written of rows."""
    stream = io.StringIO()
    inner = make_sink(form, table.columns, stream, tables=True)
    sink = SummarySink(Summary(has_ends=table is OF_CONNECTIONS), inner)
    sink.open(META)
    sink.write([NewTable(), *rows])
    sink.flush()
    assert "" == stream.getvalue()
    sink.close(NOTHING_LOST)
    return stream.getvalue()


def test_it_is_written_at_the_end() -> None:
    """As text, CSV and JSON; nothing before."""
    rows = [connected(), closed(), to("192.0.2.9", 80, **FAILED)]
    assert """\
DESTINATION DPORT ATTEMPTS FAILED LAT(ms) P95(ms)   TX   RX OPEN(ms) WHY
192.0.2.1     443        1      0   1.500   1.500 1000 2000    2.500 -
192.0.2.9      80        1      1       -       -    -    -        - refused 1
""" == written("text", OF_CONNECTIONS, rows)
    assert """\
destination,rport,attempts,failed,lat,p95,why\r
192.0.2.1,443,1,0,1.500,1.500,\r
192.0.2.9,80,1,1,,,refused 1\r
""" == written("csv", OF_ATTEMPTS, rows)
    lines = written("json", OF_CONNECTIONS, rows).splitlines()
    assert [{"refused": 1}, None] == [json.loads(line).get("failures") for line in lines[::-1]]
    assert "DESTINATION" in written("text", OF_ATTEMPTS, [])


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Return a recording of two attempts, one of them by name."""
    return record(tmp_path / "x.jsonl")


def record(path: Path, losses: Losses = NOTHING_LOST, **changes: Any) -> Path:
    """Make such a recording."""
    sink = JsonLinesRecording(str(path), force=True)
    sink.open(dataclasses.replace(META, **changes))
    sink.write([attempt(query="example.org"), attempt(443 << 1, error=-errno.ECONNREFUSED)])
    sink.close(losses)
    return path


def attempt(rport: int = 443, *, query: str | None = None, error: int = 0) -> Connect:
    """Return an attempt as `connect --outcome` has it."""
    row: Any = connected()
    names = [field.name for field in dataclasses.fields(Connect) if field.init]
    values: dict[str, Any] = {name: getattr(row, name, None) for name in names}
    end = "closed" if error else "established"
    error_text = errno.errorcode[-error] if error else None
    values |= {"error": error_text, "_end": end, "retransmits": 0}
    made = Connect(**values)
    made.rport, made.query = rport, query
    return made


def test_a_recording_is_summed_up(run: Run, recorded: Path) -> None:
    """Names and outcomes are told where they were recorded; -w keeps the events beside."""
    done = run("connect", "-r", "x.jsonl", "--summary", "--columns", "destination,failed")
    assert "DESTINATION FAILED\n192.0.2.1        1\nexample.org      0\n" == done.stdout
    done = run("connect", "-r", "x.jsonl", "--summary", "-w", "y.jsonl", "--json")
    assert ["destination"] * 2 == [json.loads(line)["type"] for line in done.stdout.splitlines()], (
        done.stderr
    )
    assert 4 == len((recorded.parent / "y.jsonl").read_text().splitlines())
    done = run("connect", "-r", "x.jsonl", "--summary", "-w", "z.jsonl", "--print")
    assert (2, True) == (done.returncode, "exclude each other" in done.stderr)


@pytest.mark.parametrize(
    ("ports", "options", "status", "words"),
    [
        ((443,), (), 0, "1 event"),
        ((443,), ("--fail",), 3, "1 attempt to connect to what BASE does not have:"),
        ((443,), ("--fail", "--only", ":886"), 0, "1 event"),
        ((443,), ("--fail", "--only", ":443"), 3, "curl    181 -    192.0.2.1  886 refused     1"),
        ((443, 886), ("--fail",), 0, "0 events"),
    ],
)
def test_a_recording_is_judged_by_a_baseline(
    run: Run,
    recorded: Path,
    ports: tuple[int, ...],
    options: tuple[str, ...],
    status: int,
    words: str,
) -> None:
    """With --fail, 3 after what the baseline does not have; a list permits some of that."""
    edge = {
        "type": "edge",
        "program": "curl",
        "network": "192.0.2.0/24",
        "attempts": 1,
        "failed": 0,
    }
    lines = [f"{json.dumps({**edge, 'port': port})}\n" for port in ports]
    (recorded.parent / "base").write_text("".join(lines), encoding="ascii")
    done = run("connect", "-r", "x.jsonl", "--new-since", "base", *options)
    assert (status, True) == (done.returncode, words in done.stderr), done.stderr


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--only", ":400-500,:886"), 0, "2 events"),
        (("--only", "192.0.2.1:443"), 3, "curl    181 -    192.0.2.1  886 refused     1"),
        (("--only", "192.0.2.1:443", "--summary"), 3, "1 attempt to connect"),
        (("--fail-on-connect",), 3, "example.org 192.0.2.1"),
        (("--fail-on-connect", "-P", "1"), 0, "0 events"),
        (("--only", "example.org,:886"), 2, "recorded without this -d"),
    ],
)
def test_a_recording_is_judged(
    run: Run,
    recorded: Path,
    options: tuple[str, ...],
    status: int,
    words: str,
) -> None:
    """As the run itself would have been; names only where they were recorded."""
    done = run("connect", "-r", recorded.name, *options)
    assert status == done.returncode, done.stderr
    assert words in done.stderr


def test_names_that_were_recorded_are_known(
    run: Run,
    tmp_path: Path,
) -> None:
    """A list of names is for recordings of -d."""
    record(tmp_path / "x.jsonl", companions=("dns",))
    assert 0 == run("connect", "-r", "x.jsonl", "--only", "*.org,:886").returncode
    assert 3 == run("connect", "-r", "x.jsonl", "--only", "*.org").returncode


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"losses": Losses(no_room=2)}, 4, "2 events were lost"),
        ({"switches": {"CONNECT_OUTCOME": "1", "CONNECT_SLOWER_NS": "5"}}, 2, "--slower"),
        ({"probe": "tracer", "switches": {}}, 2, "`tcptrace tracer`"),
    ],
)
def test_a_recording_that_lacks_rows_is_not_clean(
    run: Run,
    tmp_path: Path,
    changes: dict[str, Any],
    status: int,
    words: str,
) -> None:
    """What was lost, or left out, may have been forbidden."""
    record(tmp_path / "x.jsonl", **changes)
    done = run("connect", "-r", "x.jsonl", "--only", "192.0.2.1")
    assert status == done.returncode, done.stderr
    assert words in done.stderr


def test_a_recording_that_was_cut_off_is_not_clean(
    run: Run,
    recorded: Path,
) -> None:
    """Nor is what --json has printed, which tells of no losses; what is found is told."""
    lines = recorded.read_text().splitlines(keepends=True)
    recorded.write_text("".join(lines[:-1]))
    done = run("connect", "-r", "x.jsonl", "--only", "192.0.2.1")
    assert (4, True) == (done.returncode, "was not ended by its writer" in done.stderr)
    assert 3 == run("connect", "-r", "x.jsonl", "--fail-on-connect").returncode
    recorded.write_text("".join(lines[1:-1]))
    done = run("connect", "-r", "x.jsonl", "--only", "192.0.2.1")
    assert (4, True) == (done.returncode, "record with -w" in done.stderr)
