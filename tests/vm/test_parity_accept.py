"""Beside bcc's tcpaccept, on the same connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.kernel.harness import Event, take_port
from tests.kernel.traffic import MPTCP, Sleepers, accept_once, accept_reset, cast
from tests.vm.peers import Company, Record, Row, actors, bcc, company

KEYS = ("pid", "comm", "family", "raddr", "rport", "laddr", "lport")
# How it shows a connection over IPv4 to a dual-stack server: ours is the IPv4 one.
MAPPED = {"family": 6, "laddr": "::ffff:127.0.0.1", "raddr": "::ffff:127.0.0.1"}


@pytest.fixture(scope="module")
def sleepers() -> Iterator[Sleepers]:
    """A server that sleeps in accept before any tool has started, and accepts then."""
    with Sleepers(1) as sleepers:
        yield sleepers


@pytest.fixture(scope="module")
def beside(sleepers: Sleepers) -> Iterator[Company]:
    """Both tools."""
    with company("accept", bcc("tcpaccept", *KEYS), make=accept_once) as found:
        sleepers.wake()
        yield found


def test_armed_before_bcc(beside: Company, record_property: Record) -> None:
    """The probes are attached in half the time that bcc's tool needs, or less."""
    beside.record("accept", record_property)
    assert beside.is_early


def test_the_same_connections(beside: Company) -> None:
    """Both tools show the same connections, in the order in which they were accepted."""
    workers = cast(actors())
    pids = {worker.pid for worker in workers.values()}
    events = {name: worker.run() for name, worker in workers.items()}
    beside.catch_up(accept_once)
    peer = beside.peers["bcc"]
    expected = {name: peer.tool.row_of(event) for name, event in events.items()}
    ours = [peer.tool.row_of(event) for event in beside.ours.events if event["pid"] in pids]
    assert list(expected.values()) == ours
    expected["mapped"] |= MAPPED
    assert list(expected.values()) == [row for row in peer.rows() if row["pid"] in pids]


def shown(beside: Company, event: Event) -> list[Row]:
    """Return what bcc shows of a connection that we have shown."""
    beside.catch_up(accept_once)
    ends = {key: event[key] for key in ("pid", "rport")}
    assert 1 == len(beside.ours.where(lport=event["lport"], **ends))
    return beside.peers["bcc"].rows(**ends)


def test_bcc_misses_an_accept_that_slept(beside: Company, sleepers: Sleepers) -> None:
    """A server that slept in accept before the trace is shown by ours alone."""
    beside.ours.wait_for(lport=sleepers.port)
    beside.catch_up(accept_once)
    assert [] == beside.peers["bcc"].rows(lport=sleepers.port)


def test_bcc_shows_no_port_of_a_reset_connection(beside: Company) -> None:
    """Where the client has reset the connection, bcc's LPORT is 0."""
    event = accept_reset(take_port())
    row = beside.peers["bcc"].tool.row_of(event)
    assert [row | {"lport": 0}] == shown(beside, event)


@pytest.mark.parametrize("client", [MPTCP, 0], ids=["MPTCP", "TCP"])
def test_mptcp(beside: Company, client: int) -> None:
    """A connection to an MPTCP server is shown by both, whatever the client speaks."""
    event = accept_once(protocol=MPTCP, client_protocol=client)
    assert [beside.peers["bcc"].tool.row_of(event)] == shown(beside, event)
