"""Which rows of connections filters keep, in their order."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tcptrace.model.filters import Filters
from tcptrace.model.ranges import Ranges
from tcptrace.probes.tracer.kept import Kept

PID_181 = Filters({"pid": Ranges(((181, 181),), ())})


def row(kind: str, pid: int | None, lport: int = 40000) -> Any:
    """Return a row of a connection."""
    ends = {"netns": 1, "laddr": "a", "lport": lport, "raddr": "b", "rport": 443, "link": 0}
    return SimpleNamespace(type=kind, pid=pid, **ends)


def judged(*rows: Any) -> list[bool]:
    """Return the verdicts on rows."""
    return list(map(Kept(PID_181), rows))


def test_an_end_follows_its_beginning() -> None:
    """An X is kept whoever closed it, where the connection's C, A or O was."""
    for kind in ("connect", "accept", "open"):
        assert [True, True] == judged(row(kind, 181), row("close", 7))
        assert [False, False] == judged(row(kind, 7), row("close", None))


def test_an_end_is_kept_for_its_closer() -> None:
    """A process that closes what another opened is enough."""
    assert [False, True] == judged(row("connect", 7), row("close", 181))


def test_ends_that_are_used_again_are_another_connection() -> None:
    """What was kept of a connection says nothing of the next with the same ends."""
    first = [row("connect", 181), row("close", 181)]
    assert [True, True, False, False] == judged(*first, row("connect", 7), row("close", 7))
    assert [True, False, False] == judged(first[0], row("connect", 7), row("close", 7))
    assert [True, False] == judged(first[0], row("close", 7, lport=40001))
