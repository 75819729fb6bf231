"""Beside bcc's and libbpf-tools' tcpconnect, on the same attempts."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

import pytest
from tests.kernel import resolvers
from tests.kernel.harness import Event, Worker, take_port
from tests.kernel.test_connect import (
    CASES,
    attempt,
    denying,
    failure,
    links,  # noqa: F401 - a fixture
)
from tests.kernel.test_dns import CLIENTS
from tests.kernel.tracers import Tracer
from tests.kernel.traffic import NOWHERE, V4, V6, cast, namespace_id
from tests.vm.peers import Company, Peer, Record, actors, bcc, company, libbpf_tools, wait

BCC_KEYS = ("uid", "pid", "comm", "family", "laddr", "lport", "raddr", "rport")
LIBBPF_KEYS = ("uid", "pid", "comm", "family", "laddr", "raddr", "lport", "rport")
COUNT_KEYS = ("laddr", "raddr", "rport", "connects")
# The ways to ask of which bcc's -d sees the answer: over IPv4 on a connected socket into one buffer
# of an iovec, which read(2) has not, and over IPv6.
NAMED_BY_BCC = {"recv", "recvmmsg", "peek", "glibc", "ipv6_server", "glibc_ipv6"}
KERNELS_WORKER = "kworker/"
TABLE_SIZE = 10_240  # of bcc's table of calls


def to_nobody() -> Event:
    """Connect where nobody listens, which all show."""
    return attempt(V4, take_port())


@pytest.fixture(scope="module")
def beside() -> Iterator[Company]:
    """All three tools."""
    tools = (
        bcc("tcpconnect", *BCC_KEYS, options=("-U", "-L"), heading="UID "),
        libbpf_tools("tcpconnect", *LIBBPF_KEYS, options=("-U", "-s"), heading="UID "),
    )
    with company("connect", *tools, make=to_nobody) as found:
        yield found


def test_armed_before_bcc(beside: Company, record_property: Record) -> None:
    """The probes are attached in half the time that bcc's tool needs, or less."""
    beside.record("connect", record_property)
    assert beside.is_early


def check(beside: Company, event: Event) -> None:
    """Hold that all show an attempt, the peers only when it has left the host.

    They show the path that the kernel adds to a connection of MPTCP, too, as one of its worker's.
    """
    beside.catch_up(to_nobody)
    ours = beside.ours.where(rport=event["rport"], netns=event["netns"])
    for peer in beside.peers.values():
        row = peer.tool.row_of(event)
        assert [row] == [peer.tool.row_of(row) for row in ours]
        rows = [
            row
            for row in peer.rows(rport=event["rport"])
            if not str(row["comm"]).startswith(KERNELS_WORKER)
        ]
        assert ([] if event["error"] else [row]) == rows


@pytest.mark.parametrize("case", CASES)
def test_attempt(beside: Company, case: str) -> None:
    """The peers show what leaves the host as we do, and nothing of what fails inside it."""
    check(beside, CASES[case](take_port()))


def test_denied_attempt(beside: Company, cgroup: Path) -> None:
    """An attempt that a cgroup's BPF program denies is shown by ours alone."""
    port = take_port()

    def connect() -> Event:
        (cgroup / "cgroup.procs").write_text("0")
        return failure(V4, port, "EPERM")

    with denying(cgroup):
        check(beside, Worker(connect).run())


@pytest.mark.parametrize("actor", actors())
def test_process(beside: Company, actor: str) -> None:
    """All name the process in the same way, whoever and wherever it is."""
    (worker,) = cast({actor: actors()[actor]}).values()
    accepted = worker.run()
    ends = {"laddr": "raddr", "lport": "rport", "raddr": "laddr", "rport": "lport"}
    swapped = {mine: accepted[its] for mine, its in ends.items()}
    check(beside, {**accepted, **swapped, "error": None})


def counts(peer: Peer) -> Counter[tuple[object, ...]]:
    """End a tool that counts; return how often it counted which ends."""
    return Counter({tuple(row.values())[:3]: int(str(row["connects"])) for row in peer.interrupt()})


def test_counts() -> None:
    """The peers count what we count, less what fails inside the host."""
    port = take_port()
    ends = {(V4, V4, port): 3, (V6, V6, port): 2, ("-", NOWHERE, port): 1}
    tools = (
        bcc("tcpconnect", *COUNT_KEYS, options=("-c",), heading="Tracing connect"),
        libbpf_tools("tcpconnect", *COUNT_KEYS, options=("-c",)),
    )
    with Tracer("--json", "-c", command="connect") as ours, Peer(tools[0]) as one:
        one.wait_until_armed()
        with Peer(tools[1]) as two:
            wait(lambda: two.links() == 4, "libbpf-tools' four probes")
            for _ in range(3):
                attempt(V4, port)
            for _ in range(2):
                attempt(V6, port)
            failure(NOWHERE, port, "ENETUNREACH")
            ours.stop()
            found = {
                (row.get("laddr", "-"), row["raddr"], row["rport"]): row["connects"]
                for row in ours.where(rport=port)
            }
            assert ends == found
            del ends["-", NOWHERE, port]
            assert ends == counts(one) == counts(two)


@pytest.fixture(scope="module")
def named() -> Iterator[Company]:
    """Ours and bcc's with names, bcc's for IPv4 only, and a DNS server."""
    keys = ("pid", "comm", "family", "laddr", "lport", "raddr", "rport", "query")
    tool = bcc("tcpconnect", *keys, options=("-d", "-L", "-4"))
    with (
        resolvers.dnsmasq(),
        company("connect", tool, make=to_nobody, options=("-d",)) as found,
    ):
        yield found


@pytest.mark.parametrize("client", CLIENTS)
def test_names(named: Company, client: str) -> None:
    """We name an attempt however the process asked, bcc not, or by an older answer."""
    name, port = f"{client.replace('_', '-')}.web.test", take_port()
    Worker(lambda: CLIENTS[client](name)).run()
    named.catch_up(to_nobody)
    attempt(resolvers.WEB, port)
    named.catch_up(to_nobody)
    (ours,) = named.ours.where(rport=port, netns=namespace_id("net"))
    (row,) = named.peers["bcc"].rows(rport=port)
    assert name == ours["query"]
    assert (client in NAMED_BY_BCC) == (str(row["query"]).split(" ")[0] == name)


def connect_in_thread(family: int, address: str, port: int) -> None:
    """Connect where nobody listens, in a new thread."""

    def connect() -> None:
        with socket.socket(family) as client:
            client.connect_ex((address, port))

    thread = Thread(target=connect)
    thread.start()
    thread.join()


def test_bcc_goes_blind(named: Company) -> None:
    """With -4, each thread that connects over IPv6 takes one of bcc's entries for good."""
    lost, kept = take_port(), take_port()
    with ThreadPoolExecutor(1) as known:
        known.submit(attempt, V6, lost).result()
        for _ in range(TABLE_SIZE):
            connect_in_thread(socket.AF_INET6, V6, lost)
        connect_in_thread(socket.AF_INET, V4, lost)
        known.submit(attempt, V4, kept).result()
    peer = named.peers["bcc"]
    wait(lambda: bool(peer.rows(rport=kept)), "the thread that has an entry")
    named.ours.wait_for(rport=lost, family=4)
    assert [] == peer.rows(rport=lost)
