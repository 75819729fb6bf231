"""`tcptrace tracer` on real connections, with every backend that this kernel has."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from tests.kernel.backends import not_offered
from tests.kernel.connections import (
    CASES,
    UNIT,
    Run,
    closed,
    collected,
    ends,
    in_order,
    pair,
    receive,
    seen,
    timeless,
    unless_sent_again,
    until_closed,
)
from tests.kernel.harness import Worker, take_port
from tests.kernel.test_connect import CGROUP_INET_EGRESS, CGROUP_SKB, denying
from tests.kernel.tracers import Tracer, ended_well
from tests.kernel.traffic import (
    MPTCP,
    TCP_FASTOPEN_CONNECT,
    V4,
    fast_open_at_once,
    known,
    listen,
    namespace_id,
    need_mptcp,
    segments_sent_again,
    task_fields,
)

from tcptrace.probes.probe import Backend
from tcptrace.probes.tracer.probe import TRACER

pytestmark = pytest.mark.command("tracer")


@pytest.mark.parametrize("case", CASES)
def test_connection_is_shown_once_from_beginning_to_end(
    run: Run, backend: Backend, case: str
) -> None:
    """A connection gives one event for each thing that happens to it, and all fields are right."""
    port, before = take_port(), segments_sent_again()
    expected = CASES[case](port)
    actual = seen(run.tracer, port, len(expected))
    expected = unless_sent_again(expected, before)
    expected = in_order([known(event, backend, TRACER) for event in expected])
    shown = in_order([timeless(event) for event in actual])
    assert expected == shown, shown  # which pytest cuts otherwise
    assert {event["backend"] for event in actual} <= {backend}
    assert {event["netns"] for event in actual} <= {namespace_id("net")}


def test_a_kernel_thread_is_no_closer(run: Run, backend: Backend) -> None:
    """Where the kernel closes a socket that no process can reach, X names the owner."""
    port = take_port()
    expected = in_order([known(event, backend, TRACER) for event in collected(port)])
    actual = in_order([timeless(event) for event in seen(run.tracer, port, len(expected))])
    for event in actual:
        assert "owner" == event.pop("closer", "owner")
    assert expected == actual


def test_older_connections_are_shown_when_they_end(run: Run, backend: Backend) -> None:
    """What was open before the trace gives one X, with its closer where there is one."""
    expected = [known(event, backend, TRACER) for event in run.older.end()]
    ports = {(event["lport"], event["rport"]) for event in expected}
    for lport, rport in ports:
        run.tracer.wait_for(type="close", lport=lport, rport=rport)
    seen(run.tracer, 0)
    actual = [event for event in run.tracer.events if (event["lport"], event["rport"]) in ports]
    assert in_order(expected) == in_order([timeless(event) for event in actual])
    assert [None] * len(actual) == [event.get("duration_ms") for event in actual]
    assert [] == run.tracer.where(lport=run.older.orphan_port, rport=run.older.orphan_peer)


def test_older_mptcp_is_shown_when_it_ends(backend: Backend, netns: str) -> None:
    """Its subflows belong to the kernel when they end, but a process has closed the whole."""
    need_mptcp()
    if backend == "ftrace":
        not_offered("the state of a whole MPTCP connection with ftrace")
    port = take_port()
    near, far = pair(port, protocol=MPTCP)
    begins = [{**task_fields(), **ends(sock)} for sock in (near, far)]
    with Tracer("--json", "--backend", backend, "-N", netns, command="tracer") as tracer:
        near.close()
        until_closed(far)
        far.close()
        actual = seen(tracer, port, 2)
        ended_well(tracer)
    expected = [closed(begin, by) for begin, by in zip(begins, ("local", "remote"), strict=True)]
    assert in_order(expected) == in_order([timeless(event) for event in actual])


def test_payload_that_this_host_refuses_to_send_counts_once(
    run: Run, backend: Backend, cgroup: Path
) -> None:
    """What a firewall or a full queue drops here is sent as new; TX has it once."""
    if backend == "ftrace":
        not_offered("what was sent in spite of refusals with ftrace")
    port = take_port()

    def work() -> None:
        (cgroup / "cgroup.procs").write_text("0")
        near, far = pair(port)
        with denying(cgroup, CGROUP_SKB, CGROUP_INET_EGRESS):
            near.sendall(UNIT)
        receive(far, len(UNIT))
        near.close()
        until_closed(far)
        far.close()

    Worker(work).run()
    closes = [event for event in seen(run.tracer, port, 4) if event["type"] == "close"]
    size = len(UNIT)
    assert {(size, 0), (0, size)} == {(end["tx_bytes"], end["rx_bytes"]) for end in closes}


def test_times(run: Run) -> None:
    """A row's time is that of what it tells; latency and duration are between such times."""
    port = take_port()
    start = time.monotonic_ns()
    near, far = pair(port)
    between = time.monotonic_ns()
    near.close()
    until_closed(far)
    far.close()
    begin, taken, *ended = seen(run.tracer, port, 4)
    assert start <= begin["ts_ns"] <= taken["ts_ns"] <= between
    assert 0 < begin["latency_ms"] * 1e6 <= begin["ts_ns"] - start
    for event in ended:
        assert between <= event["ts_ns"]
        assert 0 < event["duration_ms"] * 1e6 <= event["ts_ns"] - start


def test_latency_runs_from_the_syn(run: Run) -> None:
    """Where the first write sends the SYN (TCP_FASTOPEN_CONNECT), latency runs from there."""
    port = take_port()
    with fast_open_at_once(), listen(V4, port) as listener, socket.socket() as near:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 5)
        near.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)
        near.connect((V4, port))
        before = time.monotonic_ns()
        near.sendall(UNIT)
        (begin,) = run.tracer.wait_for(type="connect", rport=port)
    assert 0 < begin["latency_ms"] * 1e6 <= begin["ts_ns"] - before
