"""What `tcptrace accept` writes: text, CSV, JSON and a terminal's text, from real accepts."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
from tests.kernel.backends import available
from tests.kernel.harness import Event, Worker, take_port
from tests.kernel.tracers import Tracer, plain, run_tcptrace
from tests.kernel.traffic import V6, Actor, accept_once

import tcptrace

pytestmark = pytest.mark.anywhere

HOSTILE = b'\x1b[31m[b]x\n,"'
ESCAPED = '\\x1b[31m[b]x\\n,"'


@pytest.fixture
def actors() -> dict[str, Actor]:
    """One who accepts IPv4 under a hostile name, and one who accepts IPv6, on the same port."""
    port = take_port()
    return {"IPv4": Actor(port=port, comm=HOSTILE), "IPv6": Actor(V6, port=port, comm=b"v6")}


def rows(tracer: Tracer, actors: dict[str, Actor], newline: str = "\n") -> Iterator[Event]:
    """Let the actors accept; yield the events that have been written as rows under a header."""
    events = [Worker(actor.accept).run() for actor in actors.values()]
    tracer.wait_until(lambda: tracer.stdout.count(newline) > len(events), "the rows")
    yield from events


def port_of(actors: dict[str, Actor]) -> str:
    """Return the port of all actors."""
    return str(actors["IPv4"].port)


def test_text(actors: dict[str, Actor]) -> None:
    """Text in a pipe is a header and rows of bcc's columns, whole and safe for a terminal."""
    with Tracer("-P", port_of(actors)) as tracer:
        keys = ("pid", "comm", "family", "raddr", "rport", "laddr", "lport")
        expected = [["PID", "COMM", "IP", "RADDR", "RPORT", "LADDR", "LPORT"]]
        for event in rows(tracer, actors):
            comm = ESCAPED if event["family"] == 4 else "v6"
            expected.append([str({**event, "comm": comm}[key]) for key in keys])
        assert expected == [line.split() for line in tracer.stdout.splitlines()]


def test_columns(actors: dict[str, Actor]) -> None:
    """-T and -t put their columns in front, --backlog adds BL, --columns takes one away."""
    options = ("-T", "-t", "--backlog", "--columns", "-comm")
    with Tracer("-P", port_of(actors), *options) as tracer:
        list(rows(tracer, actors))
        header, first, _ = (line.split() for line in tracer.stdout.splitlines())
    assert ["TIME", "TIME(s)", "PID", "IP", "RADDR", "RPORT", "LADDR", "LPORT", "BL"] == header
    assert ["0.000", "0/16"] == [first[1], first[-1]]


def test_csv(actors: dict[str, Actor]) -> None:
    """CSV has the columns' keys as its header, and quotes what needs it."""
    with Tracer("-P", port_of(actors), "-o", "csv", "--columns", "comm,lport") as tracer:
        port = port_of(actors)
        list(rows(tracer, actors))
        actual = list(csv.reader(io.StringIO(tracer.stdout, newline="")))
    assert [["comm", "lport"], [ESCAPED, port], ["v6", port]] == actual


def test_terminal(actors: dict[str, Actor]) -> None:
    """A terminal gets colours of ours, and no control character of a process's."""
    with Tracer("-P", port_of(actors), stdout=os.openpty()[::-1], env={"TERM": "xterm"}) as tracer:
        list(rows(tracer, actors))
        tracer.wait_until(lambda: "v6" in tracer.stdout, "the last row")
        header = tracer.stdout.splitlines()[0]
        first = next(line for line in tracer.stdout.splitlines() if ESCAPED in line)
    assert header.startswith("\x1b[1m")
    assert "\x1b[31m" not in first


def test_json_follows_the_schema(actors: dict[str, Actor]) -> None:
    """Each line is an object that the schema allows; --count-events ends the trace after N."""
    schema = json.loads(Path(tcptrace.__file__).with_name("schema.json").read_text())
    with Tracer("--json", "-P", port_of(actors), "--count-events", "2") as tracer:
        for actor in actors.values():
            Worker(actor.accept).run()
        ended = tracer.ended()
    assert (0, [4, 6], (2, 0)) == (
        ended.status,
        [event["family"] for event in tracer.events],
        ended.summary,
    )
    for event in tracer.events:
        jsonschema.validate(event, schema)


def test_container(cgroup: Path) -> None:
    """A process's cgroup is named by its path, and a container by the id that its path ends in."""
    container = "0123456789abcdef" * 4
    scope = cgroup / f"docker-{container}.scope"
    scope.mkdir()
    port = take_port()
    with Tracer("-P", str(port), "--json") as tracer:
        for place in (None, scope):
            Worker(Actor(port=port, cgroup=place).accept).run()
        outside, inside = tracer.wait_for(2, lport=port)
    scope.rmdir()
    assert "container" not in outside
    assert (f"/{cgroup.name}/{scope.name}", container) == (inside["cgroup"], inside["container"])


IN_STORAGE = """\
mount -t tmpfs none /var/lib &&
mkdir -p /var/lib/containers/storage/overlay-containers &&
echo "$1" >/var/lib/containers/storage/overlay-containers/containers.json &&
shift && exec "$@"
"""
"""Runs a command where Podman's storage has a list of containers, and nobody else sees it."""


def test_unit_and_container_name(cgroup: Path) -> None:
    """A cgroup's path tells the unit, and the runtime's file the name of the container in it."""
    container = "0123456789abcdef" * 4
    place = cgroup / "web.service" / f"libpod-payload-{container}"
    place.mkdir(parents=True)
    port = take_port()
    listed = json.dumps([{"id": container, "names": ["my-web"]}])
    prefix = ("unshare", "--mount", "sh", "-c", IN_STORAGE, "sh", listed)
    with Tracer("-P", str(port), "--json", prefix=prefix) as tracer:
        Worker(Actor(port=port, cgroup=place).accept).run()
        (event,) = tracer.wait_for(1, lport=port)
    place.rmdir()
    place.parent.rmdir()
    known = [event[key] for key in ("unit", "runtime", "container", "container_name")]
    assert ["web.service", "podman", container, "my-web"] == known


def test_duration_ends_the_trace_and_verbose_explains() -> None:
    """--duration ends the trace without an event; -v says on stderr which backend was taken."""
    ended = run_tcptrace("accept", "--duration", "0.1s", "-v", "-P", str(take_port()), "--json")
    assert (0, "", (0, 0)) == (ended.status, ended.stdout, ended.summary)
    assert f"tcptrace: accept: {available()[0]}\n" in ended.stderr


def test_libbpf_reads_the_same(tmp_path: Path) -> None:
    """On machines other than x86-64, libbpf reads the ring buffer; the events are the same."""
    script = tmp_path / "other_machine.py"
    script.write_text(
        "from tcptrace.sources.bpf import ringbuf\n"
        "from tcptrace.__main__ import main\n"
        "ringbuf.LOADS_IN_ORDER = frozenset()\n"
        "main()\n"
    )
    port = take_port()
    with Tracer("--json", "-P", str(port), program=(sys.executable, str(script))) as tracer:
        expected = [accept_once(port=port) for _ in range(3)]
        actual = [plain(event) for event in tracer.wait_for(3, lport=port)]
        assert [{**event, "backend": available()[0]} for event in expected] == actual
        assert 0 == tracer.stop().status
