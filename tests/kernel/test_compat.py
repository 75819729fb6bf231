"""extras/compat: bcc's command lines show real connections."""

from __future__ import annotations

import re
import socket
import sys
from pathlib import Path

import pytest
from tests.kernel.tracers import Tracer

COMPAT = Path(__file__).resolve().parents[2] / "extras" / "compat" / "compat.py"

pytestmark = pytest.mark.anywhere


def connect_once() -> tuple[int, int]:
    """Connect, accept and close over IPv6; return the client's and the server's port."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("::1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()
            return client.getsockname()[1], port


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("tcpaccept", "{pid} +{comm} +6  ::1 +{client} ::1 +{server}"),
        ("tcpconnect", "{pid} +{comm} +6  ::1 +::1 +{server}"),
        ("tcptracer", r"X  {pid} +{comm} +6  \[::1\] +\[::1\] +{server} +{client}"),
    ],
)
def test_an_old_command_line_shows_the_old_line(name: str, form: str, tmp_path: Path) -> None:
    """Its heading comes when the probes are attached, and Ctrl-C ends it well."""
    tool = tmp_path / name
    tool.symlink_to(COMPAT)
    with Tracer(
        program=(sys.executable, str(tool)),
        command="-6",
        env={"TCPTRACE": f"{Path(sys.executable).parent}/tcptrace"},
        armed=False,
    ) as tracer:
        tracer.wait_until(lambda: "PORT" in tracer.stdout, "a heading")
        client, server = connect_once()
        row = form.format(pid=r"\d+", comm=r"\S+", client=client, server=server)
        tracer.wait_until(lambda: bool(re.search(row, tracer.stdout)), row)
        ended = tracer.stop()
    assert (0, "") == (ended.status, ended.stderr)
