#!/usr/bin/python3
"""A shop with three faults, for docs/tutorial.md: `sudo python3 examples/shop/shop.py`.

It runs in network and mount namespaces of its own, so nothing outside them changes, and ends with
Ctrl-C, or after so many seconds as are named. It needs no more than Python, `unshare`, `mount` and
`ip`.

- `payments` takes a second for each customer, and two more can wait in its accept queue.
- `report` asks a database that does not answer.
- `mailer` has a name wrong.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

ADDRESSES = {
    b"payments.shop.example": "10.9.0.1",
    b"smtp.shop.example": "10.9.0.2",
    b"db.shop.example": "10.9.9.9",  # a host that is switched off
}
OURS = ("10.9.0.1", "10.9.0.2")
DNS = ("127.0.0.1", 53)


def main(arguments: list[str]) -> None:
    """Enter new namespaces, then open the shop there."""
    if arguments[:1] != ["--inside"]:
        program = ("unshare", "--net", "--mount", sys.executable, __file__, "--inside", *arguments)
        os.execvp(program[0], program)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        prepare()
        workers = [start(role) for role in (names, payments, smtp, checkout, report, mailer)]
        try:
            print("The shop is open. Ctrl-C closes it.", flush=True)
            time.sleep(float(arguments[1]) if arguments[1:] else 3600)
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def prepare() -> None:
    """Give the namespace its addresses, and have its processes ask our own name server."""
    run("ip", "link", "set", "lo", "up")
    for address in OURS:
        run("ip", "address", "add", address, "dev", "lo")
    # What is sent there comes back to this host, which is not the one that is meant, and drops it.
    run("ip", "route", "add", "10.9.9.0/24", "dev", "lo")
    replace("/etc/resolv.conf", f"nameserver {DNS[0]}\n")
    replace("/etc/nsswitch.conf", "hosts: files dns\n")


def run(*command: str) -> None:
    """Run a program."""
    subprocess.run(command, check=True)


def replace(path: str, text: str) -> None:
    """Have our processes find other text in a file, which itself stays as it is."""
    if not Path(path).exists():
        return
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(text)
        file.flush()
        Path(file.name).chmod(0o644)
        run("mount", "--bind", file.name, str(Path(path).resolve()))


def start(role: Callable[[], NoReturn]) -> int:
    """Run a role as a process of its name; return its id."""
    if pid := os.fork():
        return pid
    Path("/proc/self/comm").write_text(role.__name__)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        role()
    finally:
        os._exit(1)


def names() -> NoReturn:
    """Answer DNS questions for IPv4 addresses; there are no others, and no other names."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(DNS)
    while True:
        question, client = server.recvfrom(512)
        server.sendto(answer(question), client)


def answer(question: bytes) -> bytes:
    """Return the answer to a DNS question."""
    end = question.index(b"\0", 12) + 5
    labels, at = [], 12
    while size := question[at]:
        labels.append(question[at + 1 : at + 1 + size])
        at += size + 1
    address = ADDRESSES.get(b".".join(labels).lower())
    wanted = address and struct.unpack_from("!H", question, end - 4)[0] == 1
    flags = 0x8180 if address else 0x8183
    head = question[:2] + struct.pack("!5H", flags, 1, int(bool(wanted)), 0, 0)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address or "") if wanted else b""
    return head + question[12:end] + record


def payments() -> NoReturn:
    """Take a second for each customer."""
    server = socket.create_server(("10.9.0.1", 8080), backlog=1)
    while True:
        customer, _ = server.accept()
        time.sleep(1)
        customer.close()


def smtp() -> NoReturn:
    """Take mail at once."""
    server = socket.create_server(("10.9.0.2", 25))
    while True:
        server.accept()[0].close()


def checkout() -> NoReturn:
    """Send five customers to pay, every six seconds."""
    while True:
        customers = [socket.socket() for _ in range(5)]
        for customer in customers:
            customer.settimeout(0)
            customer.connect_ex((socket.gethostbyname("payments.shop.example"), 8080))
        time.sleep(6)
        for customer in customers:
            customer.close()


def report() -> NoReturn:
    """Ask the database, and give up when one repeated SYN has not been answered either."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
            client.connect((socket.gethostbyname("db.shop.example"), 5432))
        time.sleep(0.5)


def mailer() -> NoReturn:
    """Send one mail, and fail to send another."""
    while True:
        for host in ("smtp.shop.example", "smpt.shop.example"):
            with contextlib.suppress(OSError):
                socket.create_connection((host, 25)).close()
        time.sleep(1)


if __name__ == "__main__":
    main(sys.argv[1:])
