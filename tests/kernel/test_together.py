"""All commands beside each other, while processes make connections of many kinds at once."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import select
import socket
import threading
from collections import Counter

import pytest
from tests.kernel.backends import FROM_BTF, not_offered
from tests.kernel.harness import TIME_SCALE, Worker, limit, take_ports
from tests.kernel.tracers import Tracer, ended_well
from tests.kernel.traffic import DUAL, V4, V6, connect, listen, port_of, reset

from tcptrace.errors import TcptraceError
from tcptrace.kernel import headers
from tcptrace.model.filters import Filters
from tcptrace.model.ranges import Ranges
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.dns.probe import DNS
from tcptrace.probes.probe import BPF_BACKENDS, Backend, Probe
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sources.attach import Attaching
from tcptrace.sources.bpf.compile import compile_shape
from tcptrace.sources.plan import Plan, shape_of

pytestmark = pytest.mark.command("tracer")

PROBES = (ACCEPT, CONNECT, TRACER, DNS)
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
            expected = Counter({key: n for key, n in happened.items() if key[0] in SHOWN[command]})
            await_rows(tracer, expected.total())
            ended_well(tracer)
            shown = Counter((e["type"], e["pid"], e["lport"], e["rport"]) for e in tracer.events)
            assert (Counter(), Counter()) == (expected - shown, shown - expected), command


def compiled(backend: Backend, probes: tuple[Probe, ...]) -> list[bool]:
    """Compile probes as one source in each way; tell whether all programs are there."""

    def compile_all() -> list[bool]:
        types = [name for probe in probes for name in probe.types]
        flags = headers.prepare(extra=types)
        plan = Plan(probes[0], Filters(), backend=backend, companions=probes[1:])
        return [
            {hook.program for hook in variant.hooks}
            <= compile_shape(shape_of(plan, variant), lambda: flags)[0].functions.keys()
            for variant in plan.variants()
        ]

    answer: list[bool] = Worker(compile_all).run()
    return answer


@pytest.mark.anywhere
@pytest.mark.parametrize("backend_name", BPF_BACKENDS)
def test_all_probes_are_one_compilation(backend_name: Backend) -> None:
    """The C of all probes fits in one compilation, with every backend's hooks."""
    if not FROM_BTF:
        not_offered("kernel headers lack some of the types")
    results = compiled(backend_name, PROBES)
    assert results
    assert all(results)


@pytest.mark.anywhere
@pytest.mark.parametrize("define", ["HOOK_TRACEPOINT", "ACCEPT_SYSCALLS"])
def test_an_unknown_hook_is_an_error(define: str) -> None:
    """A source without a hook that it knows is not compiled to programs that do nothing."""

    def refused() -> bool:
        plan = Plan(ACCEPT, Filters(), backend="tracepoint")
        shape = shape_of(plan, plan.variants()[0])
        flags = tuple(flag for flag in shape.flags if not flag.startswith(f"-D{define}"))
        flags += ("-DUNKNOWN=1",)
        try:
            compile_shape(dataclasses.replace(shape, flags=flags), headers.prepare)
        except TcptraceError:
            return True
        return False

    assert Worker(refused).run()


def exchange(address: str, port: int) -> None:
    """Accept a connection on a port."""
    with listen(address, port) as server, connect(server), server.accept()[0]:
        pass


def seen_by_all(backend: Backend, ports: list[int]) -> list[list[int | str | None]]:
    """Run all probes in one session, each with a port of its own; return what it tells."""
    fields = (("lport",), ("rport",), ("lport", "rport"), ("rport",))
    only = [
        Filters({"port": Ranges(((port, port),), ())}, ends)
        for port, ends in zip(ports, fields, strict=True)
    ]
    own = {probe.name: filters for probe, filters in zip(PROBES, only, strict=True)}
    plan = Plan(
        ACCEPT, only[0], backend=backend, companions=PROBES[1:], own_filters=own, buffer_mb=1
    )
    with contextlib.closing(Attaching(plan)) as attaching:
        session = attaching.session(lambda: False)
    assert session
    with (
        contextlib.closing(session),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker,
    ):
        for port in ports[:3]:
            exchange(V4, port)
        asker.sendto(bytes(20), (V4, ports[3]))
        session.finish()
        events = [event for batch in session.batches() for event in batch.events]
    return [[type(event).__name__, event.lport, event.rport] for event in events]


def test_all_probes_run_in_one_session(backend: Backend) -> None:
    """In one session, each probe has filters of its own, and its own meaning of ports."""
    if backend == "ftrace":
        not_offered("ftrace has one probe a session")
    ports = take_ports(4)
    rows = Worker(lambda: seen_by_all(backend, ports)).run()
    told = Counter(
        (kind, next(port for port in ports if port in (lport, rport)))
        for kind, lport, rport in rows
    )
    expected = {("Accept", ports[0]): 1, ("Connect", ports[1]): 1, ("Message", ports[3]): 1}
    expected |= {("Connected", ports[2]): 1, ("Closed", ports[2]): 2}
    assert expected == told


def await_rows(tracer: Tracer, count: int) -> None:
    """Wait for so many rows, or for the word that some were lost."""
    tracer.wait_until(
        lambda: len(tracer.events) >= count or "lost" in tracer.stderr, f"{count} events"
    )
