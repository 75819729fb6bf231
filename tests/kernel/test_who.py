"""`--who`: the programs, arguments and parents of real processes."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.harness import Worker, eventually, take_port, take_ports
from tests.kernel.tracers import BANNER, Tracer, run_in_fork
from tests.kernel.traffic import V4, Actor, accept_once, listen

from tcptrace.probes.probe import Backend

BUSYBOX = os.path.realpath(shutil.which("busybox") or "/bin/busybox")
HOSTILE = [b"a b", b"it's", b'"', b"new\nline", b"\x1b[31m", b"\xff\xfe", b"", b"\xc3\xa9"]


@pytest.fixture(autouse=True)
def _without_ftrace(request: pytest.FixtureRequest) -> None:
    """Skip what the backend ftrace does not offer."""
    if "backend" in request.fixturenames and request.getfixturevalue("backend") == "ftrace":
        pytest.skip("not offered: --who with ftrace")


def of_this_process() -> dict[str, object]:
    """Return what is to be known of this process: what /proc says of it."""
    arguments = Path("/proc/self/cmdline").read_bytes()
    result = {
        "ppid": os.getppid(),
        "parent_comm": Path(f"/proc/{os.getppid()}/comm").read_text().rstrip("\n"),
        "exe": str(Path("/proc/self/exe").readlink()),
        "args": [
            os.fsdecode(argument) for argument in arguments[:512].removesuffix(b"\0").split(b"\0")
        ],
    }
    if len(arguments) > 512:
        result["args_cut"] = True
    return result


def known(event: dict[str, object]) -> dict[str, object]:
    """Return what an event has of its process."""
    keys = ("ppid", "parent_comm", "exe", "args", "args_cut")
    return {key: event[key] for key in keys if key in event}


def attempt(port: int) -> None:
    """Connect, or be refused."""
    with socket.socket() as client:
        client.connect_ex((V4, port))


def nc(port: int, name: bytes = b"nc", *arguments: bytes) -> list[bytes]:
    """Return the arguments of a program that connects to `port` and ends."""
    return [name, *arguments, V4.encode(), str(port).encode()]


def run_nc(arguments: list[bytes]) -> None:
    """Run busybox with these arguments."""
    subprocess.run(
        arguments, executable=BUSYBOX, stdin=subprocess.DEVNULL, check=False, capture_output=True
    )


def dns_once() -> dict[str, object]:
    """Send something to a name server's port, in a forked process."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.sendto(b"\0\7\1\0\0\1\0\0\0\0\0\0\1x\0\0\1\0\1", (V4, 53))
    return of_this_process()


def accept_and_tell() -> dict[str, object]:
    """Accept a connection of its own, in a forked process."""
    accept_once()
    return of_this_process()


@pytest.mark.parametrize("command", ["accept", "connect", "tracer", "dns"])
def test_every_command(command: str, backend: Backend) -> None:
    """Events have the parent, program and arguments that /proc has of their process."""
    options = ("--timeout", "0.1s") if command == "dns" else ()
    arguments = ("--who", "--json", "--backend", backend, *options)
    with Tracer(*arguments, command=command) as tracer:
        worker = Worker(dns_once if command == "dns" else accept_and_tell)
        expected = worker.run()
        events = tracer.wait_for(2 if command == "tracer" else 1, pid=worker.pid)
    assert [expected] * len(events) == [known(event) for event in events]


def test_processes_that_do_not_live_long(backend: Backend) -> None:
    """Each of many processes of a few milliseconds has its own arguments."""
    port, count = take_port(), 200
    commands = [nc(port, f"/{number}/nc".encode()) for number in range(count)]

    def storm() -> list[int]:
        for command in commands:
            run_nc(command)
        return [os.getpid()]

    arguments = ("--who", "--json", "-P", str(port), "--backend", backend)
    with Tracer(*arguments, command="connect") as tracer:
        (parent,) = Worker(storm).run()
        events = tracer.wait_for(count, rport=port)
    assert [{parent}, {BUSYBOX}] == [{event[key] for event in events} for key in ("ppid", "exe")]
    assert [[os.fsdecode(word) for word in command] for command in commands] == (
        [event["args"] for event in events]
    )


def test_execve_makes_another_program_of_a_process(backend: Backend) -> None:
    """Before and after execve, one process has two programs, each event its own."""
    port = take_port()

    def become_nc() -> None:
        attempt(port)
        os.execv(BUSYBOX, nc(port))  # noqa: S606 - no shell is wanted

    arguments = ("--who", "--json", "-P", str(port), "--backend", backend)
    with Tracer(*arguments, command="connect") as tracer:
        pid = os.fork()
        if pid == 0:
            try:
                become_nc()
            finally:
                os._exit(1)
        os.waitpid(pid, 0)
        before, after = tracer.wait_for(2, rport=port)
    python = str(Path(sys.executable).resolve())
    assert [(pid, python), (pid, BUSYBOX)] == [
        (event["pid"], event["exe"]) for event in (before, after)
    ]
    assert ["nc", V4, str(port)] == after["args"]


@pytest.fixture
def hostile_port() -> int:
    """Return a port that a process with hostile arguments connects to."""
    return take_port()


def run_python(port: int) -> None:
    """Connect from a process with hostile arguments."""
    script = f"import socket; socket.create_connection(('{V4}', {port}))"
    subprocess.run([sys.executable, "-Ic", script, *HOSTILE], check=True)


@pytest.mark.anywhere
def test_hostile_arguments(hostile_port: int) -> None:
    """An argument can hold anything: a row stays a line, and a shell reads ARGS back."""
    port = str(hostile_port)
    with (
        Tracer("--columns", "pid,args", "-P", port, command="connect") as text,
        Tracer("--who", "--json", "-P", port, command="connect") as tracer,
        listen(V4, hostile_port),
    ):
        run_python(hostile_port)
        (event,) = tracer.wait_for(1, rport=hostile_port)
        text.wait_until(lambda: text.stdout.count("\n") >= 2, "the row")
        _, row = text.stdout.splitlines()
    assert ["a b", "it's", '"', "new\nline", "\x1b[31m", r"\xff\xfe", "", "é"] == event["args"][3:]
    assert row.isprintable()
    shown = shlex.split(row.partition(" ")[2])
    assert ["a b", "it's", '"', r"new\nline", r"\x1b[31m", r"\xff\xfe", "", "é"] == shown[3:]


@pytest.mark.anywhere
def test_long_arguments_are_cut() -> None:
    """512 bytes are shown, and that there was more."""
    port = take_port()
    command = [sys.executable, "-Ic", f"import socket; socket.create_connection(('{V4}', {port}))"]
    long = ["x" * 400, "y" * 400]
    with (
        Tracer("--who", "--json", "-P", str(port), command="connect") as tracer,
        listen(V4, port),
    ):
        subprocess.run([*command, *long], check=True)
        (event,) = tracer.wait_for(1, rport=port)
    whole = "\0".join([*command, *long])
    assert (True, whole[:512]) == (event["args_cut"], "\0".join(event["args"]))


def is_listening(port: int) -> bool:
    """Tell whether a server has this port, over IPv4 or IPv6."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return any(f":{port:04X} " in table.read_text() for table in tables if table.exists())


CONNECTS = "import socket; socket.socket().connect_ex(('127.0.0.1', {}))"


def test_a_title_has_no_empty_arguments_behind_it(backend: Backend) -> None:
    """What setproctitle leaves of the arguments is zeros, and those were none."""

    def entitled() -> None:
        start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
        with Path("/proc/self/mem").open("r+b") as memory:
            memory.seek(start)
            memory.write(b"worker: busy".ljust(end - start, b"\0"))
        attempt(port)

    port = take_port()
    options = ("--who", "--json", "--backend", backend, "-P", str(port))
    with Tracer(*options, command="connect") as tracer:
        worker = Worker(entitled)
        worker.run()
        with subprocess.Popen([sys.executable, "-Ic", CONNECTS.format(port), "", ""]) as other:
            titled, given = (tracer.wait_for(pid=pid)[0] for pid in (worker.pid, other.pid))
    assert ["worker: busy"] == titled["args"]
    assert ["", ""] == given["args"][3:]


@pytest.fixture
def unlinked(tmp_path: Path) -> Iterator[tuple[int, Path, int]]:
    """Run a server whose program's file is gone; its process id, that path and its port."""
    program, port = tmp_path / "served", take_port()
    shutil.copy(BUSYBOX, program)
    command = ["nc", "-l", "-p", str(port)]
    with subprocess.Popen(command, executable=program, stdin=subprocess.DEVNULL) as server:
        eventually(lambda: is_listening(port), "the server")
        program.unlink()
        try:
            yield server.pid, program, port
        finally:
            server.kill()


@pytest.mark.anywhere
def test_a_deleted_program_says_so(unlinked: tuple[int, Path, int]) -> None:
    """The path of a program whose file is gone ends as in /proc/PID/exe."""
    pid, program, port = unlinked
    with Tracer("--who", "--json", "-P", str(port)) as tracer:
        socket.create_connection((V4, port)).close()
        (event,) = tracer.wait_for(1, pid=pid)
    assert f"{program} (deleted)" == event["exe"]


@pytest.mark.anywhere
def test_a_mounted_program_has_its_whole_path(tmp_path: Path) -> None:
    """A path goes on where a file system is mounted, and across a bind mount."""
    port = take_port()
    script = (
        'mount -t tmpfs none "$1" && mkdir "$1/a" "$1/b" && cp "$2" "$1/a/nc" &&'
        ' mount --bind "$1/a" "$1/b" && cd / && "$1/b/nc" "$3" "$4" </dev/null'
    )
    command = ["unshare", "--mount", "sh", "-c", script, "sh"]
    with Tracer("--who", "--json", "-P", str(port), command="connect") as tracer:
        subprocess.run([*command, str(tmp_path), BUSYBOX, V4, str(port)], check=False)
        (event,) = tracer.wait_for(1, rport=port)
    assert f"{tmp_path}/b/nc" == event["exe"]


def test_a_service_that_is_gone_at_once(cgroup: Path, backend: Backend) -> None:
    """The kernel tells of new cgroups: what is removed before its events are read is known."""
    port, place = take_port(), cgroup / "blink.service"
    with Tracer("--who", "--json", "--backend", backend, "-P", str(port)) as tracer:
        os.kill(tracer.process.pid, signal.SIGSTOP)
        place.mkdir()
        Worker(Actor(port=port, cgroup=place).accept).run()
        place.rmdir()
        os.kill(tracer.process.pid, signal.SIGCONT)
        (event,) = tracer.wait_for(1)
    assert [f"/{cgroup.name}/{place.name}", place.name] == [event["cgroup"], event["unit"]]


@pytest.mark.anywhere
def test_nothing_is_read_that_was_not_asked_for() -> None:
    """Without --who, neither events nor the compiled C have anything of programs."""
    port = take_port()
    with Tracer("--json", "-P", str(port), command="connect") as tracer:
        attempt(port)
        (event,) = tracer.wait_for(1, rport=port)
    assert {} == known(event)
    assert "-DWHO=" not in run_in_fork("connect", "--dump-c").stdout
    assert "-DWHO=" in run_in_fork("connect", "--dump-c", "--columns", "+args").stdout


@pytest.mark.anywhere
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--who",), "--who"),
        (("--columns", "+exe"), "--columns exe"),
        (("-c", "--who"), "--who adds a column"),
    ],
)
def test_what_cannot_be_honoured_is_refused(options: tuple[str, ...], word: str) -> None:
    """The backend ftrace does not reach programs, and counts are of no process."""
    ended = run_in_fork("connect", "--backend", "ftrace", *options)
    assert 2 == ended.status
    assert word in ended.stderr
    assert BANNER not in ended.stderr


@pytest.mark.anywhere
def test_kernel_headers_are_not_enough() -> None:
    """Without BTF nothing describes mounts."""
    ended = run_in_fork("connect", "--who", "--headers", "system")
    assert 2 == ended.status
    assert "--who needs the kernel's BTF" in ended.stderr


@pytest.mark.anywhere
def test_a_fork_has_its_parent_s_arguments() -> None:
    """Processes that are forked from one another have one program and two parents."""
    ports = take_ports(2)

    def parent() -> list[int]:
        attempt(ports[0])
        worker = Worker(lambda: attempt(ports[1]))
        worker.run()
        return [os.getpid(), worker.pid]

    with Tracer("--who", "--json", command="connect") as tracer:
        pids = Worker(parent).run()
        first, second = (tracer.wait_for(1, rport=port)[0] for port in ports)
    assert (os.getpid(), pids[0]) == (first["ppid"], second["ppid"])
    assert first["args"] == second["args"]
