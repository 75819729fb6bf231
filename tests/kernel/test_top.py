"""`tcptrace top` on real traffic: its figures equal what was made."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from tests.kernel.backends import not_offered
from tests.kernel.harness import Event, eventually, limit, take_port, take_ports
from tests.kernel.resolvers import FAKE, PORT, answer, bound, fake, question
from tests.kernel.tracers import TCPTRACE, Tracer
from tests.kernel.traffic import BACKLOG, V4, V6, connect, in_namespace, ip, listen, set_comm

from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("top")

INTERVAL = "0.3"
MANY = 20
ASKED, ANSWERED = 700, 4_000
BULK = 3_000_000
CHUNK = 1 << 16
SUMS = ("attempts", "accepts", "tx_bytes", "rx_bytes", "retransmits")


def less(backend: Backend) -> list[str]:
    """Return what does without what a backend has not."""
    return ["--no-names", "--no-failures", "--no-existing"] if backend == "ftrace" else []


def options(backend: Backend, netns: str) -> list[str]:
    """Return what each run here has."""
    return ["--interval", INTERVAL, "--backend", backend, "-N", netns, *less(backend)]


def started(backend: Backend, netns: str, *arguments: str) -> Tracer:
    """Return a tracer that writes JSON."""
    return Tracer("--json", *options(backend, netns), *arguments, command="top")


def named(name: bytes, work: Callable[[], None]) -> None:
    """Do work in a thread of this name, and wait for its end."""
    failures: list[BaseException] = []

    def there() -> None:
        set_comm(name)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test has to see it
            failures.append(error)

    thread = threading.Thread(target=there, daemon=True)
    thread.start()
    thread.join(limit(60))
    assert not thread.is_alive()
    assert [] == failures


def receive(sock: socket.socket, size: int) -> None:
    """Receive exactly `size` bytes."""
    while size:
        got = len(sock.recv(min(size, CHUNK)))
        assert got, "the peer has closed"
        size -= got


def rows_of(tracer: Tracer, **key: object) -> list[Event]:
    """Return the rows under a key, one for each interval in which it was shown."""
    return tracer.where(type="top", scope="key", **key)


def run_of(tracer: Tracer, **key: object) -> dict[str, Any]:
    """Return what the whole run came to under a key, so far."""
    rows = rows_of(tracer, **key)
    return rows[-1]["run"] if rows else {}


def wait_for_run(tracer: Tracer, expected: dict[str, int], **key: object) -> None:
    """Wait until the run has come to these figures under a key."""

    def has_come() -> bool:
        run = run_of(tracer, **key)
        return expected.items() <= run.items()

    tracer.wait_until(has_come, f"{expected} under {key}; the last is {run_of(tracer, **key)}")


def check_sums(tracer: Tracer, names: Sequence[str] = ("comm", "port")) -> None:
    """Check that the intervals of each key add up to its run, and all keys to the total."""
    keys = {tuple(row.get(name) for name in names) for row in tracer.where(scope="key")}
    for figure in SUMS:
        runs = 0
        for key in keys:
            rows = rows_of(tracer, **dict(zip(names, key, strict=True)))
            assert sum(row[figure] for row in rows) == rows[-1]["run"][figure], (key, figure)
            runs += rows[-1]["run"][figure]
        assert runs == tracer.where(scope="total")[-1]["run"][figure], figure


def stop(tracer: Tracer) -> str:
    """Stop a tracer that has lost nothing; return what it said."""
    ended = tracer.stop()
    assert (0, 0) == (ended.status, ended.summary[1]), ended.stderr
    return ended.stderr


def exchange(server: socket.socket, count: int = 1) -> None:
    """Connect, ask, be answered, and close; so many times."""
    for _ in range(count):
        with connect(server) as client:
            client.sendall(b"q" * ASKED)
            receive(client, ANSWERED)


def serve(server: socket.socket, count: int) -> None:
    """Accept connections, one after the other, and answer each."""
    for _ in range(count):
        far = server.accept()[0]
        with far:
            far.settimeout(limit(10))
            receive(far, ASKED)
            far.sendall(b"a" * ANSWERED)
            far.recv(1)


@contextlib.contextmanager
def served(server: socket.socket, count: int) -> Iterator[None]:
    """Serve so many connections in a thread, from the beginning of the block to its end."""
    thread = threading.Thread(
        target=named, args=(b"top-server", lambda: serve(server, count)), daemon=True
    )
    thread.start()
    yield
    thread.join(limit(60))
    assert not thread.is_alive()


def test_what_is_counted_is_what_was_made(backend: Backend, netns: str) -> None:
    """Attempts, accepts and bytes of short connections, from both ends."""
    with listen() as server, started(backend, netns, "--by", "program,port") as tracer:
        port = server.getsockname()[1]
        with served(server, MANY):
            named(b"top-client", lambda: exchange(server, MANY))
        asked, answered = MANY * ASKED, MANY * ANSWERED
        client = {"attempts": MANY, "accepts": 0, "tx_bytes": asked, "rx_bytes": answered}
        taken = {"attempts": 0, "accepts": MANY, "tx_bytes": answered, "rx_bytes": asked}
        wait_for_run(tracer, client, comm="top-client", port=port)
        wait_for_run(tracer, taken, comm="top-server", port=port)
        said = stop(tracer)
        assert f"{2 * MANY} connections in" in said
        assert 0 == rows_of(tracer, comm="top-client", port=port)[-1]["open"]
        assert run_of(tracer, comm="top-client", port=port)["latency_p50_ms"] > 0
        check_sums(tracer)


def test_bytes_of_open_connections(backend: Backend, netns: str) -> None:
    """What an open connection transfers is counted as it goes on, and once."""
    with listen() as server, started(backend, netns, "--by", "program,port") as tracer:
        port = server.getsockname()[1]
        key = {"comm": "top-bulk", "port": port}

        def bulk() -> None:
            with connect(server) as near, server.accept()[0] as far:
                far.settimeout(limit(20))
                for round_ in (1, 2):
                    sender = threading.Thread(target=near.sendall, args=(b"x" * BULK,), daemon=True)
                    sender.start()
                    receive(far, BULK)
                    sender.join(limit(10))
                    # Both ends are of one program here: it sends and receives the same.
                    both = {"tx_bytes": round_ * BULK, "rx_bytes": round_ * BULK}
                    wait_for_run(tracer, both, **key)
                assert 2 == rows_of(tracer, **key)[-1]["open"]
                assert rows_of(tracer, **key)[-1]["rtt_ms"] > 0
                far.sendall(b"y" * 10)
                receive(near, 10)

        named(b"top-bulk", bulk)
        wait_for_run(tracer, {"tx_bytes": 2 * BULK + 10, "rx_bytes": 2 * BULK + 10}, **key)
        stop(tracer)
        check_sums(tracer)
        assert 0 == rows_of(tracer, **key)[-1]["open"]


def test_connections_that_were_there_before(backend: Backend, netns: str) -> None:
    """They are in it from the start, with their process; bytes count from then on."""
    if backend == "ftrace":
        not_offered("ftrace does not tell of open connections")
    with listen() as server, connect(server) as near, server.accept()[0] as far:
        port = server.getsockname()[1]
        near.sendall(b"x" * CHUNK)
        receive(far, CHUNK)
        with started(backend, netns, "--by", "process,port") as tracer:
            key = {"pid": os.getpid(), "port": port}
            tracer.wait_until(
                lambda: any(row["open"] == 2 for row in rows_of(tracer, **key)), "both ends"
            )
            near.sendall(b"x" * 1234)
            receive(far, 1234)
            wait_for_run(tracer, {"tx_bytes": 1234, "rx_bytes": 1234, "attempts": 0}, **key)
            near.close()
            assert b"" == far.recv(1)
            far.close()
            tracer.wait_until(lambda: rows_of(tracer, **key)[-1]["open"] == 0, "the end")
            stop(tracer)
            assert 1234 == run_of(tracer, **key)["tx_bytes"]


def no_way() -> None:
    """Connect to where no route leads."""
    with socket.socket() as client, pytest.raises(OSError, match="unreachable"):
        client.connect(("192.0.2.1", 80))


def test_failures(backend: Backend, netns: str) -> None:
    """Attempts that fail are counted by why, and established ones once."""
    if backend == "ftrace":
        not_offered("ftrace does not tell how attempts end")
    port = take_port()
    with listen() as server, started(backend, netns, "--by", "program", "--out") as tracer:

        def fail() -> None:
            for _ in range(3):
                with socket.socket() as client, pytest.raises(ConnectionRefusedError):
                    client.connect((V4, port))
            no_way()
            with socket.socket() as client:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
                client.bind((V4, 0))
                with pytest.raises(OSError, match=r"Invalid argument|unreachable"):
                    client.connect(("192.0.2.1", 80))
            for _ in range(2):
                connect(server).close()

        named(b"top-failing", fail)
        expected = {"attempts": 7, "failed": 5, "refused": 3, "timed_out": 0}
        wait_for_run(tracer, expected, comm="top-failing")
        run = run_of(tracer, comm="top-failing")
        assert 2 == run["unreachable"] + run["failed_otherwise"]
        assert run["unreachable"] >= 1
        stop(tracer)
        (rows,) = [rows_of(tracer, comm="top-failing")]
        assert 5 == sum(row["failed"] for row in rows)


def test_names_of_destinations(backend: Backend, netns: str) -> None:
    """A destination has the name that it was asked for by."""
    if backend == "ftrace":
        not_offered("ftrace sees no DNS answers")
    name = "web.example."
    with (
        listen() as server,
        fake(answer(name, f"{name} 60 A {V4}")),
        started(backend, netns, "--by", "program,name", "--out") as tracer,
    ):

        def ask_and_connect() -> None:
            with bound(V4, take_port()) as client:
                client.sendto(question(name), (FAKE, PORT))
                client.recv(512)
            connect(server).close()

        named(b"top-named", ask_and_connect)
        wait_for_run(tracer, {"attempts": 1}, comm="top-named", name=name.rstrip("."))
        stop(tracer)


def test_directions_and_ports(backend: Backend, netns: str) -> None:
    """--in and --out have their own; the filters of other commands hold."""
    ports = take_ports(2)
    with contextlib.ExitStack() as held:
        servers = [held.enter_context(listen(V6, port)) for port in ports]
        arguments = ("--by", "listener", "-P", str(ports[0]))
        taken = held.enter_context(started(backend, netns, "--in", *arguments))
        made = held.enter_context(started(backend, netns, "--out", "--by", "port", *arguments[2:]))
        for server in servers:
            with connect(server, V6), server.accept()[0]:
                pass
        wait_for_run(taken, {"accepts": 1, "attempts": 0}, listener=f"[{V6}]:{ports[0]}")
        wait_for_run(made, {"accepts": 0, "attempts": 1}, port=ports[0])
        for tracer in (taken, made):
            stop(tracer)
            assert 1 == len({str(row.get("listener", row.get("port"))) for row in rows_of(tracer)})


def test_other_namespaces(backend: Backend, netns: str) -> None:
    """Sockets are listed in each namespace that has connections."""
    other = f"{netns}-top"
    ip(f"netns add {other}")
    try:
        ip(f"-n {other} link set lo up")
        with Tracer(
            *("--json", "--interval", INTERVAL, "--backend", backend),
            *less(backend),
            *("--by", "port", "--out"),
            command="top",
        ) as tracer:
            server = in_namespace(other, listen)
            near = in_namespace(other, lambda: connect(server))
            far = server.accept()[0]
            near.sendall(b"x" * 4321)
            receive(far, 4321)
            wait_for_run(tracer, {"tx_bytes": 4321}, port=server.getsockname()[1])
            for sock in (near, far, server):
                sock.close()
            stop(tracer)
    finally:
        ip(f"netns delete {other}")


def test_tables(backend: Backend, netns: str) -> None:
    """In a pipe it is a table for each interval, and --once is one of them."""
    with listen() as server:
        with Tracer(*options(backend, netns), "-n", "2", command="top") as tracer:
            exchanged = threading.Thread(
                target=named, args=(b"top-text", lambda: exchange(server)), daemon=True
            )
            with served(server, 1):
                exchanged.start()
                ended = tracer.ended()
                exchanged.join(limit(10))
        assert 0 == ended.status
        lines = ended.stdout.splitlines()
        times = [at for at, line in enumerate(lines) if re.fullmatch(r"\d\d:\d\d:\d\d", line)]
        assert 2 == len(times)
        assert ["PROGRAM", "NAME", "PORT", "CONN/s"] == lines[times[1] + 1].split()[:4]
        assert "(total)" == lines[-1].split()[0]


def test_once(backend: Backend, netns: str) -> None:
    """--once is one interval, as CSV too, and ends by itself."""
    with Tracer(*options(backend, netns), "--once", "-o", "csv", command="top") as tracer:
        ended = tracer.ended()
    lines = ended.stdout.splitlines()
    assert lines[0].startswith("program,name,port,conn")
    assert ["(total)"] == [line[:7] for line in lines if line.startswith("(total),,,")]
    assert 0 == ended.status


class Screen:
    """tcptrace on a terminal, which is its session's."""

    def __init__(self, arguments: list[str], columns: int = 80, lines: int = 24) -> None:
        """Start it."""
        command = [*TCPTRACE, "top", *arguments]
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.execve(command[0], command, {**os.environ, "TERM": "xterm-256color"})  # noqa: S606
        os.set_blocking(self._terminal, False)
        self.text = ""

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._terminal, keys.encode())

    def read(self) -> str:
        """Return all that it has written so far."""
        with contextlib.suppress(OSError):  # there is nothing, or it has ended
            self.text += os.read(self._terminal, CHUNK).decode("utf-8", "replace")
        return self.text

    def wait_for(self, text: str) -> None:
        """Read what it shows until this has been shown."""
        eventually(lambda: text in self.read(), f"{text!r} on the screen")

    def status(self) -> int:
        """Wait for its end; return its exit status."""
        ended: list[int] = []

        def has_ended() -> bool:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                ended.append(os.waitstatus_to_exitcode(status))
            return bool(pid)

        eventually(has_ended, "the end of tcptrace")
        self._pid = 0
        return ended[0]

    def close(self) -> None:
        """Kill it if it still runs."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._terminal)


def test_the_screen(backend: Backend, netns: str) -> None:
    """On a terminal it is a screen; q ends it, and the last picture stays."""
    pytest.importorskip("textual", reason="`./setup.sh test` brings it")
    with contextlib.closing(Screen(options(backend, netns))) as screen, listen() as server:
        screen.wait_for("CONN/s")
        named(b"top-seen", lambda: connect(server).close())
        screen.wait_for("top-seen")
        screen.press("q")
        screen.wait_for(" lost")
        assert 0 == screen.status()
    # Behind the other screen buffer, which was left (xterm's ?1049), are the last lines.
    left = screen.text.rpartition("\x1b[?1049l")[2]
    assert "tcptrace top" in left
    assert "top-seen" in left
    assert re.search(r"tcptrace: \d+ connections? in [\d.]+ s, 0 lost", left)


def test_who_listens(backend: Backend, netns: str) -> None:
    """Each listener with its process, its queue, what it accepts, and what it has dropped."""
    queue = 3
    with (
        listen() as server,
        socket.create_server((V4, take_port()), backlog=queue) as slow,
        started(backend, netns, "--listen") as tracer,
        contextlib.ExitStack() as held,
    ):
        ports = [listener.getsockname()[1] for listener in (server, slow)]
        tracer.wait_until(
            lambda: all(tracer.where(type="listener", lport=port) for port in ports), "both"
        )
        with served(server, MANY):
            exchange(server, MANY)
        for _ in range(queue + 1):  # the kernel lets one more wait
            held.enter_context(connect(slow))
        with socket.socket() as refused:
            refused.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                refused.connect((V4, ports[1]))
        one = tracer.wait_for(type="listener", lport=ports[0], run_accepts=MANY)[0]
        assert (os.getpid(), BACKLOG) == (one["pid"], one["backlog_max"])
        full = tracer.wait_for(type="listener", lport=ports[1], backlog=queue + 1)[0]
        assert queue == full["backlog_max"]
        tracer.wait_until(
            lambda: tracer.where(type="listener", lport=ports[1])[-1]["run_drops"] > 0, "drops"
        )
        stop(tracer)
        rows = tracer.where(type="listener", lport=ports[0])
        assert MANY == sum(row["accepts"] for row in rows) == rows[-1]["run_accepts"]
