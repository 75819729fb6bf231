"""`tcptrace accept` on real connections, with every backend that this kernel has."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.kernel.backends import FROM_BTF, need, not_offered
from tests.kernel.harness import TIME_SCALE, Event, Worker, take_port
from tests.kernel.resolvers import Uring
from tests.kernel.tracers import ROOM, Tracer, ended_well, plain
from tests.kernel.traffic import (
    DUAL,
    MPTCP,
    NOBODY,
    V4,
    V6,
    Actor,
    Sleepers,
    accept_in_thread,
    accept_nonblocking,
    accept_on_a_connection,
    accept_once,
    accept_queue,
    accept_reset,
    accept_what_is_not_tcp,
    accept_where_nobody_listens,
    accept_while_its_descriptor_is_replaced,
    accept_with_accept,
    accept_without_descriptors,
    burst,
    connect,
    expected,
    known,
    listen,
    namespace_id,
    observed,
    port_of,
)

from tcptrace.kernel import headers
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.probe import Backend

pytestmark = pytest.mark.command("accept")

ASLEEP = 20
BURST = int(10_000 / min(TIME_SCALE, 5))


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One tracer, and the accepts that were asleep before it began."""

    tracer: Tracer
    backend: Backend
    sleepers: Sleepers

    def observed(self, port: int) -> list[Event]:
        """Return the events of a local port of ours, without the backend's name."""
        events = observed(self.tracer, lport=port, netns=namespace_id("net"))
        assert {event.pop("backend") for event in events} <= {self.backend}
        return events


@pytest.fixture(scope="module")
def run(backend: Backend) -> Iterator[Run]:
    """A tracer of all accepts."""
    arguments = ("--json", "--backend", backend, *ROOM)
    with Sleepers(ASLEEP) as sleepers, Tracer(*arguments) as tracer:
        yield Run(tracer, backend, sleepers)
        ended_well(tracer)


@pytest.fixture(scope="module")
def run_failed(backend: Backend) -> Iterator[Run]:
    """A tracer of all accepts and of those that fail."""
    need(backend, ACCEPT, switches=["ACCEPT_FAILED"])
    options = ("--json", "--failed", "--backend", backend, *ROOM)
    with Sleepers(1) as sleepers, Tracer(*options) as tracer:
        yield Run(tracer, backend, sleepers)
        ended_well(tracer)


CASES: dict[str, Callable[[int], Event | list[Event]]] = {
    "IPv4": lambda port: accept_once(V4, port=port),
    "IPv6": lambda port: accept_once(V6, port=port),
    "IPv4-mapped": lambda port: accept_once(DUAL, V4, port=port),
    "IPv6 on a dual-stack server": lambda port: accept_once(DUAL, V6, port=port),
    "accept(2)": accept_with_accept,
    "non-blocking": accept_nonblocking,
    "reset while it waited": accept_reset,
    "thread": accept_in_thread,
    "forked worker": lambda port: one_event(Actor(port=port)),
    "another user": lambda port: one_event(Actor(port=port, uid=NOBODY)),
    "a network namespace made while tracing": lambda port: one_event(
        Actor(port=port, new_netns=True)
    ),
    "another mount namespace": lambda port: one_event(Actor(port=port, new_mntns=True)),
    "queue": accept_queue,
    "descriptor replaced": accept_while_its_descriptor_is_replaced,
}

HOSTILE_NAMES = {
    "escape": b"\x1b[31mred\x07",
    "newline": b"two\nlines\r\t",
    "not UTF-8": b"\xff\xfe\xc3(",
    "quotes": b"'\"`$(id)\\{}",
    "markup": b"[red]no[/red]",
    "longest": b"exactly-fifteen",
}


def one_event(actor: Actor) -> Event:
    """Let an actor accept in a process of its own; return the event to expect."""
    event: Event = Worker(actor.accept).run()
    return event


@pytest.mark.parametrize("case", CASES)
def test_accept_is_shown_once_and_whole(run: Run, case: str) -> None:
    """An accept gives exactly one event, and every field of it is right."""
    port = take_port()
    events = CASES[case](port)
    expected = events if isinstance(events, list) else [events]
    netns = expected[0]["netns"]
    actual = observed(run.tracer, lport=port, netns=netns)
    assert [{**known(event, run.backend), "backend": run.backend} for event in expected] == actual


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_comm_is_decoded(run: Run, name: str) -> None:
    """A process name of any bytes comes through whole, and never raw to stdout."""
    port = take_port()
    expected = one_event(Actor(port=port, comm=HOSTILE_NAMES[name]))
    assert HOSTILE_NAMES[name].decode("utf-8", "backslashreplace") == expected["comm"]
    assert [known(expected, run.backend)] == run.observed(port)
    assert run.tracer.stdout.replace("\n", "").isprintable()


def test_sleeping_servers_are_seen(run: Run) -> None:
    """Accepts that were asleep before the trace began are seen, each in its own thread."""
    tids = run.sleepers.wake()
    events = run.observed(run.sleepers.port)
    assert sorted(tids) == sorted(event["tid"] for event in events)
    assert {run.sleepers.pid} == {event["pid"] for event in events}


def test_other_protocols_are_not_shown(run: Run, tmp_path: Path) -> None:
    """Unix sockets and UDP give no event."""
    worker = Worker(lambda: accept_what_is_not_tcp(tmp_path))
    worker.run()
    assert [] == observed(run.tracer, pid=worker.pid)


@pytest.mark.parametrize("client", ["MPTCP", "TCP"])
@pytest.mark.parametrize("address", [V4, V6])
def test_mptcp_is_shown_once_as_tcp(run: Run, client: str, address: str) -> None:
    """An MPTCP server's accepts are shown like TCP's, whatever the client speaks."""
    port = take_port()
    try:
        expected = accept_once(
            address, port=port, protocol=MPTCP, client_protocol=MPTCP if client == "MPTCP" else 0
        )
    except OSError as error:
        not_offered(f"this kernel has no MPTCP sockets: {error}")
    assert [known(expected, run.backend)] == run.observed(port)


def test_burst_loses_nothing_and_keeps_order(run: Run) -> None:
    """Of 10,000 accepts at full speed every one is shown once, in order."""
    port = take_port()
    rports = Worker(lambda: burst(port, BURST)).run()
    events = run.tracer.wait_for(BURST, lport=port, netns=namespace_id("net"))
    assert rports == [event["rport"] for event in events]
    times = [event["ts_ns"] for event in events]
    assert sorted(times) == times


def test_time_stamps_are_monotonic_and_wall_clock(run: Run) -> None:
    """ts_ns lies between two readings of the clock around the accept; time is the wall clock's."""
    before, wall = time.monotonic_ns(), time.time()
    port = accept_once()["lport"]
    after = time.monotonic_ns()
    event = run.tracer.wait_for(lport=port, netns=namespace_id("net"))[0]
    assert before <= event["ts_ns"] <= after
    shown = time.strptime(event["time"][:19], "%Y-%m-%dT%H:%M:%S")
    assert abs(time.mktime(shown) - time.timezone - wall) < 5


@pytest.fixture
def uring(backend: Backend) -> Iterator[Uring]:
    """An io_uring."""
    if backend == "tracepoint" and not (FROM_BTF and headers.tells_of_uring()):
        not_offered("accepts through io_uring with this kernel's tracepoints")
    try:
        ring = Uring()
    except OSError as error:
        not_offered(f"io_uring: {error.strerror}")
    yield ring
    ring.close()


def test_accept_through_io_uring_is_shown(run: Run, uring: Uring) -> None:
    """A request that accepts one connection is shown as a call is."""
    port = take_port()
    with listen(V4, port) as server, connect(server) as client:
        event = expected(client)
        uring.begin(Uring.ACCEPT, server.fileno())
        os.close(uring.result())
    assert [known(event, run.backend)] == run.observed(port)


def test_request_of_io_uring_that_goes_on_is_shown(
    backend: Backend, netns: str, uring: Uring
) -> None:
    """One that accepts again and again is known, though it is older than the trace."""
    with listen(V4, take_port()) as server:
        uring.begin(Uring.ACCEPT, server.fileno(), how=Uring.MULTISHOT)
        with Tracer("--json", "--backend", backend, "-N", netns) as tracer:
            events = []
            for _ in range(2):
                with connect(server) as client:
                    taken = uring.result()
                    if taken < 0:
                        not_offered("requests of io_uring that accept again and again")
                    events.append(known(expected(client), backend))
                    os.close(taken)
            actual = tracer.wait_for(2, lport=port_of(server))
            ended_well(tracer)
    assert events == [
        {key: value for key, value in plain(event).items() if key != "backend"} for event in actual
    ]


FAILURES: dict[str, Callable[[int], list[Event]]] = {
    "no descriptor left": accept_without_descriptors,
    "not a listener": accept_where_nobody_listens,
    "a connection": accept_on_a_connection,
    "EAGAIN is no failure": lambda port: [accept_nonblocking(port)],
}


@pytest.mark.parametrize("case", FAILURES)
def test_failed_accepts_are_shown(run_failed: Run, case: str) -> None:
    """With --failed, an accept that failed is shown with its error and the listener's address."""
    port = take_port()
    expected = FAILURES[case](port)
    assert expected == run_failed.observed(port)


def test_failed_accepts_are_not_shown_unasked(run: Run) -> None:
    """Without --failed, only the accept that succeeds is shown."""
    port = take_port()
    _, expected = accept_without_descriptors(port)
    assert [known(expected, run.backend)] == run.observed(port)


def test_failed_keeps_sleeping_servers(run_failed: Run) -> None:
    """A server that was asleep before the trace began is seen with --failed too."""
    tids = run_failed.sleepers.wake()
    assert tids == [event["tid"] for event in run_failed.observed(run_failed.sleepers.port)]


def test_listener_closed_under_a_sleeping_accept(run_failed: Run) -> None:
    """An accept that a shutdown of its listener ends is a failure: EINVAL."""
    sleepers = Sleepers(1)
    sleepers.shut_down()
    events = run_failed.observed(sleepers.port)
    assert [(sleepers.pid, "EINVAL")] == [(event["pid"], event["error"]) for event in events]
