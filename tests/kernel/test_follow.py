"""Following a command, or a running process, with all that it starts."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
from tests.kernel.harness import Worker, eventually, take_port, take_ports
from tests.kernel.tracers import TCPTRACE, Ended, Tracer, run_in_fork, run_tcptrace
from tests.kernel.traffic import V4

from tcptrace.probes.probe import Backend

NOBODY = 65534


@pytest.fixture(autouse=True)
def _without_ftrace(request: pytest.FixtureRequest) -> None:
    """Skip what the backend ftrace does not offer."""
    if "backend" in request.fixturenames and request.getfixturevalue("backend") == "ftrace":
        pytest.skip("not offered: following with ftrace")


def connects(port: int) -> str:
    """Return the shell's words for a process that connects to a port."""
    script = f"import socket; socket.socket().connect_ex(('{V4}', {port}))"
    return f'{sys.executable} -Ic "{script}"'


def knock(port: int) -> NoReturn:
    """Connect again and again, in a forked process, as long as there is its parent."""
    parent = os.getppid()
    while os.getppid() == parent:
        with socket.socket() as client:
            client.connect_ex((V4, port))
        time.sleep(0.01)
    os._exit(0)


def traced(tmp_path: Path, script: str, *options: str, command: str = "connect") -> Ended:
    """Run a shell script under tcptrace; its rows are JSON in the file `rows`."""
    rows = ("--json", "--to", str(tmp_path / "rows"))
    return run_tcptrace(command, *rows, *options, "--", "sh", "-c", script)


def ports_in(file: Path) -> list[int]:
    """Return the destination ports of the rows in a file."""
    return [json.loads(line)["rport"] for line in file.read_text().splitlines()]


def test_a_command_and_what_it_starts(backend: Backend, tmp_path: Path) -> None:
    """The first thing it does is seen, so is what its children do, and nobody else's doings."""
    first, second, other = take_ports(3)
    outsider = os.fork()
    if outsider == 0:
        knock(other)
    script = f"{connects(first)}; ({connects(second)}); echo out; exit 3"
    ended = traced(tmp_path, script, "--backend", backend)
    os.kill(outsider, signal.SIGKILL)
    os.waitpid(outsider, 0)
    assert (3, "out\n") == (ended.status, ended.stdout)
    assert [first, second] == ports_in(tmp_path / "rows")
    assert (2, 0) == ended.summary


def test_what_a_command_leaves_running_is_traced(backend: Backend, tmp_path: Path) -> None:
    """A daemon that has forked away is waited for; the status is the command's."""
    port = take_port()
    script = f"(sleep 0.5; {connects(port)}) >/dev/null 2>&1 & exit 0"
    ended = traced(tmp_path, f"setsid sh -c {shlex.quote(script)}", "--backend", backend)
    assert 0 == ended.status
    assert [port] == ports_in(tmp_path / "rows")


@pytest.mark.anywhere
def test_no_wait_ends_with_the_command(tmp_path: Path) -> None:
    """--no-wait does not wait for what the command has left running."""
    began = time.monotonic()
    ended = traced(tmp_path, "sleep 100 >/dev/null 2>&1 & echo $!", "--no-wait")
    os.kill(int(ended.stdout), signal.SIGKILL)
    assert 0 == ended.status
    assert time.monotonic() - began < 60


@pytest.mark.anywhere
def test_many_short_processes_leave_nothing_behind(tmp_path: Path) -> None:
    """When all have ended, so does the trace: nobody is left among those who are followed."""
    port = take_port()
    script = f"for i in $(seq 300); do /bin/true; done; {connects(port)}"
    ended = traced(tmp_path, script)
    assert (0, [port]) == (ended.status, ports_in(tmp_path / "rows"))


@pytest.mark.anywhere
@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
def test_the_exit_status_is_the_command_s(tmp_path: Path, script: str, status: int) -> None:
    """Of one that was killed 128 and the signal's number."""
    assert status == traced(tmp_path, script).status


@pytest.mark.anywhere
def test_a_command_that_cannot_be_run(tmp_path: Path) -> None:
    """127 where there is none, 126 where it is none."""
    ended = run_tcptrace("connect", "--", str(tmp_path / "nowhere"))
    assert (127, True) == (ended.status, "cannot run" in ended.stderr)
    (tmp_path / "text").write_text("no program")
    assert 126 == run_tcptrace("connect", "--", str(tmp_path / "text")).status
    assert 127 == run_tcptrace("connect", "--", "").status


@pytest.mark.anywhere
def test_rows_go_to_standard_error() -> None:
    """Standard output is the command's alone, unless --to - says otherwise."""
    port = take_port()
    script = f"echo out; {connects(port)}"
    ended = run_tcptrace("connect", "--columns", "rport", "--", "sh", "-c", script)
    assert "out\n" == ended.stdout
    assert f"\n{port}\n" in ended.stderr
    ended = run_tcptrace("connect", "--columns", "rport", "--to", "-", "--", "sh", "-c", script)
    assert {"out", str(port)} <= set(ended.stdout.split())


@pytest.mark.anywhere
def test_a_command_runs_as_the_user_behind_sudo(tmp_path: Path) -> None:
    """With the user's groups and home; --as names another; nothing attached passes to it."""
    nobody = pwd.getpwuid(NOBODY)
    script = "id -u; id -g; echo $HOME $SUDO_UID; ls -l /proc/self/fd"
    behind = {**os.environ, "SUDO_UID": str(NOBODY), "SUDO_GID": str(nobody.pw_gid)}
    options: list[tuple[str, ...]] = [(), ("--as", "root")]
    traced, two = (
        run_tcptrace("connect", *option, "--", "sh", "-c", script, env=behind, cwd="/")
        for option in options
    )
    assert [str(NOBODY), str(nobody.pw_gid), nobody.pw_dir] == traced.stdout.splitlines()[:3]
    assert ["0", "0"] == two.stdout.splitlines()[:2]
    assert "anon_inode" not in traced.stdout + two.stdout


def test_a_running_process_is_followed(backend: Backend) -> None:
    """-f follows what a process has started before as well as what it starts from now on."""
    before, after, other = take_ports(3)
    shell = subprocess.Popen(["sh", "-c", _nested(before, after)], stdin=subprocess.PIPE, text=True)
    try:
        eventually(lambda: len(children_of(shell.pid)) == 1, "the child")
        arguments = ("-f", "-p", str(shell.pid), "--json", "--backend", backend)
        with Tracer(*arguments, command="connect") as tracer:
            Worker(lambda: socket.socket().connect_ex((V4, other))).run()
            assert shell.stdin
            shell.stdin.write("go\n")
            shell.stdin.close()
            ended = tracer.ended()
        assert 0 == ended.status
        assert [before, after] == [event["rport"] for event in tracer.events]
    finally:
        shell.kill()
        shell.wait()


def _nested(before: int, after: int) -> str:
    """Return a script whose child waits for a line before it connects."""
    script = f"input(); import socket; socket.socket().connect_ex(('{V4}', {before}))"
    return f'{sys.executable} -Ic "{script}"; {connects(after)}'


def children_of(pid: int) -> list[str]:
    """Return the children of a process."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


@pytest.mark.anywhere
def test_signals_go_to_the_command(tmp_path: Path) -> None:
    """SIGTERM is passed on, and tracing ends when the command does."""
    script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
    command = [*TCPTRACE, "connect", "--to", str(tmp_path / "rows"), "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert "ready\n" == process.stdout.readline()
        process.send_signal(signal.SIGINT)  # a terminal sends it to the command itself
        process.terminate()
        assert "got\n" == process.stdout.readline()
        assert 5 == process.wait(60)


@pytest.mark.anywhere
def test_signals_go_to_the_command_when_tracing_is_over(tmp_path: Path) -> None:
    """As long as it runs, though the time is over."""
    script = "trap 'echo got; exit 5' TERM; echo ready; while kill -0 $PPID; do sleep 0.05; done"
    options = ("--to", str(tmp_path / "rows"), "--duration", "0.1s", "--", "sh", "-c", script)
    with Tracer(*options, command="connect") as tracer:
        tracer.wait_until(lambda: "ready" in tracer.stdout, "that the command runs")
        tracer.wait_until(lambda: " 0 lost" in tracer.stderr, "the summary")
        ended = tracer.stop(signal.SIGTERM)
    assert (5, "ready\ngot\n") == (ended.status, ended.stdout)


@pytest.mark.anywhere
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("connect", "--"), "A command is to stand"),
        (("connect", "--as", "root"), "--as needs a command"),
        (("connect", "--no-wait"), "--no-wait needs a command"),
        (("connect", "-f"), "-f needs -p"),
        (("connect", "-f", "-p", "1-9"), "no ranges"),
        (("connect", "-f", "-p", "4194304"), "There is no process"),
        (("connect", "-f", "-p", "1", "--", "true"), "-f is for running"),
        (("tracer", "--existing", "--", "true"), "--existing"),
        (("connect", "--backend", "ftrace", "--", "true"), "-- COMMAND"),
        (("connect", "--backend", "ftrace", "-f", "-p", "1"), "-f"),
    ],
)
def test_what_cannot_be_followed_is_refused(arguments: tuple[str, ...], word: str) -> None:
    """The message says why, and nothing is run."""
    ended = run_in_fork(*arguments)
    assert 2 == ended.status
    assert word in ended.stderr


@pytest.mark.anywhere
def test_rows_in_a_file(tmp_path: Path) -> None:
    """--to writes rows to a file, and /dev/fd/N is one; standard output stays empty."""
    port = take_port()
    file = tmp_path / "rows"
    with Tracer("--to", str(file), "--json", "-P", str(port), command="connect") as tracer:
        Worker(lambda: socket.socket().connect_ex((V4, port))).run()
        eventually(lambda: file.read_text().endswith("\n"), "the row")
        assert "" == tracer.stop().stdout
    assert [port] == ports_in(file)
    with file.open("a") as added:
        place = f"/dev/fd/{added.fileno()}"
        options = ("--to", place, "--json", "-P", str(port), "--count-events", "1")
        run_tcptrace(
            "connect", *options, "--", "sh", "-c", connects(port), pass_fds=(added.fileno(),)
        )
    assert [port, port] == ports_in(file)
    closed = run_in_fork("connect", "--to", "/dev/fd/999999999")
    assert (1, True) == (closed.status, "Bad file descriptor" in closed.stderr)
    missing = run_in_fork("connect", "--to", str(tmp_path / "no" / "file"))
    assert 1 == missing.status
    assert "cannot write to" in missing.stderr
