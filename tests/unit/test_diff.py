"""What has changed in who connects to whom."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from tests.unit.fleet import Fleet, Host, write
from tests.unit.test_schema import VALIDATOR

from tcptrace.cli import cli
from tcptrace.diff.baseline import (
    Attempt,
    Baseline,
    Counts,
    Edge,
    fails_more,
    network_of,
)
from tcptrace.diff.ignore import read_ignored
from tcptrace.diff.read import baseline_lines, read_baseline
from tcptrace.errors import TcptraceError, UncertainError
from tcptrace.model.kept import END_KEY

EDGE = Edge("curl", "api.example", 443)


def invoke(*arguments: object) -> Result:
    """Return what the program prints, and how it ends."""
    return CliRunner().invoke(cli, [*map(str, arguments)], standalone_mode=False)


def attempts(
    path: Path, *ends: tuple[str, str | None, str, int], failed: Sequence[int] = ()
) -> Path:
    """Record attempts of programs, by name or address; those of these places fail."""
    host = Host("host", "10.0.0.1")
    for at, (comm, name, address, port) in enumerate(ends):
        outcome = "refused" if at in failed else "established"
        seen = ("10.0.0.1", 40_000 + at, address, port)
        host.add("connect", at, seen, comm=comm, query=name, outcome=outcome)
    write(path, host)
    return path


def changes(*arguments: object) -> dict[str, str]:
    """Return the differences that it prints as JSON: what has changed, by edge."""
    result = invoke("diff", "--json", *arguments)
    assert not result.exception, result.exception
    found = [json.loads(line) for line in result.stdout.splitlines()]
    for values in found:
        VALIDATOR.validate(values)
    return {
        f"{edge['program']} {edge['destination']}:{edge['port']}": edge["change"] for edge in found
    }


def test_what_is_new_or_gone_is_told(tmp_path: Path) -> None:
    """By name, where both have names."""
    base = attempts(
        tmp_path / "base.parquet",
        ("curl", "old.example", "198.51.100.1", 443),
        ("curl", "api.example", "198.51.100.1", 443),
    )
    new = attempts(
        tmp_path / "new.parquet",
        ("curl", "api.example", "203.0.113.9", 443),
        ("curl", "api.example", "203.0.113.9", 80),
        ("wget", "api.example", "203.0.113.9", 443),
    )
    assert {
        "curl api.example:80": "new",
        "wget api.example:443": "new",
        "curl old.example:443": "gone",
    } == changes(base, new)


def test_without_names_networks_are_compared(tmp_path: Path) -> None:
    """A name that the other time has not looked for makes nothing new."""
    base = attempts(tmp_path / "base.parquet", ("curl", None, "198.51.100.1", 443))
    new = attempts(
        tmp_path / "new.parquet",
        ("curl", "api.example", "198.51.100.77", 443),
        ("curl", None, "2001:db8::1", 443),
    )
    assert {"curl 2001:db8::/64:443": "new"} == changes(base, new)


def test_a_name_that_was_not_seen_makes_nothing_new_or_gone(tmp_path: Path) -> None:
    """Who has asked for it before tracing began is known by the network, as live."""
    named = attempts(
        tmp_path / "named.parquet",
        ("app", "db.example", "10.0.0.2", 5432),
        ("app", "cache.example", "10.0.1.2", 6379),
    )
    partly = attempts(
        tmp_path / "partly.parquet",
        ("app", None, "10.0.0.9", 5432),
        ("app", "cache.example", "10.0.1.2", 6379),
        ("app", None, "10.0.2.2", 25),
    )
    assert {"app 10.0.2.0/24:25": "new"} == changes(named, partly)
    assert {"app db.example:5432": "new", "app 10.0.2.0/24:25": "gone"} == changes(partly, named)


def test_what_fails_more_often_is_told(tmp_path: Path) -> None:
    """And not what may have failed by chance."""
    ends = [("app", "db", "10.0.0.2", 5432)] * 100
    base = attempts(tmp_path / "base.parquet", *ends, failed=range(2))
    more = attempts(tmp_path / "more.parquet", *ends, failed=range(30))
    same = attempts(tmp_path / "same.parquet", *ends, failed=range(5))
    assert {"app db:5432": "failing"} == changes(base, more)
    assert {} == changes(base, same) == changes(more, base)


@pytest.mark.parametrize(
    ("before", "now", "is_more"),
    [
        (Counts(100, 0), Counts(100, 0), False),
        (Counts(100, 0), Counts(1, 1), False),
        (Counts(100, 0), Counts(100, 20), True),
        (Counts(100, 50), Counts(100, 55), False),
        (Counts(100_000, 1000), Counts(100_000, 1300), True),
        (Counts(10_000_000, 10_000), Counts(10_000_000, 10_100), False),
        (Counts(5, 5), Counts(500, 500), False),
        (Counts(0, 0), Counts(10, 10), False),
    ],
)
def test_more_is_what_chance_does_not_make(before: Counts, now: Counts, *, is_more: bool) -> None:
    """Fisher's exact test, at one in a thousand."""
    assert is_more is fails_more(before, now)


def test_a_baseline_is_kept_in_a_small_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells what its recording told, and needs no pyarrow to be read."""
    ends = [("curl", "api.example", "198.51.100.1", 443)] * 50 + [("cron", None, "10.0.0.9", 25)]
    base = attempts(tmp_path / "base.parquet", *ends, failed=[3])
    result = invoke("diff", "--save", tmp_path / "base", base)
    assert "2 edges are in" in result.stderr
    assert 3 == len((tmp_path / "base").read_text().splitlines())
    assert 0o600 == (tmp_path / "base").stat().st_mode & 0o777
    assert {} == changes(base, tmp_path / "base") == changes(tmp_path / "base", base)
    assert isinstance(invoke("diff", "--save", tmp_path / "base", base).exception, TcptraceError)
    assert not invoke("diff", "--force", "--save", tmp_path / "base", base).exception
    fewer = attempts(tmp_path / "fewer.parquet", *ends[:1])
    assert "1 edge is in" in invoke("diff", "--save", tmp_path / "fewer", fewer).stderr
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / "base").read_text() == invoke("diff", "--save", "-", base).stdout
    assert not (tmp_path / "-").exists()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert read_baseline([tmp_path / "base"]).has_names


@pytest.mark.parametrize(
    "options", [["--fail"], ["--ignore", "x"], ["--json"], ["-o", "csv"]], ids=" ".join
)
def test_what_only_keeps_refuses_what_is_for_a_comparison(
    tmp_path: Path, options: list[str]
) -> None:
    """A gate would stay open otherwise."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    result = invoke("diff", "--save", tmp_path / "new", *options, base, base)
    assert isinstance(result.exception, click.UsageError)
    assert f"{options[0]} is not for it" in str(result.exception)
    assert isinstance(invoke("diff", "--force", base, base).exception, click.UsageError)


def test_a_baseline_that_was_not_written_whole_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be taken for all that there was; the error names the file."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))

    def full(_baseline: Baseline) -> Iterator[str]:
        yield "{"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tcptrace.commands.diff.baseline_lines", full)
    error = invoke("diff", "--save", tmp_path / "new", base).exception
    assert f"cannot write to {tmp_path}/new: No space left on device" == str(error)
    assert not (tmp_path / "new").exists()


def test_json_lines_are_compared_as_well(tmp_path: Path) -> None:
    """Those of a recording, and what --json has printed."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    rows = [
        {"type": "meta"},
        {"type": "accept", "comm": "nginx"},
        {"type": "connect", "comm": "curl", "raddr": "198.51.100.1", "rport": 22, "error": "EPERM"},
    ]
    lines = tmp_path / "new.jsonl"
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert {"curl 198.51.100.0/24:22": "new", "curl 198.51.100.0/24:443": "gone"} == changes(
        base, lines
    )


def test_a_recording_that_was_cut_off_is_read_up_to_there(tmp_path: Path) -> None:
    """Its writer was killed within a line; a baseline has to be whole."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    row = {"type": "connect", "comm": "curl", "query": "a.example", "rport": 443}
    lines = f'{{"type":"meta"}}\n{json.dumps(row)}\n{{"type":"conn'
    (tmp_path / "cut.jsonl").write_text(lines)
    assert {} == changes(base, tmp_path / "cut.jsonl")
    for wrong in (lines + "\n", lines.replace('{"type":"meta"}\n', ""), kept(base)[:-3]):
        (tmp_path / "cut.jsonl").write_text(wrong)
        assert isinstance(invoke("diff", base, tmp_path / "cut.jsonl").exception, TcptraceError)


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0.5},
        {"attempts": 1e999},
        {"attempts": -3, "failed": -4},
        {"failed": 9},
        {"failed": None},
        {"port": "https"},
        {"program": 7},
        {"name": ["x"]},
        {"client_kind": "process"},
    ],
    ids=str,
)
def test_a_baseline_is_what_was_kept(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """What it cannot have is said, and not compared; nor are the edges of a map."""
    edge = {"type": "edge", "program": "a", "name": "b", "port": 1, "attempts": 3, "failed": 0}
    first = json.dumps({"type": "baseline", "version": 1})
    path = tmp_path / "base"
    path.write_text(f"{first}\n{json.dumps(edge)}\n")
    assert read_baseline([path]).counts
    path.write_text(f"{first}\n{json.dumps({**edge, **wrong})}\n")
    with pytest.raises(TcptraceError, match="is neither of a recording nor of a baseline"):
        read_baseline([path])


def test_what_is_not_known_is_a_question_mark() -> None:
    """Also a port."""
    assert "?:?" == Edge("curl", None, None).target


def test_a_newer_baseline_is_refused(tmp_path: Path) -> None:
    """As a newer recording is."""
    (tmp_path / "base").write_text('{"type":"baseline","version":2}\n')
    with pytest.raises(TcptraceError, match="has version 2, of a newer tcptrace"):
        read_baseline([tmp_path / "base"])


def test_directories_are_compared_as_well(tmp_path: Path) -> None:
    """All hosts of a fleet together."""
    before, after = Fleet(tmp_path / "before"), Fleet(tmp_path / "after")
    web, app = Host("web", "10.0.0.1"), Host("app", "10.0.0.2")
    before.connect(web, app, 80)
    before.keep(web, app)
    after.connect(app, web, 81, programs=("app", ""))
    after.keep(web, app)
    assert {"app 10.0.0.0/24:81": "new"} == changes(before.root, after.root)


def test_a_file_counts_once(tmp_path: Path) -> None:
    """However often it is given: twice, by a link, or as a copy."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    (tmp_path / "link.parquet").symlink_to(base)
    (tmp_path / "copy.parquet").write_bytes(base.read_bytes())
    (tmp_path / "base").write_text(kept(base))
    for path in (base, tmp_path / "base"):
        (counts,) = read_baseline([path, path]).counts.values()
        assert 1 == counts.attempts
    (counts,) = read_baseline([base, tmp_path]).counts.values()
    assert 1 == counts.attempts


def kept(path: Path) -> str:
    """Return what is kept of a recording as a baseline."""
    return "".join(baseline_lines(read_baseline([path])))


def test_what_cannot_be_read_is_left_out_whole(tmp_path: Path) -> None:
    """Also what was read of it before: a count of half a file is wrong."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    (tmp_path / "half.jsonl").write_text(kept(base) + "no JSON\n")
    pq.write_table(pa.table({"type": ["connect"], "comm": [["x"]]}), tmp_path / "foreign.parquet")
    said: list[str] = []
    (counts,) = read_baseline([tmp_path], said.append).counts.values()
    assert 1 == counts.attempts
    assert ["foreign.parquet is no", "half.jsonl, line 3,"] == [
        " ".join(text.partition(f"{tmp_path}/")[2].split()[:3]) for text in said
    ]


def test_a_difference_can_fail(tmp_path: Path) -> None:
    """With --fail the exit status is 3 where there is any that is not ignored."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    new = attempts(tmp_path / "new.parquet", ("wget", "a.example", "198.51.100.1", 443))
    patterns = tmp_path / "ignored"
    patterns.write_text("wget *.example 443 # as it is meant to\n\ncurl\n")
    runner = CliRunner()
    assert 0 == runner.invoke(cli, ["diff", str(base), str(new)]).exit_code
    assert 0 == runner.invoke(cli, ["diff", "--fail", str(base), str(base)]).exit_code
    assert 3 == runner.invoke(cli, ["diff", "--fail", str(base), str(new)]).exit_code
    ignoring = ["diff", "--fail", "--ignore", str(patterns), str(base), str(new)]
    assert 0 == runner.invoke(cli, ignoring).exit_code


def test_what_was_lost_is_said(tmp_path: Path) -> None:
    """Edges can be missing then; a gate is not closed by it."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    table = pq.read_table(base)
    metadata = {**table.schema.metadata, END_KEY: b'{"no_room":3,"untracked":4}'}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "new.parquet")
    result = invoke("diff", "--fail", base, tmp_path / "new.parquet")
    assert not result.exception
    said = f"events were lost when {tmp_path}/new.parquet was recorded (3): edges can be missing"
    assert said in result.stderr


def test_a_gate_needs_all_that_was_recorded(tmp_path: Path) -> None:
    """What could not be read can have differences; those that were found are enough."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    (tmp_path / "now").mkdir()
    new = attempts(tmp_path / "now" / "new.parquet", ("curl", "a.example", "198.51.100.1", 443))
    (tmp_path / "now" / "cut.parquet").write_bytes(new.read_bytes()[:-1])
    arguments = ("diff", "--fail", base, tmp_path / "now")
    result = invoke(*arguments)
    assert isinstance(result.exception, UncertainError)
    assert "left out: " in result.stderr
    assert 0 == invoke(*(name for name in arguments if name != "--fail")).exit_code
    attempts(new, ("wget", "a.example", "198.51.100.1", 443))
    assert 3 == CliRunner().invoke(cli, [*map(str, arguments)]).exit_code


@pytest.mark.parametrize("form", ["text", "json", "csv"])
def test_a_reader_that_has_gone_changes_no_verdict(tmp_path: Path, form: str) -> None:
    """As head does that has seen enough."""
    base = attempts(tmp_path / "base.parquet", ("curl", "a.example", "198.51.100.1", 443))
    new = attempts(tmp_path / "new.parquet", ("wget", "a.example", "198.51.100.1", 443))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "tcptrace", "diff", "--fail", "-o", form]
    try:
        for other, status in ((new, 3), (base, 0)):
            ended = subprocess.run([*command, base, other], stdout=writer, check=False)
            assert status == ended.returncode
    finally:
        os.close(writer)


def test_a_difference_is_shown_with_both_counts(tmp_path: Path) -> None:
    """As a table, with a line that sums up."""
    ends = [("app", "db", "10.0.0.2", 5432)] * 50
    base = attempts(tmp_path / "base.parquet", *ends)
    new = attempts(
        tmp_path / "new.parquet", *ends, ("x\x1b", None, "fd00::1", 80), failed=range(20)
    )
    result = invoke("diff", base, new)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert [
        "CHANGE PROGRAM TO BEFORE NOW",
        "new x\\x1b [fd00::/64]:80 - 1",
        "failing app db:5432 50 50, 20 failed",
    ] == lines
    assert "edges: 1 that are new, 1 that fail more often" in result.stderr
    csv = invoke("diff", base, new, "-o", "csv").stdout.splitlines()
    assert 'failing,app,db:5432,50,"50, 20 failed"' == csv[2]


@pytest.mark.parametrize(
    ("pattern", "is_ignored"),
    [
        ("curl api.example 443", True),
        ("curl", True),
        ("* *.example", True),
        ("c?rl * 44*", True),
        ("# curl", False),
        ("curl api.example 80", False),
        ("wget", False),
        ("curl api", False),
        ("curl 0.0.0.0/0", False),
        ("'cu rl'", False),
        ("curl # it's mine", True),
        ("curl#8 nothing 1", False),
        ("cur[l]", False),
    ],
)
def test_patterns_are_program_destination_port(
    tmp_path: Path, pattern: str, *, is_ignored: bool
) -> None:
    """What a pattern leaves out may be anything."""
    (tmp_path / "ignored").write_text(f"# known\n{pattern}\n")
    assert is_ignored is read_ignored(tmp_path / "ignored")(EDGE)


def test_words_may_have_what_has_a_meaning_elsewhere(tmp_path: Path) -> None:
    """A # within a word begins no comment, and brackets are themselves."""
    (tmp_path / "ignored").write_text("\ufeffGC#0\n[kw]* # of the kernel\n'#1 it' # 'quoted'\n")
    test = read_ignored(tmp_path / "ignored")
    for program in ("GC#0", "[kw]er", "#1 it"):
        assert test(Edge(program, "a.example", 1))
    for program in ("GC", "k", "#1"):
        assert not test(Edge(program, "a.example", 1))


@pytest.mark.parametrize(
    ("pattern", "network"),
    [("10.1.2.3", "10.1.2.0/24"), ("10.1.2.0/25", "10.1.2.0/24"), ("2001:db8::1", "2001:db8::/64")],
)
def test_a_network_that_can_match_nothing_is_said(
    tmp_path: Path, pattern: str, network: str
) -> None:
    """What is compared is larger than that."""
    (tmp_path / "ignored").write_text(f"\n* {pattern}\n")
    with pytest.raises(TcptraceError, match=f"line 2: {pattern} is less .*\nGive {network}"):
        read_ignored(tmp_path / "ignored")


def test_a_network_has_those_that_are_in_it(tmp_path: Path) -> None:
    """Not those that are around it, or of the other version."""
    (tmp_path / "ignored").write_text("* 10.0.0.0/8\n* 2001:db8::/32 443\n")
    test = read_ignored(tmp_path / "ignored")
    assert test(Edge("a", "10.1.2.0/24", 1))
    assert test(Edge("a", "2001:db8:1::/64", 443))
    assert not test(Edge("a", "2001:db8:1::/64", 80))
    assert not test(Edge("a", "11.0.0.0/24", 1))
    assert not test(Edge("a", "db", 1))


@pytest.mark.parametrize("line", ["a b c d", "'open", "a 1 2 3 # x"])
def test_what_is_no_pattern_is_said(tmp_path: Path, line: str) -> None:
    """With its line."""
    (tmp_path / "ignored").write_text(f"\n{line}\n")
    with pytest.raises(TcptraceError, match="line 2"):
        read_ignored(tmp_path / "ignored")


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    """A path too few or too many, a file that is no recording, or tells of no attempt."""
    base = attempts(tmp_path / "base.parquet", ("curl", None, "10.0.0.1", 443))
    assert isinstance(invoke("diff", base).exception, click.UsageError)
    (tmp_path / "x.parquet").write_bytes(b"x")
    assert "is no recording" in str(invoke("diff", base, tmp_path / "x.parquet").exception)
    (tmp_path / "x.jsonl").write_text("hello\n")
    assert "line 1, is neither" in str(invoke("diff", base, tmp_path / "x.jsonl").exception)
    os.mkfifo(tmp_path / "pipe.parquet")
    assert "it is no file" in str(invoke("diff", base, tmp_path / "pipe.parquet").exception)
    (tmp_path / "y.jsonl").write_text('{"type":"accept"}\n')
    assert "there is no attempt" in str(invoke("diff", base, tmp_path / "y.jsonl").exception)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8::1:2:3:4", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, None),
    ],
)
def test_addresses_are_compared_by_network(address: str | None, network: str | None) -> None:
    """Single ones change by themselves."""
    assert network == network_of(address)


def test_connect_shows_what_is_new(tmp_path: Path) -> None:
    """--new-since leaves out what a baseline has, here of what was recorded."""
    base = tmp_path / "base"
    known = Baseline()
    known.add(Attempt("curl", None, "198.51.100.0/24", 443), Counts(1, 0))
    base.write_text("".join(baseline_lines(known)))
    row: dict[str, Any] = {"type": "connect", "time": "2026-11-30T12:00:00.000000000Z", "ts_ns": 1}
    row |= {"comm": "curl", "family": 4, "raddr": "198.51.100.9", "error": None}
    lines = tmp_path / "new.jsonl"
    rows = [{**row, "rport": port, "backend": "x"} for port in (443, 80, 22)]
    lines.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
    (tmp_path / "ignored").write_text("curl * 22\n")
    result = invoke("connect", "-r", lines, "--new-since", base, "--columns", "comm,rport")
    assert ["80", "22"] == [line.split()[1] for line in result.stdout.splitlines()[1:]]
    ignoring = ("--ignore", tmp_path / "ignored")
    result = invoke("connect", "-r", lines, "--new-since", base, *ignoring, "--columns", "rport")
    assert ["80"] == result.stdout.split()[1:]
    (tmp_path / "fleet").mkdir()
    attempts(tmp_path / "fleet" / "x.parquet", ("curl", None, "198.51.100.9", 80))
    (tmp_path / "fleet" / "cut.parquet").write_bytes(b"PAR1")
    result = invoke("connect", "-r", lines, "--new-since", tmp_path / "fleet", "--columns", "rport")
    assert ["443", "22"] == result.stdout.split()[1:]
    assert f"left out: {tmp_path}/fleet/cut.parquet" in result.stderr


def test_names_are_compared_where_the_baseline_has_some() -> None:
    """An address of a known name that moves is not new; an unknown name on a known network is."""
    base = Baseline()
    base.add(Attempt("curl", "api", "198.51.100.0/24", 443), Counts(1, 0))
    assert base.knows(Attempt("curl", "api", "203.0.113.0/24", 443))
    assert not base.knows(Attempt("curl", "evil", "198.51.100.0/24", 443))
    assert base.knows(Attempt("curl", None, "198.51.100.0/24", 443))
