"""Beside bcc's and libbpf-tools' tcptracer, on the same connections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

import pytest
from tests.kernel.connections import CASES, exchange
from tests.kernel.harness import Event, take_port
from tests.kernel.traffic import Sleepers
from tests.vm.peers import Company, Record, Row, bcc, company, libbpf_tools

KEYS = ("type", "pid", "comm", "family", "laddr", "raddr", "lport", "rport")
LETTERS = {"connect": "C", "accept": "A", "close": "X"}
Story = dict[str, str]
"""What was shown at the client's and at the server's end of a connection, such as CX and AX."""


@pytest.fixture(scope="module")
def sleepers() -> Iterator[Sleepers]:
    """A server that sleeps in accept before any tool has started."""
    with Sleepers(1) as sleepers:
        yield sleepers


def make() -> Event:
    """Make a connection; return the end that is its client's."""
    return exchange()(take_port())[0]


@pytest.fixture(scope="module")
def beside(sleepers: Sleepers) -> Iterator[Company]:
    """All three tools."""
    tools = [tool("tcptracer", *KEYS, heading="T ") for tool in (bcc, libbpf_tools)]
    with company("tracer", *tools, make=make) as found:
        yield found


def test_armed_before_bcc(beside: Company, record_property: Record) -> None:
    """The probes are attached in half the time that bcc's tool needs, or less."""
    beside.record("tracer", record_property)
    assert beside.is_early


def story(rows: Iterable[Row], port: int, known: Iterable[Event]) -> Story:
    """Return the letters of the rows of each end, in alphabetical order.

    One that is none of those in `known` at this port, with the same process and version of IP, ends
    in an exclamation mark.
    """
    ours = {
        (LETTERS[event["type"]], event.get("pid"), event["family"])
        for event in known
        if port in (event["lport"], event["rport"])
    }
    letters = defaultdict(list)
    for row in rows:
        if port in (row["lport"], row["rport"]):
            letter = LETTERS.get(str(row["type"]), str(row["type"]))
            mark = "" if (letter, row.get("pid"), row["family"]) in ours else "!"
            letters["server" if row["lport"] == port else "client"].append(f"{letter}{mark}")
    return {end: "".join(sorted(found)) for end, found in letters.items()}


def stories(beside: Company, port: int) -> dict[str, Story]:
    """Return what each tool shows of a server's port."""
    beside.catch_up(make)
    known = beside.ours.events
    rows = {"tcptrace": known, **{name: peer.rows() for name, peer in beside.peers.items()}}
    return {name: story(found, port, known) for name, found in rows.items()}


def same(story: Story) -> dict[str, Story]:
    """Return the story of both peers, where it is the same."""
    return dict.fromkeys(("bcc", "libbpf-tools"), story)


# Where a peer's story is another one.
DIFFERENT: dict[str, dict[str, Story]] = {
    "IPv4-mapped": same({"client": "X!", "server": "A!X!"}),
    "IPv4-mapped on a dual-stack server": same({"client": "CX", "server": "A!X!"}),
    "refused": same({"client": "X!"}),
    "used again": same({"client": "CCX", "server": "AAXX"}),
    "reset before the accept": same({"client": "CX", "server": "X"}),
    "MPTCP": same({"client": "C", "server": "A"}),
    "MPTCP on two paths": same({"client": "CC!", "server": "A"}),
}


@pytest.mark.parametrize("case", CASES)
def test_connection(beside: Company, case: str) -> None:
    """The peers show what we show, and the same processes, but for what is listed above."""
    port = take_port()
    CASES[case](port)
    shown = stories(beside, port)
    ours = shown.pop("tcptrace")
    assert {name: DIFFERENT.get(case, {}).get(name, ours) for name in shown} == shown


def test_the_peers_miss_an_accept_that_slept(beside: Company, sleepers: Sleepers) -> None:
    """The first connection to a server that slept in accept is accepted for us alone."""
    sleepers.wake()
    shown = stories(beside, sleepers.port)
    assert "AX" == shown.pop("tcptrace")["server"]
    assert {"X"} == {story["server"] for story in shown.values()}
