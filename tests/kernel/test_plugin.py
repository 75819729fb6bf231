"""The example of a plugin, installed for real, sees real retransmissions.

Two network namespaces of their own hang on one veth pair. A connection is made; then the server's
end loses its addresses, so that what the client sends is dropped and sent again.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.traffic import in_namespace, ip

EXAMPLE = Path(__file__).parents[2] / "examples/tcptrace-retrans"
CLIENT, SERVER = f"tcptrace-c{os.getpid()}", f"tcptrace-s{os.getpid()}"
CLIENT4, SERVER4 = "192.0.2.1", "192.0.2.2"
CLIENT6, SERVER6 = "2001:db8::1", "2001:db8::2"


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Install the example's wheel in a directory; return the environment that has it."""
    directory = tmp_path_factory.mktemp("plugin")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, *offline, "--target", directory, EXAMPLE], check=True)
    return {**os.environ, "PYTHONPATH": str(directory)}


class Link:
    """A client and a server at the ends of a veth pair, until the server's addresses go."""

    def __init__(self, stack: ExitStack) -> None:
        """Make the namespaces and the pair; `stack` removes them."""
        self._stack = stack
        for name in (CLIENT, SERVER):
            ip(f"netns add {name}")
            stack.callback(ip, f"netns del {name}")
        ip(f"-n {CLIENT} link add eth0 type veth peer name eth0 netns {SERVER}")
        for name, four, six in ((CLIENT, CLIENT4, CLIENT6), (SERVER, SERVER4, SERVER6)):
            ip(f"-n {name} addr add {four}/24 dev eth0")
            ip(f"-n {name} addr add {six}/64 dev eth0 nodad")
            ip(f"-n {name} link set eth0 up")

    def connect(self, address: str) -> socket.socket:
        """Return the client's end of a connection to the server at `address`."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        server = in_namespace(SERVER, lambda: socket.create_server((address, 0), family=family))
        port = server.getsockname()[1]
        client = in_namespace(CLIENT, lambda: socket.create_connection((address, port), timeout=5))
        for sock in (server.accept()[0], server, client):
            self._stack.callback(sock.close)
        return client

    def lose(self, *clients: socket.socket) -> None:
        """Let the server's end drop all packets, and `clients` send."""
        ip(f"-n {SERVER} addr flush dev eth0")
        for client in clients:
            client.send(b"lost")


@pytest.fixture
def link() -> Iterator[Link]:
    """Make a link for one test."""
    with ExitStack() as stack:
        yield Link(stack)


@contextmanager
def tracing(plugin: dict[str, str], *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run `tcptrace retrans` in the client's namespace's view, from when it is attached."""
    command = [sys.executable, "-m", "tcptrace", "retrans", "-N", CLIENT, *options]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=plugin, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("Tracing retrans"):
                break
        else:
            pytest.fail(f"tcptrace retrans did not start: {''.join(said)}")
        try:
            yield process
        finally:
            process.terminate()


def first_event(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return the first event of `tcptrace retrans --json`."""
    assert process.stdout
    event: dict[str, Any] = json.loads(process.stdout.readline())
    return event


def test_a_segment_sent_again_is_seen(plugin: dict[str, str], link: Link) -> None:
    """A lost segment shows with its connection and state, and without any process."""
    client = link.connect(SERVER4)
    with tracing(plugin, "--json") as process:
        link.lose(client)
        event = first_event(process)
    for key in ("time", "ts_ns"):
        del event[key]
    expected = {
        "type": "retrans",
        "family": 4,
        "laddr": CLIENT4,
        "lport": client.getsockname()[1],
        "raddr": SERVER4,
        "rport": client.getpeername()[1],
        "netns": Path("/run/netns", CLIENT).stat().st_ino,
        "state": "ESTABLISHED",
        "backend": "tracepoint",
    }
    assert expected == event


@pytest.mark.anywhere
def test_text_has_its_own_columns(plugin: dict[str, str], link: Link) -> None:
    """Text shows the plugin's columns, and no PID."""
    client = link.connect(SERVER4)
    with tracing(plugin) as process:
        link.lose(client)
        assert process.stdout
        heading, row = (process.stdout.readline().split() for _ in range(2))
    assert ["IP", "LADDR", "LPORT", "RADDR", "RPORT", "STATE"] == heading
    ports = [str(end[1]) for end in (client.getsockname(), client.getpeername())]
    assert ["4", CLIENT4, ports[0], SERVER4, ports[1], "ESTABLISHED"] == row


@pytest.mark.anywhere
@pytest.mark.parametrize("form", [".jsonl", ".parquet"])
@pytest.mark.parametrize("output", [["--json"], ["-T", "-t"]], ids=["json", "text"])
def test_its_rows_are_kept(
    plugin: dict[str, str], link: Link, tmp_path: Path, form: str, output: list[str]
) -> None:
    """A plugin's command keeps rows of its own type; what it reads is what was printed."""
    client, path = link.connect(SERVER4), tmp_path / f"x{form}"
    with tracing(plugin, *output, "-w", str(path), "--print") as process:
        link.lose(client)
        assert process.stdout
        live = "".join(process.stdout.readline() for _ in output)  # text has a heading
        process.terminate()
        live += process.stdout.read()
    command = [sys.executable, "-m", "tcptrace", "retrans", "-r", str(path), *output]
    result = subprocess.run(command, env=plugin, capture_output=True, text=True, check=False)
    assert "ESTABLISHED" in live
    assert (0, live) == (result.returncode, result.stdout), result.stderr


@pytest.mark.anywhere
def test_ipv6_alone(plugin: dict[str, str], link: Link) -> None:
    """-6 keeps the IPv6 connection and drops the other, which lost its segment first."""
    four, six = link.connect(SERVER4), link.connect(SERVER6)
    with tracing(plugin, "--json", "-6") as process:
        link.lose(four, six)
        event = first_event(process)
    assert (6, CLIENT6, SERVER6) == (event["family"], event["laddr"], event["raddr"])


@pytest.mark.parametrize("end", ["local", "remote"])
@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.anywhere
def test_ports(plugin: dict[str, str], link: Link, end: str, *, exclude: bool) -> None:
    """-P keeps or drops a connection by the port of either end."""
    one, other = link.connect(SERVER4), link.connect(SERVER4)
    named = one if exclude else other
    port = (named.getsockname() if end == "local" else named.getpeername())[1]
    with tracing(plugin, "--json", "-P", f"{'!' if exclude else ''}{port}") as process:
        link.lose(one, other)
        event = first_event(process)
    assert other.getsockname()[1] == event["lport"]


@pytest.mark.anywhere
def test_filters_by_process_are_refused(plugin: dict[str, str]) -> None:
    """The probe does not know the process, so -p is a usage error."""
    command = [sys.executable, "-m", "tcptrace", "retrans", "-p", "1"]
    result = subprocess.run(command, env=plugin, capture_output=True, text=True, check=False)
    assert (2, "") == (result.returncode, result.stdout)
    assert "No such option" in result.stderr


@pytest.mark.anywhere
def test_the_doctor_tries_plugins(plugin: dict[str, str]) -> None:
    """`tcptrace doctor` attaches a plugin's probe like a built-in's."""
    command = [sys.executable, "-m", "tcptrace", "doctor", "--json"]
    result = subprocess.run(command, env=plugin, capture_output=True, text=True, check=False)
    assert "tracepoint" == json.loads(result.stdout)["commands"]["retrans"]["backend"]
