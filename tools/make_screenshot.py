#!/usr/bin/env python3
"""Make docs/images/accept.svg from a real run of ``tcptrace accept -t --backlog``.

Run it as root with the Python of the virtual environment that has tcptrace. It makes a network
namespace of its own with a few servers and clients, runs tcptrace on a pseudo-terminal beside them,
and lets rich draw what that printed. Connections of other programs show too: use a quiet host.
"""

from __future__ import annotations

import ctypes
import fcntl
import io
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "accept.svg"
COMMAND = ("tcptrace", "accept", "-t", "--backlog")
COLUMNS, LINES = 90, 24
BANNER = b"Tracing"
CLONE_NEWNET = 0x40000000
PR_SET_NAME = 15

# Addresses for documentation (RFC 5737, RFC 3849), all on the namespace's loopback.
ADDRESSES = (
    "192.0.2.10/32",
    "198.51.100.7/32",
    "203.0.113.23/32",
    "2001:db8::10/128",
    "2001:db8::7/128",
)
# Name, address, port and backlog of each server, and its clients' addresses.
SERVERS = (
    ("web", "192.0.2.10", 443, 128, ("198.51.100.7", "203.0.113.23", "198.51.100.7")),
    ("web", "2001:db8::10", 443, 128, ("2001:db8::7", "2001:db8::7")),
    ("api", "127.0.0.1", 8000, 16, ("127.0.0.1", "127.0.0.1")),
    ("metrics", "::1", 9100, 5, ("::1",)),
)

# As rich's own template, but without fonts from a remote host.
SVG = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
  font-variant-east-asian: full-width;
}}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def enter_network() -> None:
    """Move this process to a network namespace of its own, with `ADDRESSES`."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        sys.exit(f"no network namespace: {os.strerror(ctypes.get_errno())}; run this as root")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # noqa: S607 - ip is on root's PATH
    for address in ADDRESSES:
        command = ["ip", "address", "add", address, "dev", "lo"]
        subprocess.run([*command, "nodad"] if ":" in address else command, check=True)


def serve(name: str, address: str, port: int, backlog: int, clients: tuple[str, ...]) -> None:
    """Accept `clients` in a process called `name`, which lets them wait first."""
    server = socket.create_server(
        (address, port),
        family=socket.AF_INET6 if ":" in address else socket.AF_INET,
        backlog=backlog,
    )
    connections = [
        socket.create_connection((address, port), source_address=(client, 0)) for client in clients
    ]
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_NAME, ctypes.c_char_p(name.encode()))
        for _ in clients:
            time.sleep(0.07)
            server.accept()[0].close()
        os._exit(0)
    os.waitpid(pid, 0)
    for connection in [*connections, server]:
        connection.close()


def record() -> bytes:
    """Return what tcptrace writes to a terminal while the servers work."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        program = Path(sys.executable).with_name(COMMAND[0])
        os.execv(program, [str(program), *COMMAND[1:]])  # noqa: S606 - no shell is wanted
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    output = b""
    while BANNER not in output:
        output += os.read(terminal, 1 << 16)
    for server in SERVERS:
        serve(*server)
    time.sleep(0.3)
    os.kill(pid, signal.SIGINT)
    try:
        while chunk := os.read(terminal, 1 << 16):
            output += chunk
    except OSError:  # EIO: the terminal's last user is gone
        pass
    os.waitpid(pid, 0)
    return output


def draw(output: bytes) -> str:
    """Return the picture of a terminal that shows `output`."""
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False
    )
    console.print(Text.from_ansi(output.decode().replace("\r\n", "\n").rstrip()))
    return console.export_svg(title=" ".join(COMMAND), code_format=SVG, unique_id="tcptrace")


def main() -> None:
    """Make the picture."""
    enter_network()
    output = record()
    sys.stderr.write(output.decode())
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(output), encoding="utf-8")


if __name__ == "__main__":
    main()
