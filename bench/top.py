"""Measure what `tcptrace top` costs. Run as root; traffic stays on loopback."""

from __future__ import annotations

import contextlib
import resource
import socket
import statistics
import time

from tcptrace.kernel import sock_diag

SOCKETS = 10_000
REPEATS = 7


def list_sockets() -> None:
    """Print how long it takes to list many sockets."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with contextlib.ExitStack() as held:
        server = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1024))
        for _ in range(SOCKETS // 2):
            held.enter_context(socket.create_connection(server.getsockname()))
            held.enter_context(server.accept()[0])
        took = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            assert sum(1 for _ in sock_diag.sockets()) >= SOCKETS
            took.append(time.perf_counter() - start)
    print(f"{SOCKETS} sockets listed: {statistics.median(took):.3f} s (at most {max(took):.3f})")


def main() -> None:
    """Measure and print everything."""
    list_sockets()


if __name__ == "__main__":
    main()
