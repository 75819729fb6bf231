"""What the kernel tests stand on."""

from __future__ import annotations

import os
import sys

import pytest
from tests.kernel import harness, tracers

pytestmark = pytest.mark.anywhere

DEAF = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("Tracing nothing.", file=sys.stderr, flush=True)
def stand_still():
    time.sleep(600)
stand_still()
"""


def test_runs_side_by_side_take_ports_of_their_own() -> None:
    """A range is another's for as long as its holder is open; then it can be had again."""
    name = f"tcptrace-test-of-ranges-{os.getpid()}"
    first, holder = harness.take_range(name)
    other, others = harness.take_range(name)
    os.close(holder)
    again, holder = harness.take_range(name)
    os.close(holder)
    os.close(others)
    assert (harness.RANGE, 0) == (other - first, again - first)


def test_a_tracer_that_does_not_end_is_found_where_it_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The failure tells of its threads in the kernel, and where it is in Python."""
    with tracers.Tracer(program=(sys.executable, "-c", DEAF)) as tracer:
        monkeypatch.setattr(tracers, "limit", lambda seconds: seconds / 100)
        with pytest.raises(pytest.fail.Exception, match="does not end") as failure:
            tracer.stop()
    assert f"process {tracer.pid}, thread {tracer.pid}, S" in str(failure.value)
    assert "in stand_still" in str(failure.value)
