"""`tcptrace top --listen`: who listens, on lists of events and sockets."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.records import to_json
from tests.unit.test_schema import VALIDATOR
from tests.unit.test_top import HOST, NETNS, SECOND, accepted, connected, listed
from tests.unit.test_top_command import FakeSampler, trace

from tcptrace.kernel.sampler import Sample
from tcptrace.kernel.sock_diag import Socket
from tcptrace.kernel.sockets import Process
from tcptrace.top import listeners
from tcptrace.top.listeners import COLUMNS, MORE_COLUMNS, Listener

NGINX, OTHER = Process(7, b"nginx", 1, ()), Process(8, b"web", 1, ())


def listening(inode: int, **changes: Any) -> Socket:
    """Return a socket that listens on port 80."""
    socket = listed(0, 0, lport=80, raddr="0.0.0.0", rport=0)
    return socket._replace(inode=inode, **{"queue_max": 128, **changes})


def sample(*sockets: Socket) -> Sample:
    """Return a list of listeners: nginx's, and one of another process."""
    both = [(NETNS, sock) for sock in sockets]
    return Sample(0, 0, both, holders={1: NGINX, 2: OTHER})


def tables(
    monkeypatch: pytest.MonkeyPatch,
    batches: list[tuple[float, list[Any]]],
    *answers: Sample,
    keeps: Any = lambda _: True,
) -> list[list[Listener]]:
    """Return the rows of each interval of a second."""
    monkeypatch.setattr(FakeSampler, "answers", answers)
    traced = trace(*batches)
    traced.filters = SimpleNamespace(values={}, predicate=lambda: keeps)
    return [table.rows for table in listeners.tables(traced, 1.0, FakeSampler())]


def test_accepts_queue_and_drops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each interval has its own, and what was before the start is not in it."""
    batches = [
        (0.5, [accepted(), connected()]),
        (1.0, [accepted()]),
        (1.5, []),
        (2.0, [accepted()]),
    ]
    lists = (
        sample(listening(1, drops=100)),
        sample(listening(1, drops=103, queue=5)),
        sample(listening(1, drops=104)),
    )
    (first,), (last,) = tables(monkeypatch, batches, *lists)
    assert ("nginx", 7, HOST, 80) == (first.comm, first.pid, first.laddr, first.lport)
    assert (2, 5, 128, 3, 1.0) == (
        first.accepts,
        first.backlog,
        first.backlog_max,
        first.drops,
        first.interval_s,
    )
    assert (1, 0, 1, 3, 4) == (
        last.accepts,
        last.backlog,
        last.drops,
        last.run_accepts,
        last.run_drops,
    )


@pytest.mark.parametrize(
    ("sockets", "expected"),
    [
        ((listening(1), listening(2, laddr="0.0.0.0")), [1, 1]),
        ((listening(1, laddr="::"), listening(2, laddr="::", lport=81)), [2, 0]),
        ((listening(1), listening(2)), [1, 1]),
        ((listening(3), listening(4)), [2, 0]),
    ],
    ids=["one address and any", "any address", "shared by processes", "of nobody"],
)
def test_whose_accepts(
    monkeypatch: pytest.MonkeyPatch, sockets: tuple[Socket, ...], expected: list[int]
) -> None:
    """They are told apart by address and port, then by process; each counts once."""
    other = sockets[1].laddr == "0.0.0.0"
    events = [accepted(), accepted(pid=8, laddr="192.0.2.9" if other else HOST)]
    batches: list[tuple[float, list[Any]]] = [(0.5, []), (1.5, events)]
    (rows,) = tables(monkeypatch, batches, sample(*sockets), sample(*sockets))
    assert expected == [row.accepts for row in rows]


def test_filters_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener of another process is left out."""
    sockets = sample(listening(1), listening(2, lport=81))
    batches: list[tuple[float, list[Any]]] = [(0.5, []), (1.5, [])]
    (rows,) = tables(monkeypatch, batches, sockets, sockets, keeps=lambda row: row.pid == 8)
    assert [81] == [row.lport for row in rows]


def test_worst_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that drop come before those that are nearly full, and both are marked."""
    before = sample(*(listening(n, lport=80 + n) for n in range(4)))
    after = sample(
        listening(0, lport=80),
        listening(1, lport=81, queue=5),
        listening(2, lport=82, queue=127),
        listening(3, lport=83, drops=1),
    )
    (rows,) = tables(monkeypatch, [(0.5, []), (1.5, [])], before, after)
    assert [83, 82, 81, 80] == [row.lport for row in rows]
    marks = [[column.concern(row) for column in COLUMNS if column.concern(row)] for row in rows]
    assert [["failure"], ["slow"], [], []] == marks


def test_rows_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their JSON is as schema.json says, and each column says what it means."""
    batches: list[tuple[float, list[Any]]] = [(0.5, []), (1.0, [accepted()]), (2.0, [])]
    lists = sample(listening(1), listening(9, lport=81))
    (rows,) = tables(monkeypatch, batches, lists, lists)
    for row in rows:
        VALIDATOR.validate(json.loads(json.dumps(to_json(row, "tracepoint"))))
        assert [] == [column.key for column in (*COLUMNS, *MORE_COLUMNS) if not column.meaning]
    assert SECOND == rows[0].ts_ns // 2
