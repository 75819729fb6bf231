"""`tcptrace tracer` where a link is slow, cut or busy: what is sent again, given up or reset."""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import re
import select
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from tests.kernel.connections import (
    ANY_FIGURES,
    OURS,
    TCP_SYN_RECV,
    THEIRS,
    UNIT,
    Run,
    closed,
    cut_link,
    mend_link,
    opened,
    receive,
    seen,
    tcp_state,
    timeless,
    until_closed,
)
from tests.kernel.harness import TIME_SCALE, Worker, children_of, eventually, limit, take_port
from tests.kernel.test_open_connections import Holder
from tests.kernel.tracers import Tracer, ended_well
from tests.kernel.traffic import (
    V4,
    connect,
    in_namespace,
    known,
    listen,
    reset,
    segments_sent_again,
)

from tcptrace.kernel.netns import NAMED, enter
from tcptrace.probes.probe import Backend
from tcptrace.probes.tracer.probe import TRACER

pytestmark = pytest.mark.command("tracer")

BURST = int(20_000 / min(TIME_SCALE, 10))
RESETS = int(10_000 / min(TIME_SCALE, 10))


def socket_in(namespace: str) -> socket.socket:
    """Return a socket of a network namespace, bound to `THEIRS`."""
    sock = in_namespace(namespace, socket.socket)
    sock.bind((THEIRS, take_port()))
    return sock


def pair_over_link(namespace: str) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection by this thread to `THEIRS`; that there is not traced."""
    with socket_in(namespace) as listener:
        listener.listen()
        return socket.create_connection(listener.getsockname()), listener.accept()[0]


def test_payload_is_counted_once_however_often_it_is_sent(
    run: Run, backend: Backend, other_host: str
) -> None:
    """TX is what was handed over and RETR what the kernel counts, when segments are lost."""
    near, far = pair_over_link(other_host)
    begin = opened(near)
    near.sendall(UNIT * 2)
    before = segments_sent_again()
    cut_link()
    near.sendall(UNIT * 3)
    eventually(lambda: segments_sent_again() > before + 1, "segments sent again")
    mend_link()
    near.shutdown(socket.SHUT_WR)
    receive(far, 5 * len(UNIT))
    until_closed(far)
    far.close()
    until_closed(near)
    near.close()
    again = segments_sent_again() - before
    expected = closed(begin, "local", tx=5 * len(UNIT), retransmits=again)
    events = [known(event, backend, TRACER) for event in (begin, expected)]
    assert events == [timeless(event) for event in seen(run.tracer, begin["rport"], 2)]


def test_both_ends_open(run: Run, backend: Backend, other_host: str) -> None:
    """Where both ends connect, and their SYNs cross, each socket has one C."""
    with socket_in(other_host) as far, socket.socket() as near:
        near.bind((OURS, take_port()))
        cut_link()
        for sock, peer in ((near, far), (far, near)):
            sock.settimeout(0)
            assert errno.EINPROGRESS == sock.connect_ex(peer.getsockname())
        eventually(lambda: TCP_SYN_RECV == tcp_state(near), "the peer's SYN")
        mend_link()
        select.select([], [near], [], limit(10))
        begin = opened(near)
        near.settimeout(limit(10))
        near.shutdown(socket.SHUT_WR)
        far.settimeout(limit(10))
        until_closed(far)
        far.close()
        until_closed(near)
    expected = (begin, closed(begin, "local", retransmits=ANY))
    events = [known(event, backend, TRACER) for event in expected]
    assert events == [timeless(event) for event in seen(run.tracer, begin["rport"], 2)]


def keep_alive(sock: socket.socket) -> None:
    """Probe an idle peer after a second, and wait for its answer as long."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
        sock.setsockopt(socket.IPPROTO_TCP, option, 1)


def send_in_vain(sock: socket.socket) -> None:
    """Send, and give the peer a tenth of a second to confirm it."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
    sock.sendall(UNIT)


@pytest.mark.parametrize("end", [keep_alive, send_in_vain])
def test_the_kernel_gives_a_silent_peer_up(
    run: Run, backend: Backend, other_host: str, end: Callable[[socket.socket], None]
) -> None:
    """The connection ends with its owner, and with the error ETIMEDOUT."""
    near, far = pair_over_link(other_host)
    begin = opened(near)
    cut_link()
    end(near)
    with pytest.raises(TimeoutError):
        near.recv(1)
    near.close()
    far.close()
    last = seen(run.tracer, begin["rport"], 2)[-1]
    expected = closed(begin, "local", error="ETIMEDOUT", closer="owner")
    figures = {key: last[key] for key in ANY_FIGURES}
    assert known({**expected, **figures}, backend, TRACER) == timeless(last)


def bpftool(*words: str) -> Any:
    """Return what bpftool tells."""
    done = subprocess.run(["bpftool", "-j", *words], capture_output=True, check=True)
    return json.loads(done.stdout)


def entries_of(tracer: Tracer, name: str) -> int:
    """Return how many entries a tracer's BPF map has; others may have one of that name, too."""
    programs: set[int] = set()
    for pid in (tracer.pid, *children_of(tracer.pid)):
        for file in Path(f"/proc/{pid}/fdinfo").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                programs |= set(map(int, re.findall(r"prog_id:\t(\d+)", file.read_text())))
    used = {
        number
        for program in bpftool("prog")
        if program["id"] in programs
        for number in program.get("map_ids", ())
    }
    (found,) = (
        each["id"] for each in bpftool("map") if each["id"] in used and each["name"] == name
    )
    return len(bpftool("map", "dump", "id", str(found)))


def many(namespace: str, port: int, count: int) -> None:
    """Make connections and end them in several ways; each leaves no port in TIME_WAIT."""
    enter(NAMED / namespace)
    with listen(V4, port) as listener:
        listener.settimeout(limit(10))
        for number in range(count):
            near = connect(listener)
            if number % 4 == 0:  # reset before it is accepted
                reset(near)
                listener.accept()[0].close()
                continue
            far = listener.accept()[0]
            if number % 4 == 1:
                far.close()
            reset(near)
            far.close()


def test_nothing_is_left_of_connections_that_have_ended(backend: Backend, other_host: str) -> None:
    """Of tens of thousands of connections each is shown, and none remains in the map."""
    port = take_port()
    arguments = ("--json", "--backend", backend, "-N", other_host, "--buffer-mb", "32")
    with Tracer(*arguments, command="tracer") as tracer:
        Worker(lambda: many(other_host, port, BURST)).run()
        last = Holder(take_port(), 1, namespace=other_host)
        assert backend == "ftrace" or 2 == entries_of(tracer, "connections")
        last.end()
        assert backend == "ftrace" or 0 == entries_of(tracer, "connections")
        tracer.wait_for_rows(4 * (BURST + 1))
        ended = ended_well(tracer)
    events = [event for event in tracer.events if port in (event["lport"], event["rport"])]
    kinds = collections.Counter((event["type"], event["lport"] == port) for event in events)
    whole = {("connect", False), ("accept", True), ("close", False), ("close", True)}
    assert dict.fromkeys(whole, BURST) == kinds
    assert 4 * (BURST + 1) == ended.summary[0]


def accept_all(server: socket.socket, count: int, room: threading.Semaphore) -> None:
    """Accept so many connections and close them at once."""
    for _ in range(count):
        server.accept()[0].close()
        room.release()


def resets(namespace: str, port: int, accepted: int, unaccepted: int) -> None:
    """Make connections that are reset at once, while a server accepts, and others that wait.

    The queue never fills up: the kernel would forget a connection that is reset before it has room.
    """
    enter(NAMED / namespace)
    room = threading.Semaphore(100)
    with listen(V4, port) as server:
        server.listen(128)
        acceptor = threading.Thread(target=accept_all, args=(server, accepted, room))
        acceptor.start()
        for _ in range(accepted):
            room.acquire()
            reset(connect(server))
        acceptor.join()
        for _ in range(unaccepted):
            reset(connect(server))


def test_reset_while_it_is_accepted(backend: Backend, other_host: str) -> None:
    """However close a reset comes to the accept, A and X are there; in the queue, neither is."""
    unaccepted = 5
    arguments = ("--json", "--backend", backend, "-N", other_host, "--buffer-mb", "32")
    with Tracer(*arguments, command="tracer") as tracer:
        Worker(lambda: resets(other_host, take_port(), RESETS, unaccepted)).run()
        if backend != "ftrace":
            eventually(
                lambda: (
                    entries_of(tracer, "connections") + entries_of(tracer, "undecided") == 0
                    or tracer.has_lost()
                ),
                "empty tables",
            )
        tracer.wait_for_rows(4 * RESETS + 2 * unaccepted)
        ended_well(tracer)
    kinds = collections.Counter(event["type"] for event in tracer.events)
    whole = {"connect": RESETS + unaccepted, "accept": RESETS, "close": 2 * RESETS + unaccepted}
    assert whole == kinds
