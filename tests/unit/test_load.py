"""Loading: which hooks share a program, and what becomes of failures. No kernel is asked."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from tcptrace.kernel.hooks import Hook, with_stand_in
from tcptrace.probes.probe import Variant
from tcptrace.sources.bpf import load
from tcptrace.sources.bpf.load import Surroundings, attach_variant
from tcptrace.sources.bpf.programs import Programs
from tcptrace.sources.plan import Shape

SHAPE = Shape("probe", "", (), {}, {"events": 4096}, {})
AROUND = Surroundings({}, 1)


class Kernel:
    """A kernel that takes everything but what it is told to refuse."""

    def __init__(self, refused: str = "") -> None:
        """Have nothing loaded."""
        self.loaded: list[Hook] = []
        self.attached: list[tuple[Hook, int]] = []
        self.open: set[int] = set()
        self._refused = refused
        self._lock = threading.Lock()

    def load(self, hook: Hook, _code: bytes) -> int:
        """Load a program."""
        if hook.program == self._refused:
            raise OSError(errno.EACCES, "refused")
        with self._lock:
            self.loaded.append(hook)
            descriptor = os.open("/dev/null", os.O_RDONLY)
            self.open.add(descriptor)
            return descriptor

    def attach(self, hook: Hook, program: int) -> int:
        """Attach a program."""
        self.attached.append((hook, program))
        return os.open("/dev/null", os.O_RDONLY)


def attached(monkeypatch: pytest.MonkeyPatch, hooks: tuple[Hook, ...], *, size: int = 8) -> Kernel:
    """Attach hooks whose programs have this size in bytes."""
    kernel = Kernel()
    monkeypatch.setattr(load, "_load", kernel.load)
    monkeypatch.setattr(load, "attach", kernel.attach)
    programs = Programs((), {hook.program: bytes(size) for hook in hooks})
    try:
        attach_variant(programs, SHAPE, Variant("tracepoint", hooks), AROUND)
    finally:
        for _, program in kernel.attached:
            if program in kernel.open:
                kernel.open.discard(program)
                os.close(program)
    return kernel


def test_perf_events_share_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function on several tracepoints is loaded once, and attached to each."""
    hooks = tuple(Hook("tracepoint", f"syscalls:{name}", "receive") for name in "abc")
    kernel = attached(monkeypatch, hooks)
    assert 1 == len(kernel.loaded)
    assert [*hooks] == [hook for hook, _ in kernel.attached]
    assert 1 == len({program for _, program in kernel.attached})


def test_others_have_programs_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel skips the same program within itself: raw tracepoints and stand-ins share none."""
    hooks: tuple[Hook, ...] = with_stand_in("a", "state")
    hooks += (Hook("raw_tracepoint", "b", "state"),)
    kernel = attached(monkeypatch, hooks)
    assert [*hooks] == kernel.loaded
    hooks = (Hook("fentry", "f", "call"), Hook("fentry", "g", "call"))
    assert [*hooks] == attached(monkeypatch, hooks).loaded


@pytest.mark.parametrize("size", [8, load.SMALL_BYTES])
def test_order_stays(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Hooks are attached in their order, each with its program, however many load at a time."""
    hooks = tuple(Hook("raw_tracepoint", f"at_{number}", f"f{number}") for number in range(12))
    kernel = attached(monkeypatch, hooks, size=size)
    assert [*hooks] == [hook for hook, _ in kernel.attached]
    assert sorted(kernel.loaded, key=str) == sorted(hooks, key=str)
    assert len(hooks) == len({program for _, program in kernel.attached})


def test_the_largest_is_loaded_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verifier takes longest for it: it is not to be waited for when all others are done."""
    begun: list[int] = []
    monkeypatch.setattr(os, "cpu_count", lambda: 1)

    def loaded(_hook: Hook, code: bytes) -> int:
        begun.append(len(code))
        return len(code)

    monkeypatch.setattr(load, "_load", loaded)
    hook = Hook("raw_tracepoint", "at", "f")
    assert [8, 24, 16] == load._load_all([(hook, bytes(size)) for size in (8, 24, 16)])
    assert begun == [24, 16, 8]


@pytest.mark.parametrize("size", [8, load.SMALL_BYTES])
def test_a_program_that_is_refused_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """What was loaded before, or beside it, is let go."""
    closed: list[int] = []
    close = os.close
    hooks = tuple(Hook("raw_tracepoint", f"at_{number}", f"f{number}") for number in range(6))
    kernel = Kernel("f3")
    monkeypatch.setattr(load, "_load", kernel.load)

    def note_and_close(descriptor: int) -> None:
        closed.append(descriptor)
        close(descriptor)

    monkeypatch.setattr(os, "close", note_and_close)
    with pytest.raises(OSError, match="refused"):
        load._load_all([(hook, bytes(size)) for hook in hooks])
    assert kernel.open == {*closed}
