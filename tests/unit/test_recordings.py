"""Recordings: what is kept is read again as it was, whole or cut, and nothing else is read."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import json
import os
import random
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.conftest import Run
from tests.unit.records import to_json
from tests.unit.test_schema import probes

from tcptrace.errors import TcptraceError
from tcptrace.model.events import NewTable, json_keys, time_text, wall_ns_of
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.model.identity import Identity, Program
from tcptrace.model.kept import PARTS, Classes, kinds, new_row
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta, meta_from_json, meta_to_json
from tcptrace.model.systems import Recorded
from tcptrace.probes.accept.probe import ACCEPT, Accept
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.connect.records import Connect
from tcptrace.probes.dns.probe import DNS
from tcptrace.probes.probe import Probe
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.probes.tracer.records import Connected
from tcptrace.shell.keeping import Keeping
from tcptrace.sinks import groups, thrift
from tcptrace.sinks.choose import make_sink
from tcptrace.sinks.parquet import ParquetRecording
from tcptrace.sinks.recording import JsonLinesRecording
from tcptrace.sinks.sink import Sink
from tcptrace.sources.recording.jsonl import JsonLines
from tcptrace.sources.recording.kept import KeptSource
from tcptrace.sources.recording.parquet import ParquetRows

START_NS = 1_790_000_000_000_000_001
META = Meta(
    "accept",
    "tracepoint",
    "host",
    "boot",
    "6.1",
    START_NS,
    filters={"port": "80"},
    switches={"ACCEPT_FAILED": "1"},
    companions=("dns",),
)
TIME = time_text(START_NS).encode()
FORMS = (".jsonl", ".parquet")
PROBES = {probe.name: probe for probe in (ACCEPT, CONNECT, TRACER, DNS)}
HOSTILE = "\x1b[31m\n\"'\u202e=1"


def recording(path: Path, probe: Probe, *, force: bool = False) -> Sink:
    """Return a new recording of a probe's rows."""
    if path.suffix == ".jsonl":
        return JsonLinesRecording(str(path), force=force)
    return ParquetRecording(str(path), probe.row_classes, force=force)


def opened(path: Path, probe: Probe, filters: Filters | None = None) -> KeptSource:
    """Return a recording that is read."""
    classes, asked = Classes(probe.row_classes), filters or Filters({}, probe.port_fields)
    if path.suffix == ".jsonl":
        return JsonLines(str(path), classes, [asked.keeps])
    return ParquetRows(str(path), classes, asked, [])


def kept(
    path: Path, probe: Probe, rows: Sequence[Any], losses: Losses = NOTHING_LOST
) -> KeptSource:
    """Keep rows, and return the recording that is read."""
    sink = recording(path, probe)
    sink.open(META)
    sink.write(rows)
    sink.flush()
    sink.close(losses)
    return opened(path, probe)


def read(source: KeptSource) -> list[Any]:
    """Return all rows."""
    return [row for batch in source.batches() for row in batch.events]


def seeded(seed: object) -> random.Random:
    """Return numbers that are the same each time."""
    return random.Random(str(seed))  # noqa: S311 - for data, not for secrets


def value(kind: Any, chance: random.Random) -> Any:
    """Return any value of a kind."""
    one: Callable[[], Any] = {
        int: lambda: chance.randrange(1, 1 << (16 if kind.form == "H" else 31)),
        float: lambda: chance.randrange(1 << 40) / 1e6,  # nanoseconds
        bool: lambda: chance.random() < 0.5,
        str: lambda: chance.choice(("", "text", HOSTILE, "名")),
    }[kind.base]
    return [one() for _ in range(chance.randrange(1, 4))] if kind.is_list else one()


def any_row(record: Any, chance: random.Random) -> Any:
    """Return a row whose fields are anything, or not known."""
    row = new_row(record)
    row.wall_ns = START_NS + chance.randrange(1 << 40)
    row.identity = Identity(*(chance.choice((None, "/a/b", "x")) for _ in Identity._fields))
    row.program = Program(7, "sh", "/bin/x", chance.choice((None, ("a", HOSTILE))), args_cut=True)
    of_parts = {key for unknown in PARTS.values() for key in unknown._fields}
    for key, kind in kinds(record).items():
        if key not in of_parts and (key in {"ts_ns", "family"} or chance.random() < 0.7):
            setattr(row, key, value(kind, chance))
    return row


def accepts(count: int) -> list[Any]:
    """Return accepts on ports 0 to 9 by turns."""
    rows = []
    for number in range(count):
        row = any_row(Accept, seeded(number))
        row.ts_ns, row.lport, row.rport = number, number % 10, 40_000
        row.error = None
        rows.append(row)
    return rows


def jsons(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Return rows as JSON has them."""
    return [to_json(row, "tracepoint") for row in rows]


def text(probe: Probe, rows: Sequence[Any]) -> str:
    """Return rows as text, with all columns."""
    stream = io.StringIO()
    known = {column.key: column for column in (*probe.columns, *probe.extra_columns)}
    sink = make_sink("text", [*known.values()], stream)
    sink.write([NewTable(), *rows])
    return stream.getvalue()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", PROBES)
def test_what_is_kept_is_read_as_it_was(tmp_path: Path, name: str, form: str) -> None:
    """Rows of any class with any values are the same in JSON and in text."""
    probe, chance = PROBES[name], seeded(name)
    rows = [any_row(chance.choice(probe.row_classes), chance) for _ in range(300)]
    source = kept(tmp_path / f"x{form}", probe, [NewTable(), *rows])
    actual = read(source)
    assert jsons(rows) == jsons(actual)
    assert list(map(list, jsons(rows))) == list(map(list, jsons(actual)))  # keys in order, too
    assert text(probe, rows) == text(probe, actual)
    assert (META, True) == (source.meta, source.is_whole)


def test_every_probe_s_rows_have_columns() -> None:
    """Whatever a built-in command shows can be kept, with one type for each key."""
    for probe in probes():
        assert "clock_offset_ns" in groups.schema_of(probe.row_classes).names
    types = {groups.schema_of(probe.row_classes).field("pid").type for probe in PROBES.values()}
    assert {pa.uint32()} == types


@pytest.mark.parametrize("form", FORMS)
def test_losses_are_kept(tmp_path: Path, form: str) -> None:
    """What the writer has missed is told by the reader."""
    source = kept(tmp_path / f"x{form}", ACCEPT, accepts(3), Losses(3, 2))
    read(source)
    assert Losses(3, 2) == source.losses()


def test_losses_are_kept_as_they_come(tmp_path: Path) -> None:
    """A writer that is killed has told what it had missed until then."""
    path = tmp_path / "x.jsonl"
    sink = recording(path, ACCEPT)
    sink.open(META)
    sink.note(Losses(7))
    sink.flush()
    source = opened(path, ACCEPT)
    assert [] == read(source)
    assert (Losses(7), False) == (source.losses(), source.is_whole)
    sink.close(NOTHING_LOST)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_is_its_owner_s_alone(tmp_path: Path, form: str) -> None:
    """Others cannot read it; it is never overwritten, unless that is said."""
    path = tmp_path / f"x{form}"
    kept(path, ACCEPT, [])
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    with pytest.raises(TcptraceError, match="--force"):
        recording(path, ACCEPT)
    path.chmod(0o644)
    recording(path, ACCEPT, force=True).close(NOTHING_LOST)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_parquet_is_not_awaited_from_a_pipe(tmp_path: Path) -> None:
    """Nobody may ever write to it, and no signal would be heard."""
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(TcptraceError, match="it is no file"):
        opened(tmp_path / "x.parquet", ACCEPT)


def test_no_link_is_followed(tmp_path: Path) -> None:
    """What stands in a directory of others' does not say what root overwrites."""
    (tmp_path / "x.jsonl").symlink_to(tmp_path / "other")
    with pytest.raises(TcptraceError, match="cannot make"):
        recording(tmp_path / "x.jsonl", ACCEPT, force=True)


def test_lines_that_were_cut_off_are_left_out(tmp_path: Path) -> None:
    """Wherever JSON Lines end, all whole rows are read, and that there was more is known."""
    rows = accepts(5)
    kept(tmp_path / "x.jsonl", ACCEPT, rows)
    data = (tmp_path / "x.jsonl").read_bytes()
    whole = [at for at, byte in enumerate(data) if byte == ord("\n")]
    for size in range(whole[0] + 1, len(data)):
        path = tmp_path / "cut.jsonl"
        path.write_bytes(data[:size])
        count = sum(at < size for at in whole) - 1
        with contextlib.closing(opened(path, ACCEPT)) as source:
            assert jsons(rows[:count]) == jsons(read(source))
            assert not source.is_whole


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of ten rows."""
    monkeypatch.setattr(groups, "GROUP_ROWS", 10)


def test_groups_that_were_cut_off_are_left_out(tmp_path: Path, small_groups: None) -> None:
    """Wherever a Parquet file ends, all whole groups of its rows are read."""
    path, sizes = tmp_path / "x.parquet", []
    rows = accepts(30)
    sink = recording(path, ACCEPT)
    sink.open(META)
    for at in range(0, 30, 10):
        sink.write(rows[at : at + 10])
        sizes.append(path.stat().st_size)
    sink.close(NOTHING_LOST)
    data = path.read_bytes()
    cuts = {*range(sizes[0], len(data), 97), *sizes, *(size + 1 for size in sizes), len(data) - 1}
    for size in sorted(cuts):
        cut = tmp_path / "cut.parquet"
        cut.write_bytes(data[:size])
        source = opened(cut, ACCEPT)
        count = 10 * sum(end <= size for end in sizes)
        assert jsons(rows[:count]) == jsons(read(source))
        assert (False, META) == (source.is_whole, source.meta)
        source.close()


def test_a_whole_file_is_for_all_readers(tmp_path: Path, small_groups: None) -> None:
    """What pyarrow reads of it are the rows, in groups, with times and numbers as such."""
    path = tmp_path / "x.parquet"
    kept(path, ACCEPT, accepts(25)).close()
    file = pq.ParquetFile(path)
    assert 25 == file.metadata.num_rows
    assert [number % 10 for number in range(25)] == file.read()["lport"].to_pylist()
    assert pa.timestamp("ns", tz="UTC") == file.schema_arrow.field("time").type


def test_rows_wait_for_seconds_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group ends when its first row has waited, though no more rows come."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    path = tmp_path / "x.parquet"
    sink = recording(path, ACCEPT)
    sink.open(META)
    sink.write(accepts(1))
    now = groups.GROUP_S - 0.1
    sink.flush()
    before = path.stat().st_size
    now = groups.GROUP_S
    sink.flush()
    assert before < path.stat().st_size
    assert groups.GROUP_S < 10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG])
def test_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str, number: int
) -> None:
    """With the file's name; what was written until then is read."""
    path, rows = tmp_path / f"x{form}", accepts(20)
    sink = recording(path, ACCEPT)
    sink.open(META)
    monkeypatch.setattr(groups, "GROUP_ROWS", 1)
    sink.write(rows[:10])
    sink.flush()

    def fail(_descriptor: int, _data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(OSError, match=str(path)):  # noqa: PT012 - either may write
            sink.write(rows[10:])
            sink.flush()
    assert 10 == sink.drop()
    source = opened(path, ACCEPT)
    assert jsons(rows[:10]) == jsons(read(source))
    assert not source.is_whole
    sink.close(NOTHING_LOST)


@settings(deadline=None)
@given(st.data())
def test_filters_hold_for_columns_as_for_rows(data: st.DataObject) -> None:
    """A Parquet file's columns are judged as rows are."""
    rows = accepts(40)
    texts = {"port": st.sampled_from(["3", "2-5", "!7", "1,!2"]), "pid": st.just("1-1000000000")}
    asked = data.draw(st.fixed_dictionaries({}, optional=texts))
    values = {name: BY_NAME[name].parse([text], Recorded()) for name, text in asked.items()}
    filters = Filters(values, ACCEPT.port_fields)
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "x.parquet")
        kept(path, ACCEPT, rows).close()
        source = opened(path, ACCEPT, filters)
        assert jsons([row for row in rows if filters.keeps(row)]) == jsons(read(source))
        source.close()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"junk", "no JSON object"),
        (b"[1]", "no JSON object"),
        (b"[" * 100_000, "no JSON object"),
        (b'{"type":"other","backend":"b"}', "type 'other'"),
        (b'{"type":"accept","time":"now","backend":"b"}', "not a time"),
        (b'{"type":"accept","time":"%s","backend":"b"}' % TIME, "no ts_ns"),
        (b'{"type":"accept","time":"%s","ts_ns":1,"backend":"b","pid":"1"}' % TIME, "pid is '1'"),
        (b'{"type":"accept","backend":"other"}', "another run"),
        (b"\xff\xfe", "no JSON object"),
    ],
)
def test_what_is_no_row_is_refused(tmp_path: Path, line: bytes, why: str) -> None:
    """The line is named."""
    path = tmp_path / "x.jsonl"
    first = {"type": "accept", "time": time_text(START_NS), "ts_ns": 1, "backend": "b"}
    path.write_bytes(json.dumps(first).encode() + b"\n" + line + b"\n")
    with pytest.raises(TcptraceError, match=why) as error:
        read(opened(path, ACCEPT))
    assert "line 2" in str(error.value)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_refused(data: bytes) -> None:
    """Whatever a file holds, it is read or refused."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, "x.jsonl")
        for begin in (b"", b'{"type":"meta","schema":1,"start":"'):
            path.write_bytes(begin + data)
            with (
                contextlib.suppress(TcptraceError),
                contextlib.closing(opened(path, ACCEPT)) as source,
            ):
                read(source)


def test_another_file_is_no_recording(tmp_path: Path) -> None:
    """Parquet of others, and what is no Parquet at all, is refused."""
    pq.write_table(pa.table({"a": [1]}), tmp_path / "other.parquet")
    (tmp_path / "junk.parquet").write_bytes(b"PAR1" * 100)
    (tmp_path / "empty.parquet").touch()
    for name in ("other", "junk", "empty", "absent"):
        with pytest.raises(TcptraceError, match=name):
            opened(tmp_path / f"{name}.parquet", ACCEPT)


def test_the_end_of_a_parquet_file_is_read_and_written(tmp_path: Path) -> None:
    """Thrift's bytes are the same after a round trip."""
    chance = seeded(1)
    table = pa.table({"a": list(range(500)), "b": [str(chance.random()) for _ in range(500)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=20)
    data = (tmp_path / "x.parquet").read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    assert data[-8 - size : -8] == thrift.encode(thrift.decode(data[-8 - size : -8]))


def test_meta_is_kept() -> None:
    """What holds for all rows is read as it was written."""
    assert META == meta_from_json(json.loads(json.dumps(meta_to_json(META))))


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 2},
        {"schema": None},
        {"start": "yesterday"},
        {"host": 1},
        {"filters": {"port": 1}},
        {"filters": []},
        {"companions": [1]},
        {"companions": 1},
    ],
)
def test_what_is_no_meta_is_refused(change: dict[str, Any]) -> None:
    """A newer schema and wrong types are told."""
    with pytest.raises(ValueError, match=r"."):
        meta_from_json({**meta_to_json(META), **change})


@given(st.integers(0, 1 << 62))
def test_times_are_read_as_they_were(wall_ns: int) -> None:
    """To the nanosecond."""
    assert wall_ns == wall_ns_of(time_text(wall_ns))


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A recording of accepts on port 80, with those that failed."""
    rows = accepts(10)
    rows[3].error = "EMFILE"
    for row in rows:
        row.lport, row.pid = 80, 100 + row.ts_ns
    kept(tmp_path / "x.jsonl", ACCEPT, rows)
    return tmp_path / "x.jsonl"


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Hold that a usage error in a line or two has these words."""
    assert (2, "") == (done.returncode, done.stdout)
    assert len(done.stderr.splitlines()) <= 3
    for word in words:
        assert word in done.stderr


def test_reading_needs_neither_rights_nor_bcc(run: Run, recorded: Path) -> None:
    """Text, with a column and time, from a file."""
    done = run("accept", "-r", "x.jsonl", "-t", "--columns", "pid", "--failed")
    assert 0 == done.returncode, done.stderr
    assert ["TIME(s)", "PID", "ERR"] == done.stdout.splitlines()[0].split()
    assert [str(pid) for pid in range(100, 110)] == [
        line.split()[1] for line in done.stdout.splitlines()[1:]
    ]
    assert "Reading accept (tracepoint) of host" in done.stderr
    assert "10 events" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "pids"),
    [
        (["-p", "102,105"], [102, 105]),
        (["-p", "!102"], [100, 101, 104, 105, 106, 107, 108, 109]),
        (["-P", "80", "-p", "103-104"], [104]),
        (["--count-events", "2"], [100, 101]),
        (["--failed", "-p", "103"], [103]),
    ],
)
def test_options_hold_for_recordings(
    run: Run, recorded: Path, arguments: list[str], pids: list[int]
) -> None:
    """Filters, and the command's own options, as if it were live."""
    done = run("accept", "-r", "x.jsonl", "--json", *arguments)
    assert pids == [json.loads(line)["pid"] for line in done.stdout.splitlines()], done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "kprobe"], ["--backend", "-r"]),
        (["--buffer-mb", "8"], ["--buffer-mb"]),
        (["--headers", "btf"], ["--headers"]),
        (["--no-cache"], ["--no-cache"]),
        (["--dump-c"], ["--dump-c"]),
        (["-P", "81"], ["only what -P 80 let pass", "with the same, or without -P"]),
        (["-N", "name"], ["name", "inode number"]),
        (["-u", "name"], ["name", "number"]),
        (["--cgroupmap", "/x"], ["running kernel"]),
        (["--print"], ["--print needs -w"]),
        (["--force"], ["--force needs -w"]),
        (["-w", "x.txt"], ["x.txt", ".parquet"]),
        (["-w", "-", "--print"], ["--print", "-w -"]),
    ],
)
def test_what_a_recording_cannot_tell_is_refused(
    run: Run, recorded: Path, arguments: list[str], words: list[str]
) -> None:
    """By name, and nothing is shown."""
    refused(run("accept", "-r", "x.jsonl", *arguments), *words)


def test_the_tracer_s_own_options_that_need_the_kernel_are_refused(run: Run) -> None:
    """What lists sockets, and what sizes maps."""
    refused(run("tracer", "-r", "x.jsonl", "--existing"), "--existing")
    refused(run("tracer", "-r", "x.jsonl", "--max-connections", "9"), "--max-connections")


def test_a_recording_of_another_command_is_refused(run: Run, recorded: Path) -> None:
    """It says which one made it."""
    refused(run("tracer", "-r", "x.jsonl"), "tcptrace accept")


def test_what_was_not_recorded_cannot_be_had(run: Run, tmp_path: Path) -> None:
    """An option that asks more of the kernel than the recording's run did is refused."""
    sink = JsonLinesRecording(str(tmp_path / "x.jsonl"), force=False)
    sink.open(Meta("connect", "tracepoint", "host", "boot", "6.1", START_NS))
    sink.close(NOTHING_LOST)
    for option in (["--outcome"], ["--slower", "5"], ["-d"]):
        refused(run("connect", "-r", "x.jsonl", *option), option[0], "recorded without")
    assert 0 == run("connect", "-r", "x.jsonl", "-c").returncode


@pytest.mark.parametrize("option", ["--failed", "-d"])
def test_what_the_tracer_had_not_asked_for_cannot_be_had(
    run: Run, tmp_path: Path, option: str
) -> None:
    """Failed attempts, and names, come of other probes, which were not there."""
    sink = JsonLinesRecording(str(tmp_path / "x.jsonl"), force=False)
    sink.open(Meta("tracer", "tracepoint", "host", "boot", "6.1", START_NS))
    sink.close(NOTHING_LOST)
    refused(run("tracer", "-r", "x.jsonl", option), option, "recorded without")


@pytest.fixture(params=FORMS)
def with_failures(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """The name of a recording of `tracer --failed -d`: a connection, and attempts that failed."""
    rows = [any_row(record, seeded(record.__name__)) for record in (Connected, Connect, Connect)]
    for number, row in enumerate(rows):
        row.ts_ns, row.pid, row.query = number, 100 + number, f"{number}.test"
        row.query_age_ms = 1.0
        row.outcome, row.error = "refused", "ECONNREFUSED"
    rows[0].outcome, rows[0].error = "established", None
    sink = recording(tmp_path / f"x{request.param}", TRACER)
    companions = ("connect", "dns")
    sink.open(Meta("tracer", "tracepoint", "h", "b", "6.1", START_NS, companions=companions))
    sink.write(rows)
    sink.close(NOTHING_LOST)
    return f"x{request.param}"


def test_attempts_that_failed_are_read_as_such(run: Run, with_failures: str) -> None:
    """They are F, with their names; without --failed they are left out."""
    picked = ("--columns", "type,pid,result,query,-lat")
    done = run("tracer", "-r", with_failures, "--failed", "-d", *picked)
    expected = [
        ["T", "PID", "RESULT", "QUERY"],
        ["C", "100", "established", "0.test"],
        ["F", "101", "refused", "1.test"],
        ["F", "102", "refused", "2.test"],
    ]
    assert expected == [line.split() for line in done.stdout.splitlines()], done.stderr
    done = run("tracer", "-r", with_failures, "-d", *picked)
    assert expected[:2] == [line.split() for line in done.stdout.splitlines()]


def test_what_is_left_out_cannot_be_had_again(run: Run, with_failures: str) -> None:
    """A recording that was made of another without its failures says that it has none."""
    done = run("tracer", "-r", with_failures, "-w", "y.jsonl")
    assert 0 == done.returncode, done.stderr
    refused(run("tracer", "-r", "y.jsonl", "--failed"), "recorded without this --failed")
    assert 2 == len(run("tracer", "-r", "y.jsonl", "-d").stdout.splitlines())


def test_connections_and_attempts_have_the_same_keys() -> None:
    """JSON tells them by their outcome alone, so one class does for both that are read."""
    assert json_keys(Connected) == json_keys(Connect)


def attempts() -> list[Any]:
    """Return attempts to two destinations, which took 0, 10, … milliseconds."""
    rows = []
    for number in range(6):
        row = any_row(Connect, seeded(number))
        row.ts_ns, row.latency_ms, row.lport = number, 10.0 * number, 40_000 + number
        row.family, row.laddr, row.raddr, row.rport = 4, "192.0.2.1", "192.0.2.2", 443 + number // 4
        rows.append(row)
    return rows


def test_slower_holds_for_recordings(run: Run, tmp_path: Path) -> None:
    """Attempts that took so long or longer, where outcomes were recorded."""
    sink = JsonLinesRecording(str(tmp_path / "x.jsonl"), force=False)
    switches = {"CONNECT_OUTCOME": "1"}
    sink.open(Meta("connect", "tracepoint", "h", "b", "6.1", START_NS, switches=switches))
    sink.write(attempts())
    sink.close(NOTHING_LOST)
    done = run("connect", "-r", "x.jsonl", "--slower", "30", "--json")
    assert [30, 40, 50] == [json.loads(line)["latency_ms"] for line in done.stdout.splitlines()]


def test_a_recording_s_attempts_are_counted(run: Run, tmp_path: Path) -> None:
    """-c counts rows as the kernel counts attempts; -s by source port."""
    sink = JsonLinesRecording(str(tmp_path / "x.jsonl"), force=False)
    sink.open(Meta("connect", "tracepoint", "h", "b", "6.1", START_NS))
    sink.write(attempts())
    sink.close(NOTHING_LOST)
    done = run("connect", "-r", "x.jsonl", "-c")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [["443", "4"], ["444", "2"]] == [row[-2:] for row in rows[1:]], done.stderr
    assert "6 attempts" in done.stderr
    assert 7 == len(run("connect", "-r", "x.jsonl", "-c", "-s").stdout.splitlines())


def test_what_json_printed_is_a_recording(run: Run, recorded: Path) -> None:
    """Output of --json has no meta; it reads, from standard input, too."""
    done = run("accept", "-r", "x.jsonl", "--json", "--failed")
    again = run("accept", "-r", "-", "--json", "--failed", data=done.stdout)
    assert (0, done.stdout) == (again.returncode, again.stdout)
    assert "whole rows" not in again.stderr


def test_a_recording_is_made_another(run: Run, recorded: Path) -> None:
    """-r with -w keeps what is read in another form, and prints nothing but the summary."""
    done = run("accept", "-r", "x.jsonl", "-w", "y.parquet", "--failed")
    assert (0, "") == (done.returncode, done.stdout), done.stderr
    both = [run("accept", "-r", name, "--json", "--failed") for name in ("x.jsonl", "y.parquet")]
    assert both[0].stdout == both[1].stdout != ""


def test_standard_output_is_a_recording(run: Run, recorded: Path) -> None:
    """-w - writes a recording to a pipe, from which -r - reads it."""
    done = run("accept", "-r", "x.jsonl", "--failed", "-w", "-")
    assert recorded.read_text().splitlines()[1:] == done.stdout.splitlines()[1:]
    assert "host" == json.loads(done.stdout.splitlines()[0])["host"]


def test_a_file_that_is_there_is_refused_at_once(run: Run, recorded: Path) -> None:
    """Before anything is attached, also where tracing is not possible at all."""
    done = run("accept", "-w", "x.jsonl")
    assert 1 == done.returncode
    assert "--force" in done.stderr
    assert "CAP_BPF" in run("accept", "-w", "y.jsonl").stderr
    assert not (recorded.parent / "y.jsonl").exists()


def test_a_cut_recording_is_said(run: Run, recorded: Path) -> None:
    """The rows that are whole are shown, and that there may have been more is told."""
    recorded.write_bytes(recorded.read_bytes()[:-200])
    done = run("accept", "-r", "x.jsonl", "--json")
    assert 0 == done.returncode
    assert "was not ended by its writer" in done.stderr


def test_a_recording_s_losses_can_be_an_error(run: Run, tmp_path: Path) -> None:
    """--fail-on-loss holds for what the writer missed."""
    kept(tmp_path / "x.jsonl", ACCEPT, accepts(1), Losses(5))
    done = run("accept", "-r", "x.jsonl", "--fail-on-loss")
    assert 1 == done.returncode
    assert "5 lost" in done.stderr


def test_duration_is_the_recording_s(run: Run, tmp_path: Path) -> None:
    """--duration shows the first seconds after the start."""
    rows = accepts(10)
    for row in rows:
        row.wall_ns = START_NS + row.ts_ns * 10**9
    kept(tmp_path / "x.jsonl", ACCEPT, rows)
    done = run("accept", "-r", "x.jsonl", "--json", "--duration", "4")
    assert 5 == len(done.stdout.splitlines())


@pytest.mark.parametrize("path", ["x.jsonl", "x.parquet", "x/", "x"])
def test_what_is_not_there_is_named(run: Run, path: str) -> None:
    """A mistyped name is not taken for a recording in which nothing happened."""
    done = run("accept", "-r", path)
    expected = f"tcptrace: cannot read {path}: No such file or directory\n"
    assert (1, expected) == (done.returncode, done.stderr)


def test_without_pyarrow_it_is_said_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parquet is an extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    keeping = Keeping(str(tmp_path / "x.parquet"), force=False, also_print=False)
    with pytest.raises(TcptraceError, match="-m pip install pyarrow"):
        keeping.check()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "text", "is_kept"),
    [
        ("unit", "web", True),
        ("unit", "system.slice", True),
        ("unit", "db", False),
        ("container", "cafe*", True),
        ("container", "0123", True),
        ("pod", "shop/*", True),
        ("pod", "other/*", False),
    ],
)
def test_who_it_was_is_judged_by_what_was_recorded(
    tmp_path: Path, form: str, name: str, text: str, *, is_kept: bool
) -> None:
    """Filters by unit, container and pod look at names as they were known then."""
    path, (row, other) = tmp_path / f"x{form}", accepts(2)
    row.identity = Identity(
        "/system.slice/web.service/x", "web.service", "0123" * 16, "cafe-1", "podman", "p", "shop"
    )
    kept(path, ACCEPT, [row, other]).close()
    filters = Filters({name: BY_NAME[name].parse([text], Recorded())}, ACCEPT.port_fields)
    source = opened(path, ACCEPT, filters)
    assert (jsons([row]) if is_kept else []) == jsons(read(source))
    source.close()


@pytest.mark.parametrize(
    ("column", "values"),
    [("pid", ["7"]), ("comm", [b"\xff"]), ("nobody_s", [1]), ("rport", [["x"]])],
)
def test_columns_of_strangers_are_refused(tmp_path: Path, column: str, values: list[Any]) -> None:
    """A Parquet file whose columns are not those of rows is an error, and no row."""
    path = tmp_path / "recording.parquet"
    kept(path, ACCEPT, [any_row(Accept, seeded(1))]).close()
    table = pq.read_table(path)
    known = pq.ParquetFile(path).metadata.metadata
    table = table.drop_columns([column] if column in table.column_names else [])
    table = table.append_column(column, pa.array(values)).replace_schema_metadata(known)
    pq.write_table(table, path)
    with pytest.raises(TcptraceError, match=f"no row of tcptrace has '{column}' as"):
        read(opened(path, ACCEPT))


def test_damage_to_a_parquet_file_is_an_error(tmp_path: Path) -> None:
    """What pyarrow says of bytes that are others is told in one line."""
    path = tmp_path / "recording.parquet"
    kept(path, ACCEPT, [any_row(Accept, seeded(number)) for number in range(3)]).close()
    whole = path.read_bytes()
    refused: list[str] = []
    for at in range(4, len(whole), 101):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            read(opened(path, ACCEPT))
        except TcptraceError as error:
            refused.append(str(error))
    assert refused
    assert [1] * len(refused) == [len(why.splitlines()) for why in refused]


@pytest.mark.parametrize("suffix", FORMS)
def test_what_is_no_recording_is_closed_again(tmp_path: Path, suffix: str) -> None:
    """An error leaves no descriptor open."""
    path = tmp_path / f"recording{suffix}"
    path.write_text("no recording\n" * 4)
    gc.collect()  # what other tests have left is closed whenever it pleases
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(TcptraceError):
            opened(path, ACCEPT)
    assert before >= len(list(Path("/proc/self/fd").iterdir()))


def test_a_type_that_is_no_word_is_refused(tmp_path: Path) -> None:
    """The line is named, as for any other that is no row."""
    path = tmp_path / "recording.jsonl"
    path.write_text('{"type":["accept"],"backend":"tracepoint"}\n')
    with pytest.raises(TcptraceError, match="line 1, is no row of tcptrace"):
        read(opened(path, ACCEPT))
