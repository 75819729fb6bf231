"""All commands beside each other, while processes make connections of many kinds at once."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections import Counter

import pytest
from tests.kernel.harness import TIME_SCALE, Tracer, Worker, ended_well, limit, take_ports
from tests.kernel.traffic import DUAL, V4, V6, connect, listen, port_of, reset

from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("tracer")

PROCESSES = 8
ROUNDS = int(150 / min(TIME_SCALE, 10))
SERVERS = ((V4, V4), (V6, V6), (DUAL, V4), (DUAL, V6), (DUAL, f"::ffff:{V4}"))
SHOWN = {"accept": ["accept"], "connect": ["connect"], "tracer": ["accept", "connect", "close"]}
Happening = tuple[str, int, int]
"""A row's type, and the local and the remote port."""


class Mix:
    """Connections by one process, each made and ended in one of many ways."""

    def __init__(self, port: int) -> None:
        """Have servers at a port; it also tells which random sequence the ways are from."""
        self._port = port
        self._random = random.Random(port)  # noqa: S311 - to be repeated, not secret
        self._happened: list[Happening] = []

    def make(self) -> list[Happening]:
        """Make them; return what happened."""
        for _ in range(ROUNDS):
            if self._is_so(0.3):
                thread = threading.Thread(target=self._serve)
                thread.start()
                thread.join(limit(30))
            else:
                self._serve()
        return self._happened

    def _is_so(self, probability: float) -> bool:
        return self._random.random() < probability

    def _serve(self) -> None:
        """Start a server and connect to it a few times."""
        address, to = self._random.choice(SERVERS)
        with listen(address, self._port) as server:
            for _ in range(self._random.randint(1, 4)):
                client = self._connect(server, to)
                port = port_of(client)
                self._happened += [(kind, port, self._port) for kind in ("connect", "close")]
                if self._is_so(0.2):
                    reset(client)
                    if self._is_so(0.5):
                        return  # never accepted
                taken = server.accept()[0]
                self._happened += [(kind, self._port, port) for kind in ("accept", "close")]
                self._end(client, taken)

    def _connect(self, server: socket.socket, address: str) -> socket.socket:
        if self._is_so(0.5):
            return connect(server, address)
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        client.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            client.connect((address, port_of(server)))
        select.select([], [client], [], limit(10))
        client.settimeout(limit(10))
        return client

    def _end(self, *both: socket.socket) -> None:
        """Send something or nothing, and close in one order or the other."""
        for end in self._random.sample(both, len(both)):
            with contextlib.suppress(OSError):  # it was closed, or reset
                if self._is_so(0.5):
                    end.sendall(bytes(self._random.randint(1, 5000)))
                if self._is_so(0.2):
                    end.shutdown(socket.SHUT_WR)
                if self._is_so(0.3):
                    reset(end)
            end.close()


def test_all_that_happens_is_shown_and_nothing_else(backend: Backend, netns: str) -> None:
    """Each command shows each of its events once, with the process that made it."""
    arguments = ("--json", "--backend", backend, "-N", netns, "--buffer-mb", "16")
    with contextlib.ExitStack() as stack:
        tracers = {
            command: stack.enter_context(Tracer(*arguments, command=command)) for command in SHOWN
        }
        workers = [Worker(Mix(port).make) for port in take_ports(PROCESSES)]
        for worker in workers:
            worker.start()
        happened = Counter(
            (kind, worker.pid, *ports) for worker in workers for kind, *ports in worker.result()
        )
        for command, tracer in tracers.items():
            expected = Counter({one: n for one, n in happened.items() if one[0] in SHOWN[command]})
            await_rows(tracer, expected.total())
            ended_well(tracer)
            shown = Counter((e["type"], e["pid"], e["lport"], e["rport"]) for e in tracer.events)
            assert (Counter(), Counter()) == (expected - shown, shown - expected), command


def await_rows(tracer: Tracer, count: int) -> None:
    """Wait for so many rows, or for the word that some were lost."""
    tracer.wait_until(
        lambda: len(tracer.events) >= count or "lost" in tracer.stderr, f"{count} events"
    )
