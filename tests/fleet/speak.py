"""A client or a server under a name of its own, for the fleet of the tests.

    speak.py serve NAME PORT [ADDRESS PORT]    answers each request, having asked another server
    speak.py ask NAME COUNT ADDRESS PORT       makes so many requests, one after the other

A request is a line of six bytes, an answer a hundred. What a server was asked is on its standard
output, a line each.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

REQUEST = b"hello\n"
ANSWER = b"x" * 100
PING, PONG = b"PING\r\n", b"+PONG\r\n"


def _read(connection: socket.socket, size: int) -> None:
    """Read so many bytes."""
    while size > 0:
        data = connection.recv(size)
        if not data:
            raise ConnectionError("the other end has closed")
        size -= len(data)


def _ping(address: str, port: int) -> None:
    """Ask a Redis whether it is there."""
    with socket.create_connection((address, port), timeout=30) as connection:
        connection.sendall(PING)
        _read(connection, len(PONG))


def serve(port: int, behind: tuple[str, int] | None) -> None:
    """Answer requests until the process is ended."""
    with socket.create_server(("0.0.0.0", port)) as server:
        while True:
            connection, _ = server.accept()
            with connection, contextlib.suppress(ConnectionError):
                _read(connection, len(REQUEST))
                if behind:
                    _ping(*behind)
                connection.sendall(ANSWER)
                _read(connection, 1)  # until the client closes
            print("asked", flush=True)


def ask(count: int, address: str, port: int) -> None:
    """Make requests; one that is refused is made as well."""
    for _ in range(count):
        with (
            contextlib.suppress(ConnectionRefusedError),
            socket.create_connection((address, port), timeout=30) as connection,
        ):
            connection.sendall(REQUEST)
            _read(connection, len(ANSWER))


def main() -> None:
    """Do what the command line says."""
    what, name, *rest = sys.argv[1:]
    Path("/proc/self/comm").write_text(name, encoding="ascii")
    if what == "serve":
        serve(int(rest[0]), (rest[1], int(rest[2])) if rest[1:] else None)
    else:
        ask(int(rest[0]), rest[1], int(rest[2]))


if __name__ == "__main__":
    main()
