"""Whether a hook can be used: it is tried as it will be, or nearly so."""

from __future__ import annotations

import errno

import pytest

from tcptrace.kernel import hooks, tracefs
from tcptrace.kernel.hooks import Hook, obstacle

TRACEPOINT = Hook("tracepoint", "syscalls:sys_enter_connect", "")


def test_a_tracepoint_that_may_not_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a container's seccomp profile refuses perf events, that is told before all else."""

    def refuse(_: bytes) -> int:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(tracefs, "tracepoint_id", lambda _: 7)
    monkeypatch.setattr(hooks, "perf_event_open", refuse)
    assert f"{TRACEPOINT}: not permitted (EPERM)" == obstacle(TRACEPOINT)
