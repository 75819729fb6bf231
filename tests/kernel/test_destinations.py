"""`--summary`, `--only` and `--fail-on-connect` on real commands."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.harness import Worker, take_port, take_ports
from tests.kernel.resolvers import FAKE, answer, question
from tests.kernel.tracers import Tracer, run_in_fork, run_tcptrace
from tests.kernel.traffic import V4

from tcptrace.probes.probe import Backend

OTHER = "127.0.0.2"
COMMANDS = ("connect", "tracer")
NAME = "a.test"
ASK = f"""
kind = socket.SOCK_DGRAM
with socket.socket(type=kind) as server, socket.socket(type=kind) as asking:
    server.bind(("{FAKE}", 53))
    asking.connect(("{FAKE}", 53))
    asking.send(bytes.fromhex("{question(NAME).hex()}"))
    asked, client = server.recvfrom(512)
    server.sendto(asked[:2] + bytes.fromhex("{answer(NAME, f"{NAME}. IN A {V4}").hex()}"), client)
    asking.recv(512)
"""
"""Asks for a name, and answers."""
EXCHANGE = """
with socket.create_server(("{0}", {1})) as server:
    for _ in range(2):
        with socket.create_connection(("{0}", {1})) as client, server.accept()[0] as peer:
            client.send(b"x" * 1000)
            peer.recv(1000, socket.MSG_WAITALL)
            peer.send(b"y" * 10)
            client.recv(10)
"""
REFUSED = 'socket.socket().connect_ex(("{0}", {1}))'


@pytest.fixture(autouse=True)
def _without_ftrace(request: pytest.FixtureRequest) -> None:
    """Skip what the backend ftrace does not offer."""
    if "backend" in request.fixturenames and request.getfixturevalue("backend") == "ftrace":
        pytest.skip("not offered: outcomes with ftrace")


def python(*lines: str) -> list[str]:
    """Return a command that runs these lines."""
    return [sys.executable, "-Ic", "\n".join(("import os, socket, time", *lines))]


@pytest.mark.anywhere
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_command_has_talked_to(command: str) -> None:
    """By name where it asked for one, else by address: attempts, failures and latency; bytes."""
    ports = take_ports(2)
    script = python(ASK, EXCHANGE.format(V4, ports[0]), REFUSED.format(OTHER, ports[1]))
    ended = run_tcptrace(command, "--summary", "--json", "--to", "-", "--", *script)
    named, refused = map(json.loads, ended.stdout.splitlines())
    assert (NAME, None, ports[0], 2, 0) == tuple(
        named.get(key) for key in ("query", "raddr", "rport", "attempts", "failed")
    )
    assert (None, OTHER, ports[1], 1, {"refused": 1}) == tuple(
        refused.get(key) for key in ("query", "raddr", "rport", "attempts", "failures")
    )
    assert 0 < named["latency_p50_ms"] <= named["latency_p95_ms"]
    known = (2000, 20, 0) if command == "tracer" else (None, None, None)
    assert known == tuple(named.get(key) for key in ("tx_bytes", "rx_bytes", "open"))


@pytest.mark.anywhere
def test_a_summary_is_a_table_on_standard_error() -> None:
    """Where rows go, and no row is shown."""
    port = take_port()
    ended = run_tcptrace("tracer", "--summary", "--", *python(EXCHANGE.format(V4, port)))
    assert "" == ended.stdout
    (heading, row) = (line.split() for line in ended.complaints)
    assert ["DESTINATION", "DPORT", "ATTEMPTS", "FAILED"] == heading[:4]
    assert [V4, str(port), "2", "0"] == row[:4]


@pytest.mark.anywhere
@pytest.mark.parametrize("command", COMMANDS)
def test_a_recording_has_the_same_summary(command: str, tmp_path: Path) -> None:
    """-w keeps the events beside the summary, and -r makes the same one of them."""
    ports, path = take_ports(2), tmp_path / "x.jsonl"
    script = python(EXCHANGE.format(V4, ports[0]), REFUSED.format(V4, ports[1]))
    options = ("--summary", "--to", "-")
    live = run_tcptrace(command, *options, "-w", str(path), "--", *script)
    again = run_tcptrace(command, "--summary", "-r", str(path))
    assert (live.stdout, live.summary) == (again.stdout, again.summary)
    assert 3 == live.stdout.count("\n"), live.stderr
    gated = run_tcptrace(command, "--only", f":{ports[0]}", "-r", str(path))
    assert (3, True) == (gated.status, "1 attempt to connect" in gated.stderr)


@pytest.mark.anywhere
@pytest.mark.parametrize("command", COMMANDS)
def test_only_what_is_permitted(command: str) -> None:
    """The status is the command's where all was permitted."""
    ports = take_ports(2)
    script = python(*(REFUSED.format(V4, port) for port in ports), "os._exit(5)")
    only = f"localhost:{ports[0]},{V4}/32:{ports[1]}"
    ended = run_tcptrace(command, "--only", only, "--", *script)
    assert 5 == ended.status, ended.stderr


def test_what_is_not_permitted(backend: Backend) -> None:
    """The status is 3 where something else was connected to; who it was is told."""
    ports = take_ports(2)
    script = python(*(REFUSED.format(V4, port) for port in ports), "os._exit(5)")
    options = ("--backend", backend, "--only", f":{ports[0]}")
    ended = run_tcptrace("connect", *options, "--", *script)
    assert 3 == ended.status, ended.stderr
    *_, heading, offender, of_command = ended.stderr.splitlines()
    assert ["PROGRAM", "PID", "NAME", "ADDRESS", "PORT", "RESULT", "TIMES"] == heading.split()
    assert [V4, str(ports[1]), "refused", "1"] == offender.split()[-4:]
    assert "The command itself has ended with 5" == of_command


@pytest.mark.anywhere
@pytest.mark.parametrize(("only", "status"), [("*.test", 0), ("*.example", 3)])
def test_names_are_those_that_were_asked_for(only: str, status: int) -> None:
    """-d is turned on by itself."""
    script = python(ASK, REFUSED.format(V4, take_port()))
    ended = run_tcptrace("connect", "--only", only, "--", *script)
    assert status == ended.status, ended.stderr


@pytest.mark.anywhere
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_is_permitted(command: str) -> None:
    """--fail-on-connect names any attempt, with --who by its program."""
    assert 0 == run_tcptrace(command, "--fail-on-connect", "--", "true").status
    assert 127 == run_tcptrace(command, "--fail-on-connect", "--", "/no/where").status
    script = python(REFUSED.format(V4, take_port()))
    ended = run_tcptrace(command, "--fail-on-connect", "--who", "--", *script)
    offender = ended.stderr.splitlines()[-1]
    assert (3, os.path.realpath(sys.executable)) == (ended.status, offender.split()[0])


@contextlib.contextmanager
def full() -> Iterator[int]:
    """A server whose queue is full, so that nobody is answered; its port."""
    with socket.socket() as server, socket.socket() as first:
        server.bind((V4, 0))
        server.listen(0)
        first.connect(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.anywhere
@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_under_way_at_the_end_is_an_attempt(command: str) -> None:
    """What a command leaves behind counts, though nobody knows how it will end."""
    with full() as port:
        lines = [
            "client = socket.socket()",
            "client.setblocking(False)",
            f"client.connect_ex(('{V4}', {port}))",
            "child = os.fork()",
            "if child:",
            "    os.write(1, str(child).encode())",
            "    os._exit(0)",
            "os.closerange(0, 3)",
            "time.sleep(100)",
        ]
        script = python(*lines)
        ended = run_tcptrace(command, "--only", f":{port + 1}", "--no-wait", "--", *script)
        os.kill(int(ended.stdout), signal.SIGKILL)
    assert 3 == ended.status, ended.stderr
    assert f"{port} not known" in ended.stderr


@pytest.mark.anywhere
def test_a_trace_that_ends_early_is_not_clean() -> None:
    """Nothing was seen after --count-events: the status says so, once the command has ended."""
    ports = take_ports(2)
    script = python(*(REFUSED.format(V4, port) for port in ports), "time.sleep(1)", "print('end')")
    options = ("--only", f":{ports[0]}", "--count-events", "1")
    ended = run_tcptrace("connect", *options, "--", *script)
    assert (4, "end\n") == (ended.status, ended.stdout)
    assert "enough rows were shown" in ended.stderr


@pytest.mark.anywhere
def test_without_a_command_all_are_judged() -> None:
    """Whoever connects while tcptrace runs, as far as the filters let pass."""
    port = take_port()
    with Tracer("--fail-on-connect", "-P", str(port), "--json", command="connect") as tracer:
        Worker(lambda: socket.socket().connect_ex((V4, port))).run()
        tracer.wait_for(rport=port)
        assert 3 == tracer.stop().status
    with Tracer("--fail-on-connect", "-P", str(port), command="connect") as tracer:
        assert 0 == tracer.stop().status


@pytest.mark.anywhere
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("connect", "--only", "a:b"), "is no destination"),
        (("connect", "--summary", "-c"), "--summary and -c exclude each other"),
        (("connect", "--backend", "ftrace", "--summary"), "--summary"),
        (("tracer", "--summary", "-w", "-"), "standard output"),
    ],
)
def test_what_cannot_be_honoured_is_refused(arguments: tuple[str, ...], words: str) -> None:
    """As a usage error, with the reason."""
    ended = run_in_fork(*arguments)
    assert (2, True) == (ended.status, words in ended.stderr), ended.stderr
