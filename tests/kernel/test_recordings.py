"""What `-w` keeps of real traffic is what is printed of it, for every command."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kernel.harness import Worker, eventually, take_port
from tests.kernel.resolvers import FAKE, answer, connected, fake, question
from tests.kernel.tracers import Tracer, run_tcptrace
from tests.kernel.traffic import accept_once
from tests.unit.test_recordings import META, any_row, seeded

from tcptrace.model.limits import Limits
from tcptrace.model.losses import NOTHING_LOST
from tcptrace.probes.accept.probe import ACCEPT, Accept
from tcptrace.sinks import groups
from tcptrace.sinks.directory import DirectoryRecording

pytestmark = pytest.mark.anywhere


class Traced(NamedTuple):
    """A command, what it is given, and traffic that it tells of."""

    command: str
    options: Sequence[str]
    make: Callable[[int], object]
    rows: int


def connect_once(port: int) -> None:
    """Connect to a server of one's own, and once where nobody listens."""
    with socket.create_server(("127.0.0.1", port)) as server:
        socket.create_connection(server.getsockname()).close()
        server.accept()[0].close()
    with socket.socket() as client:
        client.connect_ex(("127.0.0.1", port))


COMMANDS = (
    Traced("accept", ["--backlog"], lambda port: accept_once(port=port), 1),
    Traced("connect", [], connect_once, 2),
    Traced("connect", ["--outcome", "--errors"], connect_once, 2),
    Traced("connect", ["-d"], connect_once, 2),
    Traced("tracer", ["--stats", "-v"], connect_once, 4),
)


@pytest.mark.parametrize("form", [".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "traced", COMMANDS, ids=lambda traced: " ".join([traced.command, *traced.options])
)
def test_what_is_kept_is_what_is_printed(tmp_path: Path, traced: Traced, form: str) -> None:
    """JSON and text of a recording are those of the run that kept it."""
    port = take_port()
    options = ["-P", str(port), *traced.options]
    for output in (["--json"], ["-T", "-t"]):
        path = tmp_path / f"{len(output)}{form}"
        keeping = [*options, *output, "-w", str(path), "--print"]
        with Tracer(*keeping, command=traced.command) as tracer:
            traced.make(port)
            tracer.wait_for_rows(traced.rows + (output != ["--json"]))
            live = tracer.stop()
        again = run_tcptrace(traced.command, *traced.options, *output, "-r", str(path))
        assert (0, live.stdout) == (again.status, again.stdout)
        assert live.summary == again.summary


def ask() -> None:
    """Ask the fake server."""
    with connected(FAKE) as client:
        client.send(question("a.test"))
        client.recv(512)


def connect_by_name(port: int) -> None:
    """Connect as `connect_once` does, to what the fake server says."""

    def ask_and_connect() -> None:
        with connected(FAKE) as client:
            client.send(question("a.test"))
            client.recv(512)
        connect_once(port)

    with fake(answer("a.test", "a.test. IN A 127.0.0.1")):
        Worker(ask_and_connect).run()


@pytest.mark.parametrize("form", [".jsonl", ".parquet"])
def test_failed_attempts_and_names_are_kept(tmp_path: Path, form: str) -> None:
    """They are read as they were printed, and left out where they are not asked for."""
    port, path = take_port(), tmp_path / f"x{form}"
    options = ("--failed", "-d", "--json")
    with Tracer(*options, "-P", str(port), "-w", str(path), "--print", command="tracer") as tracer:
        connect_by_name(port)
        tracer.wait_for(outcome="refused")
        tracer.wait_for(2, type="close")
        live = tracer.stop()
    again = run_tcptrace("tracer", *options, "-r", str(path))
    assert (0, live.stdout) == (again.status, again.stdout)
    begun = [(event["outcome"], event["query"]) for event in tracer.where(type="connect")]
    assert [("established", "a.test"), ("refused", "a.test")] == begun
    text = run_tcptrace("tracer", "--failed", "-r", str(path), "--columns", "type")
    assert ["C", "F"] == [letter for letter in text.stdout.split() if letter in {"C", "F"}]
    others = run_tcptrace("tracer", "-d", "--json", "-r", str(path))
    assert others.stdout.splitlines() == [
        line for line in live.stdout.splitlines() if "refused" not in line
    ]


@pytest.mark.parametrize("form", [".jsonl", ".parquet"])
@pytest.mark.parametrize("output", [["--json"], ["-T", "-t"]], ids=["json", "text"])
def test_dns_is_kept(tmp_path: Path, form: str, output: list[str]) -> None:
    """Questions with their answers are rows of a recording, not the messages."""
    path = tmp_path / f"x{form}"
    options = (*output, "-N", "/proc/self/ns/net", "-w", str(path), "--print")
    with (
        Tracer(*options, command="dns") as tracer,
        fake(answer("a.test", "a.test. IN A 192.0.2.7")),
    ):
        Worker(ask).run()
        tracer.wait_for_rows(len(output))  # text has a heading
        live = tracer.stop()
    assert "a.test" in live.stdout
    again = run_tcptrace("dns", *output, "-r", str(path))
    assert (0, live.stdout) == (again.status, again.stdout)
    assert live.summary == again.summary


def test_nothing_but_the_summary_is_printed(tmp_path: Path) -> None:
    """-w alone keeps; a writer that is killed leaves what is whole."""
    port, path = take_port(), tmp_path / "x.jsonl"
    with Tracer("-P", str(port), "-w", str(path)) as tracer:
        accept_once(port=port)
        eventually(lambda: path.read_bytes().count(b"\n") >= 2, "a row")
        tracer.process.kill()
        ended = tracer.ended()
    assert "" == ended.stdout
    again = run_tcptrace("accept", "--json", "-r", str(path))
    assert 1 == len(again.stdout.splitlines())
    assert "was not ended by its writer" in again.stderr


def has_group(place: Path) -> bool:
    """Tell whether a file that grows below a directory is whole up to a first group."""
    data = b"".join(path.read_bytes() for path in place.rglob(".*.part"))
    return len(data) > 4 and data.endswith(b"PAR1")


def test_a_recorder_that_is_killed_is_followed_by_another(tmp_path: Path) -> None:
    """What it has written down is kept, once, with what the next one sees."""
    port, place = take_port(), f"{tmp_path}/rec/"
    options = ("-P", str(port), "-w", place, "--print", "--json")
    with Tracer(*options) as tracer:
        accept_once(port=port)
        tracer.wait_for(1)
        eventually(lambda: has_group(Path(place)), "a group")
        tracer.process.kill()
        first = tracer.ended()
    with Tracer(*options) as tracer:
        accept_once(port=port)
        tracer.wait_for(1)
        second = tracer.stop()
    assert 2 == len(list(Path(place).rglob("[!.]*.parquet")))
    assert not list(Path(place).rglob(".*"))
    again = run_tcptrace("accept", "--json", "-r", place)
    assert first.stdout + second.stdout == again.stdout
    assert "1 of 2 files were cut off" in again.stderr


def test_a_disk_that_was_full_is_written_to_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that has no room, rows wait, and are written when there is some."""
    monkeypatch.setattr(groups, "GROUP_S", 0)
    said: list[str] = []
    rows = [any_row(Accept, seeded(number)) for number in range(200)]
    subprocess.run(("mount", "-t", "tmpfs", "-o", "size=256k", "none", tmp_path), check=True)
    try:
        sink = DirectoryRecording(
            f"{tmp_path}/rec", "accept", ACCEPT.row_classes, Limits(), said.append
        )
        sink.open(META)
        with contextlib.suppress(OSError), (tmp_path / "other").open("wb", 0) as other:
            while True:
                other.write(bytes(4096))
        for at in range(0, 100, 10):
            sink.write(rows[at : at + 10])
            sink.flush()
        assert ["No space left" in line for line in said] == [True]
        (tmp_path / "other").unlink()
        sink.write(rows[100:])
        sink.flush()
        sink.close(NOTHING_LOST)
        assert (2, 0) == (len(said), sink.unwritten)
        again = run_tcptrace("accept", "--json", "--failed", "-r", f"{tmp_path}/rec")
        assert 200 == len(again.stdout.splitlines())
    finally:
        subprocess.run(("umount", "-l", tmp_path), check=True)
