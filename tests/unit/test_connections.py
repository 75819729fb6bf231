"""Connections followed by samples of tracefs, without a kernel."""

from __future__ import annotations

import dataclasses
import errno
import socket
from collections.abc import Iterable
from typing import Any

import pytest

from tcptrace.probes.trace_points import Sample
from tcptrace.probes.tracer.connections import Connections, State

OWNER, CLOSER, STRANGER = 10, 11, 12
SOCK_DONE = 2


def sample(name: str = "state", *, pid: int = OWNER, at_ms: int = 0, **changes: Any) -> Sample:
    """Return a sample of one socket."""
    fields: dict[str, Any] = {
        "sk": 0xFFFF,
        "first_sk": 0,
        "protocol": 6,
        "family": socket.AF_INET,
        "netns": 1,
        "uid": 0,
        "comm": f"task-{pid}",
        "socket": 1,
        "owned": 0,
        "error": 0,
        "flags": 0,
        "laddr": 1,
        "raddr": 2,
        "laddr6": bytes(16),
        "raddr6": bytes(16),
        "is_mptcp": 0,
        "mptcp_sk": 0,
        "path_sk": 0,
        "lport": b"\x9c\x40",
        "rport": b"\x01\xbb",
        "bytes_sent": 70,
        "bytes_retrans": 20,
        "bytes_received": 31,
        "total_retrans": 1,
        "sent_ns": 0,
        "listener_protocol": 6,
        **changes,
    }
    return Sample(name, 1_000_000 * at_ms + 1, pid, pid, fields)


def move(before: State, after: State, **changes: Any) -> Sample:
    """Return the sample of a transition."""
    return sample(**{"from": before, "to": after, **changes})


def told(samples: Iterable[Sample], wanted: int | None = None) -> list[Any]:
    """Return the events that samples make, with a filter by process or without."""
    follow = Connections(lambda sample: wanted in {None, sample.pid}, lambda _: True)
    return [event for sample in samples for event in follow(sample)]


CONNECTING = move(State.CLOSE, State.SYN_SENT)
OPENED = move(State.SYN_SENT, State.ESTABLISHED, pid=STRANGER, at_ms=5)
FINISHED = move(State.ESTABLISHED, State.FIN_WAIT1, pid=CLOSER, at_ms=8, owned=1)
CLOSED = move(State.FIN_WAIT2, State.CLOSE, pid=STRANGER, at_ms=9, socket=0, flags=SOCK_DONE)


def test_a_connection_from_beginning_to_end() -> None:
    """C has the connecting task, X the closing one, whoever runs when the handshake ends."""
    begin, end = told([CONNECTING, OPENED, FINISHED, CLOSED])
    assert ("connect", OWNER, 5.0) == (begin.type, begin.pid, begin.latency_ms)
    assert ("close", CLOSER, "task-11", 4.0) == (end.type, end.pid, end.comm, end.duration_ms)
    assert (50, 30, 1) == (end.tx_bytes, end.rx_bytes, end.retransmits)
    assert ("local", None, None) == (end.ended_by, end.error, end.closer)


def test_latency_runs_from_the_syn() -> None:
    """The SYN can leave long after SYN_SENT, at the first write (TCP_FASTOPEN_CONNECT)."""
    sent = {**OPENED.fields, "total_retrans": 0, "sent_ns": 4_000_001}
    (begin,) = told([CONNECTING, dataclasses.replace(OPENED, fields=sent)])
    assert 1.0 == begin.latency_ms


def test_an_accepted_connection() -> None:
    """A has the accepting task; the connection is as old as the handshake."""
    queued = move(State.SYN_RECV, State.ESTABLISHED, pid=STRANGER)
    accept = sample("accept", at_ms=1, **{"from": State.ESTABLISHED})
    cut_off = move(
        State.ESTABLISHED, State.CLOSE, pid=STRANGER, at_ms=3, error=errno.ECONNRESET, owned=0
    )
    begin, end = told([queued, accept, cut_off])
    assert ("accept", OWNER) == (begin.type, begin.pid)
    assert (OWNER, "owner", 3.0) == (end.pid, end.closer, end.duration_ms)
    assert ("reset", "ECONNRESET") == (end.ended_by, end.error)


def test_what_was_reset_before_it_was_accepted_ends_at_once() -> None:
    """Its A and X come together."""
    accept = sample("accept", error=errno.ECONNRESET, **{"from": State.CLOSE})
    assert ["accept", "close"] == [event.type for event in told([accept])]


def test_an_older_connection_that_was_half_closed_has_an_end() -> None:
    """It is closed when no process has it any more, within the call that lets go of it."""
    (end,) = told([move(State.FIN_WAIT2, State.CLOSE, socket=0, owned=1)])
    assert ("local", None, True) == (end.ended_by, end.pid, end.older)


def test_an_older_connection_has_its_closer() -> None:
    """What began before the trace gives an X without a duration."""
    (end,) = told([FINISHED, CLOSED])
    assert (CLOSER, None, True) == (end.pid, end.duration_ms, end.older)


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        ([CONNECTING, move(State.SYN_SENT, State.CLOSE, error=errno.ECONNREFUSED)], "refused"),
        ([move(State.SYN_RECV, State.ESTABLISHED), CLOSED], "never accepted"),
        ([move(State.LAST_ACK, State.CLOSE, socket=0)], "an orphan, older than the trace"),
    ],
)
def test_what_no_process_had_is_not_shown(samples: list[Sample], why: str) -> None:
    """Without a connection that a process had, there is no row."""
    assert not told(samples), why


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(OWNER, ["connect", "close"]), (CLOSER, ["close"]), (STRANGER, [])],
)
def test_filters_by_task(wanted: int, expected: list[str]) -> None:
    """The owner's connection is kept to its end, the closer's from then; no stranger counts."""
    events = told([CONNECTING, OPENED, FINISHED, CLOSED], wanted)
    assert expected == [event.type for event in events]


def test_a_port_that_is_not_wanted_is_forgotten() -> None:
    """A later connection at the same address in the kernel is not taken for this one."""
    ports = iter([False, True])
    follow = Connections(lambda _: True, lambda _: next(ports))
    queued = move(State.SYN_RECV, State.ESTABLISHED, pid=STRANGER)
    assert [] == [event for change in (CONNECTING, OPENED, queued) for event in follow(change)]


def test_a_process_closes_an_mptcp_connection() -> None:
    """The kernel closes the subflow later: its worker is not the closer."""
    close = sample("close", pid=CLOSER)
    (_, end) = told([CONNECTING, OPENED, close, CLOSED])
    assert (CLOSER, None) == (end.pid, end.closer)


def test_an_mptcp_connection_outlives_its_link_to_the_subflow() -> None:
    """When its subflow ends, an MPTCP connection may have no first one any more."""
    ended = dataclasses.replace(
        CLOSED, fields={**CLOSED.fields, "is_mptcp": 1, "mptcp_sk": 0xF000, "path_sk": 0}
    )
    assert ["connect", "close"] == [row.type for row in told([CONNECTING, OPENED, FINISHED, ended])]


def test_a_path_that_the_kernel_adds_is_no_connection() -> None:
    """A second subflow is of the MPTCP connection that its first stands for."""
    added = {"is_mptcp": 1, "mptcp_sk": 0xF000, "path_sk": 0xEEEE}
    samples = (CONNECTING, OPENED, FINISHED, CLOSED)
    assert not told(
        dataclasses.replace(sample, fields={**sample.fields, **added}) for sample in samples
    )
