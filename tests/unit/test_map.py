"""The map: who talked to whom, from recordings of several hosts."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from jsonschema import ValidationError
from tests.unit.fleet import START_NS, Fleet, Host, write
from tests.unit.test_schema import VALIDATOR

from tcptrace.cli import cli
from tcptrace.commands import map as map_command
from tcptrace.errors import RefusedError, TcptraceError
from tcptrace.map.find import find
from tcptrace.model.events import time_text
from tcptrace.model.kept import CUT_KEY, END_KEY, META_KEY
from tcptrace.model.losses import Losses
from tcptrace.model.window import ALWAYS

HOSTILE = "\x1b[3m\"'</b>\u202e\\"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """A fleet whose recordings are in a directory of the test."""
    return Fleet(tmp_path / "fleet")


@pytest.fixture
def web() -> Host:
    """A host that asks."""
    return Host("web", "10.0.0.1")


@pytest.fixture
def db() -> Host:
    """A host that serves."""
    return Host("db", "10.0.0.2")


def run(*arguments: object) -> Result:
    """Return what `tcptrace map` prints; an error is the test's."""
    result = CliRunner().invoke(cli, ["map", *map(str, arguments)], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result


def objects(*arguments: object) -> list[dict[str, Any]]:
    """Return what the map has as JSON, all of it as the schema says."""
    found = [json.loads(line) for line in run(*arguments, "--json").stdout.splitlines()]
    for values in found:
        VALIDATOR.validate(values)
    return found


def edges(*arguments: object) -> list[dict[str, Any]]:
    """Return the map's edges as JSON has them."""
    return [values for values in objects(*arguments) if values["type"] == "edge"]


def arrows(*arguments: object) -> dict[str, int]:
    """Return the map's edges as people read them, with attempts."""
    return {
        f"{end(values, 'client')} > {end(values, 'server')}:{values['port']}": values["attempts"]
        for values in edges(*arguments)
    }


def end(values: dict[str, Any], which: str) -> str:
    """Return an end of an edge."""
    host = values.get(f"{which}_host")
    return f"{values[which]}@{host}" if host else f"{values[which]}"


@pytest.mark.parametrize("numbers", [True, False])
def test_a_connection_has_both_of_its_ends(
    fleet: Fleet, web: Host, db: Host, *, numbers: bool
) -> None:
    """The connect of a host and the accept of another are one edge, with all that is known."""
    for at_s in (1, 2, 3):
        fleet.connect(
            web, db, 5432, at_s=at_s, numbers=numbers, name="db.example", programs=("app", "pg")
        )
    (edge,) = edges(fleet.keep(web, db, numbers=numbers))
    assert edge == {
        "type": "edge",
        "client_kind": "process",
        "client": "app",
        "client_host": "web",
        "server_kind": "process",
        "server": "pg",
        "server_host": "db",
        "port": 5432,
        "name": "db.example",
        "attempts": 3,
        "failed": 0,
        "refused": 0,
        "timed_out": 0,
        "unreachable": 0,
        "aborted": 0,
        "failed_otherwise": 0,
        "tx_bytes": 300,
        "rx_bytes": 6000,
        "latency_p50_ms": 0.5,
        "latency_p95_ms": 0.5,
        "first": time_text(START_NS + 1_000_000_000),
        "last": time_text(START_NS + 3_000_000_000),
    }


def test_address_translation_is_seen_through(fleet: Fleet, web: Host, db: Host) -> None:
    """Sequence numbers join what has other addresses and ports on either side."""
    views = (
        ("172.17.0.2", 40001, "10.96.0.10", 80),
        ("10.0.0.2", 5432, "192.0.2.7", 61000),
    )
    fleet.connect(web, db, 5432, seen=views)
    assert {"curl@web > nginx@db:5432": 1} == arrows(fleet.keep(web, db))


def test_without_numbers_translation_is_not_guessed(fleet: Fleet, web: Host, db: Host) -> None:
    """Each end then shows by itself."""
    views = (
        ("172.17.0.2", 40001, "10.96.0.10", 80),
        ("10.0.0.2", 5432, "192.0.2.7", 61000),
    )
    fleet.connect(web, db, 5432, seen=views, numbers=False)
    expected = {"curl@web > 10.96.0.10:80": 1, "192.0.2.7 > nginx@db:5432": 1}
    assert expected == arrows(fleet.keep(web, db))


def test_what_is_not_recorded_is_a_name_or_an_address(fleet: Fleet, web: Host) -> None:
    """External servers have the name that was asked for, unmonitored clients their address."""
    fleet.connect(web, None, 443, address="198.51.100.1", name="api.example")
    fleet.connect(web, None, 443, address="198.51.100.2")
    fleet.connect(None, web, 80, address="2001:db8::1")
    found = {
        values["server_kind"] + "<" + values["client_kind"] for values in edges(fleet.keep(web))
    }
    assert {"external<process", "process<unmonitored"} == found
    assert {
        "curl@web > api.example:443": 1,
        "curl@web > 198.51.100.2:443": 1,
        "2001:db8::1 > nginx@web:80": 1,
    } == arrows(fleet.root)


@pytest.mark.parametrize("wrong", [{"client": None}, {"more": 1}, {"attempts": 0}, {"port": "x"}])
def test_the_schema_knows_edges(fleet: Fleet, web: Host, wrong: dict[str, Any]) -> None:
    """What no edge can be is refused; that edges are as it says, `objects` looks at each time."""
    fleet.connect(web, None, 443, address="198.51.100.1")
    (edge,) = edges(fleet.keep(web))
    with pytest.raises(ValidationError):
        VALIDATOR.validate({**edge, **wrong})


def test_failures_are_counted_by_kind(fleet: Fleet, web: Host, db: Host) -> None:
    """Those to where others succeed are on the same edge, the rest at its name or address."""
    fleet.connect(web, db, 80)
    for outcome in ("refused", "timeout", "unreachable", "aborted", "EPERM"):
        fleet.fail(web, "10.0.0.2", 80, outcome)
    fleet.fail(web, "10.0.0.3", 80, "timeout")
    first, second = edges(fleet.keep(web, db))
    assert ("nginx", 6, 5) == (first["server"], first["attempts"], first["failed"])
    kinds = ("refused", "timed_out", "unreachable", "aborted", "failed_otherwise")
    assert [1] * 5 == [first[kind] for kind in kinds]
    assert ("10.0.0.3", 1) == (second["server"], second["timed_out"])
    assert "tx_bytes" not in second


@pytest.mark.parametrize("numbers", [True, False])
def test_clocks_may_be_apart(fleet: Fleet, web: Host, *, numbers: bool) -> None:
    """What is three seconds ahead is joined all the same, and said."""
    late = Host("db", "10.0.0.2", ahead_s=3)
    for at_s in (1, 11, 21):
        fleet.connect(web, late, 5432, at_s=at_s, numbers=numbers)
    place = fleet.keep(web, late)
    assert {"curl@web > nginx@db:5432": 3} == arrows(place)
    (clock,) = (values for values in objects(place) if values["type"] == "clock")
    assert ("web", "db", 3) == (clock["host"], clock["of"], clock["pairs"])
    assert abs(clock["ahead_ms"] + 3000) < 1
    assert (
        "the clock of db is 3.0 s ahead of that of web, as 3 connections tell" in run(place).stderr
    )


def test_ends_that_are_far_apart_in_time_are_not_joined(fleet: Fleet, web: Host, db: Host) -> None:
    """The same ports after a minute are another connection, where nothing else speaks for it."""
    fleet.connect(web, db, 80, numbers=False, accepted_s=60)
    expected = {"curl@web > 10.0.0.2:80": 1, "10.0.0.1 > nginx@db:80": 1}
    assert expected == arrows(fleet.keep(web, db))


def test_numbers_join_what_was_accepted_late(fleet: Fleet, web: Host, db: Host) -> None:
    """A server that is busy for a minute has its client all the same."""
    fleet.connect(web, db, 80, accepted_s=60)
    assert {"curl@web > nginx@db:80": 1} == arrows(fleet.keep(web, db))


def test_a_connect_has_one_accept_at_most(fleet: Fleet, web: Host, db: Host) -> None:
    """Of two that could be its own, the nearest is; the other one has no client."""
    ends = ("10.0.0.1", 40000, "10.0.0.2", 80)
    web.add("connect", 1.0, ends, comm="curl", outcome="established")
    db.add("accept", 1.1, (*ends[2:], *ends[:2]), comm="nginx")
    db.add("accept", 1.5, (*ends[2:], *ends[:2]), comm="other")
    expected = {"curl@web > nginx@db:80": 1, "10.0.0.1 > other@db:80": 1}
    assert expected == arrows(fleet.keep(web, db))


def test_numbers_speak_against_ends(fleet: Fleet, web: Host, db: Host) -> None:
    """Where a client's own number is another, the same ends are another connection."""
    ends = ("10.0.0.1", 40000, "10.0.0.2", 80)
    web.add("connect", 1.0, ends, comm="curl", outcome="established", iss=1, irs=2)
    db.add("accept", 1.1, (*ends[2:], *ends[:2]), comm="nginx", iss=4, irs=3)
    assert 2 == len(arrows(fleet.keep(web, db)))


def test_a_number_that_a_proxy_of_syns_changes_leaves_the_ends(
    fleet: Fleet, web: Host, db: Host
) -> None:
    """The kernel's SYNPROXY keeps the client's number and has the server's changed."""
    ends = ("10.0.0.1", 40000, "10.0.0.2", 80)
    web.add("connect", 1.0, ends, comm="curl", outcome="established", iss=1, irs=2)
    db.add("accept", 1.1, (*ends[2:], *ends[:2]), comm="nginx", iss=4, irs=1)
    assert {"curl@web > nginx@db:80": 1} == arrows(fleet.keep(web, db))


def test_what_two_recorders_of_a_host_have_seen_counts_once(
    fleet: Fleet, web: Host, db: Host
) -> None:
    """Their times differ a little, and the numbers are the same."""
    fleet.connect(web, db, 80)
    twin = Host("db", "10.0.0.2")
    twin.rows = [{**row, "time": row["time"] + 900} for row in db.rows]
    (edge,) = edges(fleet.keep(web, db, twin))
    assert (1, 100, 2000) == (edge["attempts"], edge["tx_bytes"], edge["rx_bytes"])


def test_ports_that_are_used_again_have_their_own_bytes(fleet: Fleet, web: Host) -> None:
    """Without numbers, an end is that of what was opened last."""
    ends = ("10.0.0.1", 40000, "10.0.0.2", 80)
    for at_s, size in ((1, 10), (5, 500)):
        web.add("connect", at_s, ends, comm="curl", outcome="established")
        web.add("close", at_s + 1, ends, comm="curl", tx_bytes=size, rx_bytes=0)
    web.add("close", 9, ends, comm="curl", tx_bytes=7000, rx_bytes=0)
    (edge,) = edges(fleet.keep(web, numbers=False))
    assert (2, 510) == (edge["attempts"], edge["tx_bytes"])


def test_loopback_stays_at_home(fleet: Fleet) -> None:
    """Hosts that talk to themselves on the same ports at the same time do not talk to others."""
    ends = ("127.0.0.1", 40000, "127.0.0.1", 6379)
    hosts = [Host(name) for name in ("a", "b", "c")]
    for host in hosts:
        host.add("connect", 1.0, ends, comm=f"app-{host.name}", outcome="established")
        host.add("accept", 1.0, (*ends[2:], *ends[:2]), comm="redis")
    expected = {f"app-{name}@{name} > redis@{name}:6379": 1 for name in "abc"}
    assert expected == arrows(fleet.keep(*hosts))


def test_an_unclosed_connection_has_no_bytes(fleet: Fleet, web: Host, db: Host) -> None:
    """They are not known before it ends."""
    fleet.connect(web, db, 80, bytes_=None)
    (edge,) = edges(fleet.keep(web, db))
    assert "tx_bytes" not in edge


def test_an_end_can_be_what_one_likes(fleet: Fleet) -> None:
    """--by adds up by program, unit, container, pod, host or namespace."""
    known: dict[str, Any] = {
        "unit": "a.service",
        "container": "0123456789abcdef",
        "container_name": "box",
    }
    web = Host("web", "10.0.0.1", **known, pod="p", pod_namespace="ns")
    db = Host("db", "10.0.0.2", container="fedcba9876543210")
    fleet.connect(web, db, 80)
    place = fleet.keep(web, db)

    def ends_by(by: str) -> tuple[str | None, str | None]:
        (edge,) = edges(place, "--by", by)
        return edge.get("client"), edge.get("server")

    assert ("a.service", None) == ends_by("unit")
    assert ("box", "fedcba987654") == ends_by("container")
    assert ("ns/p", None) == ends_by("pod")
    assert (None, None) == ends_by("host")
    assert ("4026531840", "4026531840") == ends_by("namespace")


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (["--comm", "curl"], 2),
        (["--comm", "nginx"], 1),
        (["--comm", "none"], 0),
        (["-P", "80"], 1),
        (["-P", "!80"], 1),
        (["-p", "7"], 1),
        (["-p", "!7"], 2),
        (["-u", "33"], 1),
        (["-u", "!33"], 2),
        (["-N", "5"], 1),
        (["--cgroup", "/a"], 1),
        (["--cgroup", "/a/b"], 1),
        (["--cgroup", "/a/bc"], 0),
        (["--unit", "a"], 1),
        (["--unit", "b"], 0),
        (["--container", "bo*"], 1),
        (["--pod", "ns/p"], 1),
        (["--pod", "q"], 0),
        (["--pod", "p", "--unit", "b"], 0),
        (["-4"], 2),
        (["-6"], 0),
        (["--failed"], 1),
    ],
)
def test_a_connection_is_kept_where_either_end_passes(
    fleet: Fleet, db: Host, options: Sequence[str], count: int
) -> None:
    """Filters do not part what belongs together."""
    known: dict[str, Any] = {"pid": 7, "uid": 33, "netns": 5, "cgroup": "/a/b"}
    known |= {"unit": "a.service", "container": "c" * 64, "container_name": "box"}
    web = Host("web", "10.0.0.1", **known, pod="p", pod_namespace="ns")
    other = Host("other", "10.0.0.9", pid=8)
    fleet.connect(web, db, 80)
    fleet.fail(other, "10.0.0.8", 443)
    found = edges(fleet.keep(web, other, db), *options)
    assert count == len(found)
    assert all(edge.get("server_host") == "db" for edge in found if edge["port"] == 80)


def test_a_map_is_of_a_time(fleet: Fleet, web: Host, db: Host) -> None:
    """--since and --until are about when connections began; their other ends are found."""
    for at_s in (1, 100, 1000):
        fleet.connect(web, db, 80, at_s=at_s)
    place = fleet.keep(web, db)
    since, until = (time_text(START_NS + at_s * 1_000_000_000) for at_s in (50, 500))
    assert {"curl@web > nginx@db:80": 2} == arrows(place, "--since", since[:19] + "Z")
    assert {"curl@web > nginx@db:80": 2} == arrows(place, "--until", until[:19] + "Z")
    both = ["--since", since[:19] + "Z", "--until", until[:19] + "Z"]
    assert {"curl@web > nginx@db:80": 1} == arrows(place, *both)


def test_what_is_counted_is_what_is_shown(fleet: Fleet, web: Host, db: Host) -> None:
    """Not what is outside of the time, or does not pass the filters."""
    for at_s, port in ((1, 80), (100, 80), (100, 81)):
        fleet.connect(web, db, port, at_s=at_s)
    fleet.connect(web, None, 443, at_s=100, address="198.51.100.1")
    fleet.connect(None, db, 80, at_s=100, address="198.51.100.1")
    fleet.fail(web, "10.0.0.2", 80, at_s=100.0)
    place = fleet.keep(web, db)
    since = time_text(START_NS + 50_000_000_000)[:19] + "Z"
    counts = (
        "connections with both ends: {}, with the client's alone: {}, with the server's alone: {}"
    )
    assert f"edges: 4; {counts.format(3, 1, 1)}" in run(place).stderr
    assert f"edges: 4; {counts.format(2, 1, 1)}" in run(place, "--since", since).stderr
    assert f"edges: 1; {counts.format(1, 0, 0)}" in run(place, "-P", "81").stderr
    assert f"edges: 1; {counts.format(2, 0, 0)}" in run(place, "--failed").stderr


def test_a_time_that_ends_before_it_begins_is_refused(fleet: Fleet, web: Host) -> None:
    """An empty map would say that nothing has happened."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    for since, until in (("1h", "2h"), ("2026-12-01", "2026-12-01")):
        with pytest.raises(click.UsageError, match="Nothing is between --since and --until"):
            run(fleet.keep(web), "--since", since, "--until", until)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", ""])
def test_what_is_no_time_is_refused(fleet: Fleet, web: Host, text: str) -> None:
    """The error says what a time looks like."""
    fleet.fail(web, "10.0.0.2", 80)
    with pytest.raises(click.BadParameter, match="is no moment such as"):
        run(fleet.keep(web), "--since", text)


def test_single_recordings_are_read_as_well(
    tmp_path: Path, fleet: Fleet, web: Host, db: Host
) -> None:
    """A Parquet file's host is in its metadata, that of JSON Lines in the first line."""
    fleet.connect(web, db, 80, numbers=False)
    write(tmp_path / "web.parquet", web, numbers=False)
    write(tmp_path / "db.parquet", db, numbers=False)
    names = [str(tmp_path / name) for name in ("db.parquet", "db.jsonl")]
    command = [sys.executable, "-m", "tcptrace", "tracer", "-r", names[0], "-w", names[1]]
    subprocess.run(command, check=True, capture_output=True)
    for other in names:
        found = arrows(tmp_path / "web.parquet", other)
        assert {"curl@web > nginx@db:80": 1} == found, other


def test_what_is_no_recording_is_said(tmp_path: Path) -> None:
    """So is a directory without any."""
    with pytest.raises(TcptraceError, match="there are no recordings in"):
        run(tmp_path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    with pytest.raises(TcptraceError, match="was not ended by its writer"):
        run(tmp_path / "x.parquet")


def test_files_that_are_being_written_are_passed_over(fleet: Fleet, web: Host) -> None:
    """They are hidden until they are whole."""
    fleet.fail(web, "10.0.0.2", 80)
    place = fleet.keep(web)
    (place / "date=2026-11-30" / "host=web" / ".tracer-9.parquet").write_bytes(b"PAR1")
    assert 1 == len(edges(place))


def test_what_cannot_be_read_is_left_out_and_said(fleet: Fleet, web: Host, db: Host) -> None:
    """A file that was cut off does not keep the others of a directory from being joined."""
    fleet.connect(web, db, 80)
    place = fleet.keep(web, db)
    whole = next(place.rglob("host=web/*.parquet"))
    for number, size in enumerate((0, 8, whole.stat().st_size // 2, whole.stat().st_size - 1)):
        whole.with_name(f"tracer-bad-{number}.parquet").write_bytes(whole.read_bytes()[:size])
    (place / "other.parquet").write_bytes(b"PAR1")
    (place / "other.jsonl").write_bytes(b"no JSON\n")
    result = run(place)
    assert "curl@web nginx@db:80" in " ".join(result.stdout.split())
    said = [line for line in result.stderr.splitlines() if "left out" in line]
    assert "tcptrace: left out: 3 more that cannot be read" == said.pop()
    assert 3 == sum(str(place) in line for line in said)
    for path in place.rglob("tracer-[0-9]*.parquet"):
        path.unlink()
    with pytest.raises(TcptraceError, match="was not ended by its writer"):
        run(place)


def test_files_of_the_same_columns_are_one_table(fleet: Fleet, web: Host, db: Host) -> None:
    """However many there are, an engine need not hold them open to know what they have."""
    other = Host("other", "10.0.0.3")
    for host in (web, db, other):
        fleet.connect(host, None, 80, address="198.51.100.1")
    fleet.keep(web, db)
    place = fleet.keep(other, numbers=False)
    tables = find([place, next(place.rglob("*.parquet"))], place, ALWAYS).tables
    assert [2, 1] == [len(table.paths) for table in tables]
    assert 3 == len(edges(place))


def test_a_path_is_no_pattern(tmp_path: Path, web: Host) -> None:
    """What would match another directory's name is a name."""
    for name, address in (("fl*t", "198.51.100.1"), ("flat", "198.51.100.2")):
        fleet = Fleet(tmp_path / name)
        fleet.connect(web, None, 80, address=address)
        fleet.keep(web)
        web.rows.clear()
    assert {"curl@web > 198.51.100.1:80": 1} == arrows(tmp_path / "fl*t")


def test_what_is_given_twice_counts_once(fleet: Fleet, web: Host, db: Host) -> None:
    """A path below another one, and a copy of a file, where sequence numbers tell."""
    fleet.connect(web, db, 80)
    place = fleet.keep(web, db)
    (path,) = place.rglob("host=web/*.parquet")
    path.with_name("tracer-copy.parquet").write_bytes(path.read_bytes())
    (edge,) = edges(place, path, path.parent, place)
    assert (1, 100) == (edge["attempts"], edge["tx_bytes"])


@pytest.mark.parametrize("numbers", [True, False])
def test_a_copy_of_a_file_counts_once(fleet: Fleet, web: Host, *, numbers: bool) -> None:
    """Also of what has no sequence numbers, such as attempts that failed."""
    fleet.connect(web, None, 80, address="198.51.100.1", numbers=numbers)
    fleet.fail(web, "198.51.100.1", 80)
    (path,) = fleet.keep(web, numbers=numbers).rglob("*.parquet")
    (fleet.root / "backup").mkdir()
    (fleet.root / "backup" / "tracer.parquet").write_bytes(path.read_bytes())
    (edge,) = edges(fleet.root)
    assert (2, 1, 100) == (edge["attempts"], edge["failed"], edge["tx_bytes"])


@pytest.mark.parametrize("above", ["host=above", "type=x", "time=1", "it's [a] {b}*"])
def test_a_host_is_what_its_own_directory_says(tmp_path: Path, above: str) -> None:
    """Whatever the host is called, and whatever stands above that directory."""
    names = ("__HIVE_DEFAULT_PARTITION__", "date=2026-11-30", "a/b", "100%", "a\nb", "it's", "é")
    fleet = Fleet(tmp_path / above / "fleet")
    web, *hosts = (Host(quote(name, safe="")) for name in ("web", *names))
    for number, host in enumerate(hosts):
        fleet.connect(web, host, 80 + number)
    expected = {f"curl@web > nginx@{name}:{80 + at}": 1 for at, name in enumerate(names)}
    assert expected == arrows(fleet.keep(web, *hosts))


def test_directories_may_be_in_others(fleet: Fleet, web: Host, db: Host, tmp_path: Path) -> None:
    """Of any depth, and with any names: the host is the innermost."""
    fleet.connect(web, db, 80)
    fleet.keep(web)
    inner = Fleet(tmp_path / "fleet" / "host=old" / "zone=eu" / "laddr=7")
    inner.keep(db)
    assert {"curl@web > nginx@db:80": 1} == arrows(fleet.root)


def test_links_are_followed_once(fleet: Fleet, web: Host, db: Host, tmp_path: Path) -> None:
    """To directories and to files; those that lead back are no others."""
    fleet.connect(web, db, 80)
    (path,) = fleet.keep(web).rglob("*.parquet")
    other = Fleet(tmp_path / "other")
    other.keep(db)
    (fleet.root / "other").symlink_to(other.root)
    (other.root / "back").symlink_to(fleet.root)
    (fleet.root / "again.parquet").symlink_to(path)
    assert {"curl@web > nginx@db:80": 1} == arrows(fleet.root)


def test_what_is_no_file_is_not_read(fleet: Fleet, web: Host) -> None:
    """Nobody may ever write to a pipe; a directory can be called as a recording is."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    place = fleet.keep(web)
    os.mkfifo(place / "pipe.parquet")
    (place / "gone.parquet").symlink_to("nowhere")
    (place / "loop").symlink_to("loop")
    for name in ("x.parquet", "x.jsonl"):
        (place / name).mkdir()
    result = run(place)
    assert "198.51.100.1:80" in result.stdout
    said = [line for line in result.stderr.splitlines() if "left out" in line]
    names = ("gone.parquet", "pipe.parquet")
    assert [f"tcptrace: left out: {place}/{name} is no file" for name in names] == said
    with pytest.raises(TcptraceError, match="it is no file"):
        run(place / "pipe.parquet")


def test_a_directory_that_is_closed_is_said(
    fleet: Fleet, web: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recordings are their owner's: without its right, a map lacks a host."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    place, closed = fleet.keep(web), str(fleet.root / "closed")
    (fleet.root / "closed").mkdir()
    scandir = os.scandir

    def scan(path: Any) -> Any:
        if str(path).startswith(closed):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert f"left out: cannot read {closed}: Permission denied\n" in run(place).stderr
    with pytest.raises(TcptraceError, match=f"cannot read {closed}: Permission denied"):
        run(closed)


def test_a_name_that_is_no_text_is_left_out_and_said(fleet: Fleet, web: Host) -> None:
    """No engine could be told of it."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    (path,) = fleet.keep(web).rglob("*.parquet")
    other = path.with_name(os.fsdecode(b"tracer-\xff.parquet"))
    other.write_bytes(path.read_bytes())
    assert "tracer-\\udcff.parquet" in run(fleet.root).stderr
    with pytest.raises(TcptraceError, match="its name is not in UTF-8"):
        run(other)


FOREIGN = {
    "time": pa.array(["noon"]),
    "type": pa.array([7]),
    "lport": pa.array(["80"]),
    "comm": pa.array([["curl"]]),
    "clock_offset_ns": pa.array(["0"]),
    "filename": pa.array(["/etc/passwd"]),
    "host": pa.array(["db"]),
    "TYPE": pa.array(["connect"]),
}


def kept_connection(fleet: Fleet, web: Host, db: Host) -> tuple[Path, Path, pa.Table]:
    """Keep one connection; return where, the name for another file there, and web's rows."""
    fleet.connect(web, db, 80)
    place = fleet.keep(web, db)
    (path,) = place.rglob("host=web/*.parquet")
    return place, path.with_name("tracer-9.parquet"), pq.read_table(path, partitioning=None)


@pytest.mark.parametrize("name", FOREIGN)
def test_a_file_with_other_columns_is_left_out_and_said(
    fleet: Fleet, web: Host, db: Host, name: str
) -> None:
    """It would keep all others from being joined, or give them a meaning of its own."""
    place, other, table = kept_connection(fleet, web, db)
    known, table = table.schema.metadata, table.slice(0, 1)
    if name in table.column_names:
        table = table.drop_columns([name])
    table = table.append_column(name, FOREIGN[name])
    pq.write_table(table.replace_schema_metadata(known), other)
    assert {"curl@web > nginx@db:80": 1} == arrows(place)
    assert "tracer-9.parquet" in run(place).stderr


@pytest.mark.parametrize("known", [b"[]", b"7", b"{}", b"\xff", b"[" * 100_000])
def test_a_file_that_says_nonsense_of_itself_is_left_out_and_said(
    fleet: Fleet, web: Host, db: Host, known: bytes
) -> None:
    """As one that is cut off is."""
    place, other, table = kept_connection(fleet, web, db)
    metadata = {**table.schema.metadata, META_KEY: known}
    pq.write_table(table.replace_schema_metadata(metadata), other)
    assert {"curl@web > nginx@db:80": 1} == arrows(place)
    assert "tracer-9.parquet" in run(place).stderr


@pytest.mark.parametrize("name", [b"type", b"comm"])
def test_a_column_whose_name_is_no_text_is_said(fleet: Fleet, web: Host, name: bytes) -> None:
    """A bit of a disk may have changed, in what tells where columns are."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    (path,) = fleet.keep(web).rglob("*.parquet")
    path.write_bytes(path.read_bytes().replace(name, b"\x80" + name[1:]))
    for command in ("map", "diff"):
        result = CliRunner().invoke(cli, [command, str(path), *[str(path)] * (command == "diff")])
        assert isinstance(result.exception, TcptraceError)


def test_a_damaged_file_is_named(fleet: Fleet, web: Host, db: Host) -> None:
    """An engine finds it when it reads rows, and does not say which it is."""
    fleet.connect(web, db, 80)
    (path,) = fleet.keep(web, db).rglob("host=web/*.parquet")
    data = bytearray(path.read_bytes())
    data[4:400] = b"\xff" * 396
    path.write_bytes(data)
    with pytest.raises(TcptraceError, match=f"files are damaged: {path}"):
        run(fleet.root)


def test_what_was_lost_is_said(fleet: Fleet, web: Host, db: Host) -> None:
    """Ends can be missing then."""
    fleet.connect(web, db, 80)
    place = fleet.keep(web)
    for number in range(2):
        losses = Losses(no_room=2, untracked=5)
        write(place / f"db-{number}.parquet", db, losses=losses, at_s=number)
    assert "so ends can be missing: db (4)" in run(place).stderr


def test_what_a_killed_recorder_has_left_is_said(fleet: Fleet, web: Host) -> None:
    """It was made whole by the next one, and may lack what came last."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    (path,) = fleet.keep(web).rglob("*.parquet")
    table = pq.read_table(path)
    known = {key: value for key, value in table.schema.metadata.items() if key != END_KEY}
    pq.write_table(table.replace_schema_metadata({**known, CUT_KEY: b"true"}), path)
    result = run(fleet.root)
    assert "cut off when their writers were killed, of web" in result.stderr
    assert "198.51.100.1:80" in result.stdout


def test_directories_can_have_all_kinds_of_recordings(
    fleet: Fleet, web: Host, db: Host, tmp_path: Path
) -> None:
    """JSON Lines beside Parquet, and of a host that runs no tracer what accept has kept."""
    other = Host("other", "10.0.0.3")
    fleet.connect(web, db, 80)
    fleet.connect(web, other, 81)
    place = fleet.keep(web, other)
    (accepts,) = place.rglob("host=other/*.parquet")
    accepts.rename(accepts.with_name("accept-0.parquet"))
    write(tmp_path / "db.parquet", db)
    command = [sys.executable, "-m", "tcptrace", "tracer", "-r", str(tmp_path / "db.parquet")]
    subprocess.run([*command, "-w", str(place / "x.jsonl")], check=True, capture_output=True)
    assert {"curl@web > nginx@db:80": 1, "curl@web > nginx@other:81": 1} == arrows(place)


def test_hosts_of_one_name_are_told_apart(fleet: Fleet, db: Host) -> None:
    """By their boots, where these are at the same time; a host that was started again is one."""
    twins = [Host("ubuntu", f"10.0.0.{at}", boot_id=f"{at}{at}{at}-boot") for at in (3, 4)]
    again = [Host("web", "10.0.0.1", boot_id=f"{at}{at}{at}-boot") for at in (1, 2)]
    fleet.connect(twins[0], twins[1], 80)
    for at, host in enumerate(again):
        fleet.connect(host, db, 80, at_s=1000 * at)
    place = fleet.keep(db)
    for number in range(4):
        write(place / f"{number}.parquet", twins[number % 2], at_s=number)
        write(place / f"w{number}.parquet", again[number // 2], at_s=number)
        twins[number % 2].rows.clear()
        again[number // 2].rows.clear()
    result = run(place, "--columns", "from,to")
    assert "several hosts are called ubuntu: each stands with" in result.stderr
    assert "called web" not in result.stderr
    assert [
        "FROM TO",
        "curl@web nginx@db:80",
        "curl@ubuntu 333-boot nginx@ubuntu 444-boot:80",
    ] == [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_single_recordings_of_namesakes_are_told_apart(fleet: Fleet) -> None:
    """They were recorded at the same time, although neither has begun a second file."""
    twins = [Host("ubuntu", f"10.0.0.{at}", boot_id=f"{at}{at}{at}-boot") for at in (3, 4)]
    fleet.connect(twins[0], twins[1], 80, at_s=20)
    for number, host in enumerate(twins):
        fleet.root.mkdir(exist_ok=True)
        write(fleet.root / f"{number}.parquet", host, at_s=number)
    expected = {"curl@ubuntu 333-boot > nginx@ubuntu 444-boot:80": 1}
    assert expected == arrows(*fleet.root.iterdir())


def test_containers_of_several_hosts_have_the_same_addresses(fleet: Fleet) -> None:
    """Without numbers, ends on one host belong together rather than those of two."""
    hosts = [Host(f"host{at}", "172.17.0.2", ahead_s=0.0004 * at, netns=5) for at in range(4)]
    for host in hosts:
        seen = (("172.17.0.2", 40001, "172.17.0.3", 80), ("172.17.0.3", 80, "172.17.0.2", 40001))
        fleet.connect(host, host, 80, seen=seen, numbers=False, programs=("curl", host.name))
    expected = {f"curl@host{at} > host{at}@host{at}:80": 1 for at in range(4)}
    assert expected == arrows(fleet.keep(*hosts))


def test_translation_on_both_sides_and_back_home_is_seen_through(fleet: Fleet, web: Host) -> None:
    """Both ends are translated, or a container asks its own host's published port."""
    db = Host("db", "10.0.0.2")
    fleet.connect(
        web,
        db,
        80,
        seen=(("172.17.0.2", 40001, "10.0.0.2", 8080), ("172.17.0.9", 80, "10.0.0.1", 61000)),
    )
    fleet.connect(
        web,
        web,
        81,
        seen=(("172.17.0.2", 40001, "10.0.0.1", 8081), ("172.17.0.3", 81, "172.17.0.1", 61001)),
        programs=("wget", "nginx"),
    )
    assert {"curl@web > nginx@db:80": 1, "wget@web > nginx@web:81": 1} == arrows(
        fleet.keep(web, db)
    )


def test_equal_numbers_of_another_time_are_nobody_else_s(fleet: Fleet, web: Host, db: Host) -> None:
    """Numbers can come again; the nearest in time are of one connection."""
    others = Host("other-web", "10.0.0.3"), Host("other-db", "10.0.0.4")
    fleet.connect(web, db, 80)
    fleet.connect(*others, 80, at_s=5000)
    for host in (web, db, *others):
        for row in host.rows:
            row["iss"] = row["irs"] = 7
    expected = {"curl@web > nginx@db:80": 1, "curl@other-web > nginx@other-db:80": 1}
    assert expected == arrows(fleet.keep(web, db, *others))


@pytest.mark.parametrize("numbers", [True, False])
def test_a_clock_may_drift(fleet: Fleet, web: Host, *, numbers: bool) -> None:
    """How far it is ahead is estimated for each hour: here minutes, more and more, and then set."""
    db = Host("db", "10.0.0.2")
    for number in range(480):
        late_s = 100 + number / 48 if number < 400 else 0.001
        fleet.connect(web, db, 80, at_s=180 * number, accepted_s=late_s, numbers=numbers)
    assert {"curl@web > nginx@db:80": 480} == arrows(fleet.keep(web, db))


def test_a_connection_may_last_over_midnight(fleet: Fleet, web: Host, db: Host) -> None:
    """Its end is in another file, of another day."""
    fleet.connect(web, db, 80)
    place = fleet.keep()
    for host in (web, db):
        begin, end = host.rows
        for day, row in (("2026-11-30", begin), ("2026-12-01", end)):
            host.rows = [row]
            to = place / f"date={day}" / f"host={host.name}"
            to.mkdir(parents=True)
            write(to / "tracer-0.parquet", host)
    until = time_text(START_NS + 60_000_000_000)
    (edge,) = edges(place, "--until", until)
    assert ("nginx", 100, 2000) == (edge["server"], edge["tx_bytes"], edge["rx_bytes"])


def test_the_map_is_a_table(fleet: Fleet, web: Host, db: Host) -> None:
    """As text and CSV it has columns that can be picked."""
    fleet.connect(web, db, 80, name="db.example")
    fleet.fail(web, "fd00::1", 443, "timeout")
    place = fleet.keep(web, db)
    head, second, first = (line.split() for line in run(place).stdout.splitlines())
    assert ["FROM", "TO", "NAME", "ATTEMPTS", "FAILED", "WHY"] == head[:6]
    assert ["TX(KB)", "RX(KB)", "P50(ms)", "P95(ms)"] == head[6:]
    assert ["curl@web", "nginx@db:80", "db.example", "1", "0", "-"] == first[:6]
    assert ["0.1", "2.0", "0.500", "0.500"] == first[6:]
    assert ["curl@web", "[fd00::1]:443", "-", "1", "1", "timeout"] == second[:6]
    lines = run(place, "-o", "csv", "--columns", "from,to,last").stdout.splitlines()
    assert "from,to,last" == lines[0]
    assert f"curl@web,nginx@db:80,{time_text(START_NS + 1_000_000_000)}" in lines


def test_names_of_strangers_are_data(fleet: Fleet, db: Host) -> None:
    """Nothing in them acts on a terminal, a graph, a page, or a query."""
    web = Host("web", "10.0.0.1")
    fleet.connect(web, None, 80, programs=(HOSTILE, ""), name=HOSTILE, address="198.51.100.1")
    place = fleet.keep(web)
    (edge,) = edges(place)
    assert (HOSTILE, HOSTILE) == (edge["client"], edge["name"])
    assert (HOSTILE,) == tuple(edge["client"] for edge in edges(place, "--comm", HOSTILE))
    for options in ("--by=program", "--dot", "-ocsv"):
        assert not {"\x1b", "\u202e"} & {*run(place, options).stdout}


@pytest.mark.parametrize("option", ["--to", "--html"])
def test_a_file_that_cannot_be_written_is_said_first(
    fleet: Fleet, web: Host, tmp_path: Path, option: str
) -> None:
    """Before the recordings are joined, which can take an hour."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    (next(fleet.keep(web).rglob("*.parquet"))).write_bytes(b"PAR1")
    (tmp_path / "file").touch()
    wrong = {".": "Is a directory", "no/x": "No such file", "file/x": "Not a directory"}
    for path, why in ((tmp_path / name, why) for name, why in wrong.items()):
        with pytest.raises(TcptraceError, match=f"cannot write to {path}: {why}"):
            run(fleet.root, option, path)


@pytest.mark.parametrize("option", ["--to", "--html"])
def test_a_file_that_is_full_is_named(fleet: Fleet, web: Host, option: str) -> None:
    """It is not standard output that has no room."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    with pytest.raises(TcptraceError, match="cannot write to /dev/full: No space left on device"):
        run(fleet.keep(web), option, "/dev/full")


def test_where_there_is_no_room_more_is_asked_for(fleet: Fleet, web: Host) -> None:
    """In memory, or on disk."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    with pytest.raises(TcptraceError, match="a disk with more room with --temp"):
        run(fleet.keep(web), "--memory", "1MB")


def test_where_nothing_can_be_made_another_place_is_asked_for(fleet: Fleet, web: Host) -> None:
    """For temporary files there are several places."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    with pytest.raises(TcptraceError, match="cannot make a directory in /proc: "):
        run(fleet.keep(web), "--temp", "/proc")


def test_where_rows_have_no_room_they_are_not_left_out(
    fleet: Fleet, web: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JSON Lines are made columns; without room for these there is no map."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    row = {"type": "connect", "raddr": "198.51.100.1", "rport": 80, "comm": "curl", "ts_ns": 1}
    (fleet.keep(web) / "x.jsonl").write_text(json.dumps(row) + "\n")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tcptrace.map.find.ParquetRecording.open", full)
    with pytest.raises(TcptraceError, match=r"no room for the rows of .*x\.jsonl: No space left"):
        run(fleet.root)


def test_the_map_is_a_graph(fleet: Fleet, web: Host, db: Host) -> None:
    """--dot has nodes by kind and edges with port and counts."""
    fleet.connect(web, db, 80)
    fleet.fail(web, "10.0.0.9", 443)
    text = run(fleet.keep(web, db), "--dot").stdout
    assert text.startswith("digraph tcptrace {\n")
    assert text.endswith("}\n")
    assert '"process curl@web" -> "process nginx@db" [label=":80 1"];' in text
    assert '"external 10.0.0.9" [label="10.0.0.9" shape=ellipse style=dashed];' in text
    assert 'label=":443 1, 1 failed" color=red];' in text


def test_the_map_is_a_page(fleet: Fleet, db: Host, tmp_path: Path) -> None:
    """It needs nothing else, and no name can end the data in it."""
    web = Host("web", "10.0.0.1")
    fleet.connect(web, db, 80, programs=("</script><b>", "nginx"))
    run(fleet.keep(web, db), "--html", tmp_path / "map.html")
    text = (tmp_path / "map.html").read_text(encoding="utf-8")
    assert 2 == text.count("</script>")
    assert "src=" not in text
    assert "http:" not in text.replace("http://www.w3.org/2000/svg", "")
    data = json.loads(text.partition('id="data">')[2].partition("</script>")[0])
    assert [{"kind": "process", "name": "</script><b>", "host": "web"}] == data["nodes"][:1]
    assert (0, 1, 80) == tuple(data["edges"][0][key] for key in ("from", "to", "port"))


def test_the_examples_of_the_help_are_command_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is accepted as it stands."""
    (tmp_path / "fleet").mkdir()
    monkeypatch.chdir(tmp_path)
    command = cli.get_command(click.Context(cli), "map")
    assert command
    text = CliRunner().invoke(cli, ["map", "--help-all"]).stdout
    examples = text.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()
    assert 5 == len(examples)
    for example in examples:
        line = re.split("  +", example.strip())[0].partition("|")[0]
        arguments = shlex.split(line)
        assert ["tcptrace", "map"] == arguments[:2]
        command.make_context("map", arguments[2:])


@pytest.mark.parametrize(("columns", "has_all"), [("80", False), ("200", True), ("9999999", False)])
def test_a_narrow_terminal_has_fewer_columns(
    monkeypatch: pytest.MonkeyPatch, columns: str, *, has_all: bool
) -> None:
    """What a terminal has no room for is left out, whatever size a variable asks for."""
    monkeypatch.setenv("COLUMNS", columns)
    told = os.terminal_size((80, 24))
    monkeypatch.setattr(os, "get_terminal_size", lambda _descriptor: told)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    nothing = {
        "json": False,
        "dot": False,
        "form": None,
        "columns": "",
        "to": None,
        "color": "auto",
    }
    assert has_all == ("tx" in [column.key for column in map_command._form(nothing).columns])


def test_without_duckdb_it_says_how_to_get_it(
    fleet: Fleet, web: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    fleet.fail(web, "10.0.0.2", 80)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.delitem(sys.modules, "tcptrace.map.duck", raising=False)
    with pytest.raises(RefusedError, match="-m pip install duckdb pyarrow"):
        run(fleet.keep(web))


@pytest.mark.parametrize("text", ["much", "4XB", "0GB", "-1GB"])
def test_what_is_no_size_is_refused(fleet: Fleet, web: Host, text: str) -> None:
    """The error says what a size looks like."""
    fleet.fail(web, "10.0.0.2", 80)
    with pytest.raises(click.BadParameter, match="is no size such as 500MB or 4GB"):
        run(fleet.keep(web), "--memory", text)


ENDLESS = """
import os
import signal
import sys
import tcptrace.map.join
import tcptrace.map.place
from tcptrace.__main__ import run

def endless(engine, *_):
    print("now", flush=True)
    engine.run("SELECT SUM(range) FROM range(1000000000000)")

def first():
    (place, *_) = sys.argv[sys.argv.index("--temp") + 1 :]
    os.write(1, b"first" if os.listdir(place) else b"late")

signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever tests may ignore them
signal.signal(signal.SIGHUP, signal.SIG_DFL)
tcptrace.map.join.make_map = endless
tcptrace.map.place.before_removal.append(first)
sys.exit(run())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_and_leaves_nothing(
    fleet: Fleet, web: Host, tmp_path: Path, number: signal.Signals
) -> None:
    """Tables can be many gigabytes; and a status of 0 would say that the map was made."""
    fleet.connect(web, None, 80, address="198.51.100.1")
    (tmp_path / "temp").mkdir()
    arguments = ["map", "--temp", str(tmp_path / "temp"), str(fleet.keep(web))]
    command = [sys.executable, "-c", ENDLESS, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout
            assert process.stderr
            assert b"now\n" == process.stdout.readline()
            assert [*(tmp_path / "temp").iterdir()]
            process.send_signal(number)
            assert 128 + number == process.wait(60)
            assert b"first" == process.stdout.read()
            assert b"" == process.stderr.read()
        finally:
            process.kill()
    assert [] == [*(tmp_path / "temp").iterdir()]
