#!/usr/bin/env python3
"""Make docs/images/connect.svg from a real run of ``tcptrace connect -d --outcome``.

Run it as root with the Python of the virtual environment that has tcptrace. It makes a network
namespace of its own with a few servers and clients, of which some have a problem, runs tcptrace on
a pseudo-terminal beside them, for that namespace alone, and lets rich draw what that printed.
"""

from __future__ import annotations

import contextlib
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
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "images" / "connect.svg"
COMMAND = ("tcptrace", "connect", "-d", "--outcome", "--columns", "-pid,-ip,-laddr")
OWN_NAMESPACE = ("-N", "/proc/self/ns/net")
COLUMNS, LINES = 90, 24
BANNER = b"Tracing"
CLONE_NEWNET = 0x40000000
PR_SET_NAME = 15
SYN_RETRY_S = 1

# Addresses for documentation (RFC 5737), the first three on the namespace's loopback.
SERVERS = {
    "catalog.example.org": ("192.0.2.10", 443),
    "payments.example.org": ("192.0.2.20", 443),
    "cache.example.org": ("192.0.2.30", 6379),
    "db.example.org": ("198.51.100.40", 5432),
}
# Who connects where, in this order. The queue of payments is full, so that its kernel drops a SYN;
# nobody listens on cache's port; there is no route to db.
ATTEMPTS = (
    ("shop", "catalog.example.org"),
    ("shop", "payments.example.org"),
    ("shop", "cache.example.org"),
    ("worker", "catalog.example.org"),
    ("worker", "db.example.org"),
    ("shop", "payments.example.org"),
    ("worker", "catalog.example.org"),
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
    """Move this process to a network namespace of its own, with the servers' addresses."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        sys.exit(f"no network namespace: {os.strerror(ctypes.get_errno())}; run this as root")
    ip("link", "set", "lo", "up")
    for address, _ in list(SERVERS.values())[:3]:
        ip("address", "add", f"{address}/32", "dev", "lo")
    ip("route", "add", "unreachable", "198.51.100.0/24")


def ip(*arguments: str) -> None:
    """Set up the network."""
    subprocess.run(["ip", *arguments], check=True)  # noqa: S607 - ip is on root's PATH


def answer_dns(server: socket.socket) -> None:
    """Answer every question, with the name's one address (RFC 1035)."""
    while True:
        question, client = server.recvfrom(512)
        labels = question[12:].split(b"\0")[0]
        name = next(server for server in SERVERS if encoded(server) == labels)
        answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04" + socket.inet_aton(SERVERS[name][0])
        head = question[:2] + b"\x81\x80\0\x01\0\x01\0\0\0\0"
        server.sendto(head + question[12:] + answer, client)


def encoded(name: str) -> bytes:
    """Return a name's labels with their lengths, without the root's."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))


def attempt(comm: str, name: str) -> None:
    """Ask for a name and connect to it, in a process called `comm`."""
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(PR_SET_NAME, ctypes.c_char_p(comm.encode()))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            head = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0"
            asking.sendto(head + encoded(name) + b"\0\0\x01\0\x01", ("127.0.0.1", 53))
            asking.recv(512)
        with socket.socket() as client:
            client.connect_ex(SERVERS[name])
        os._exit(0)
    os.waitpid(pid, 0)


@contextlib.contextmanager
def servers() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Serve names; give the servers of catalog and of payments, whose queue is full."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
        socket.create_server(SERVERS["catalog.example.org"]) as catalog,
        socket.create_server(SERVERS["payments.example.org"], backlog=0) as payments,
        socket.create_connection(SERVERS["payments.example.org"]),
    ):
        resolver.bind(("127.0.0.1", 53))
        threading.Thread(target=answer_dns, args=(resolver,), daemon=True).start()
        yield catalog, payments


def make_traffic(payments: socket.socket) -> None:
    """Let clients connect, as `ATTEMPTS` says."""
    for comm, name in ATTEMPTS:
        if name == "payments.example.org":
            threading.Timer(SYN_RETRY_S / 2, empty, [payments]).start()
        attempt(comm, name)
        time.sleep(0.05)


def empty(server: socket.socket) -> None:
    """Accept all connections that wait."""
    server.settimeout(0)
    with contextlib.suppress(BlockingIOError):
        while True:
            server.accept()[0].close()


def record(payments: socket.socket) -> bytes:
    """Return what tcptrace writes to a terminal while clients connect."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ |= {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        program = Path(sys.executable).with_name(COMMAND[0])
        os.execv(program, [str(program), *COMMAND[1:], *OWN_NAMESPACE])  # noqa: S606 - no shell is wanted
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    output = b""
    while BANNER not in output:
        output += os.read(terminal, 1 << 16)
    make_traffic(payments)
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
    with servers() as (_, payments):
        output = record(payments)
    sys.stderr.write(output.decode())
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    PICTURE.write_text(draw(output), encoding="utf-8")


if __name__ == "__main__":
    main()
