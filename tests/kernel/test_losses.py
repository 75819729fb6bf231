"""The kernel tells which probes it has skipped, and so does tcptrace.

Probes of the tests' own are at what the kernel calls while it works on another, and are skipped.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path

from tests.kernel.backends import need_backend, not_offered
from tests.kernel.harness import Worker
from tests.kernel.traffic import accept_once

from tcptrace.kernel import tracefs
from tcptrace.kernel.hooks import Hook, with_stand_in
from tcptrace.model.events import Event
from tcptrace.model.filters import Filters
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.probes.probe import Backend, Probe, Variant
from tcptrace.sources.attach import Attaching
from tcptrace.sources.plan import Plan

SOURCE = """
static __always_inline int call_back(void)
{
#ifdef HOOK_TRACEPOINT
	bpf_trace_printk("called");
#else
	char text[8];

	bpf_probe_read_user_str(text, sizeof(text), NULL);
#endif
	return 0;
}

int call(void *ctx)
{
	return call_back();
}

int be_called(void *ctx)
{
	return call_back();
}
"""
STAND_IN = """
struct seen_event {
	struct event head;
};

static __always_inline void see(u32 who)
{
	struct seen_event event = { .head.kind = KIND_SEEN, .head.uid = who };

	event.head.pid = bpf_get_current_pid_tgid() >> 32;
	emit(&event, sizeof(event));
}

int call(void *ctx)
{
	bpf_trace_printk("called");
	return 0;
}

int on_called(void *ctx)
{
	if (enter_program(CONNECT_STATE)) {
		see(STANDS_IN ? 2 : 1);
		if (!STANDS_IN)
			bpf_trace_printk("called while under way");
		leave_program(CONNECT_STATE);
	}
	return 0;
}
"""
READ = "strncpy_from_user_nofault"  # what bpf_probe_read_user_str calls
HOOKS: Mapping[Backend, tuple[Hook, ...]] = {
    "fentry": (Hook("fentry", "tcp_connect", "call"), Hook("fentry", READ, "be_called")),
    "kprobe": (Hook("kprobe", "tcp_connect", "call"), Hook("kprobe", READ, "be_called")),
    "tracepoint": (
        Hook("raw_tracepoint", "inet_sock_set_state", "call"),
        Hook("raw_tracepoint", "bpf_trace_printk", "be_called"),
    ),
}
COUNTS_ALL = (6, 7)
"""The first kernel that counts for all of them; older ones may not even end the recursion."""


@dataclasses.dataclass(slots=True)
class Seen(Event):
    """A call that was seen, by the program itself (uid 1) or its stand-in (uid 2)."""

    type = "seen"


def trace(source: Path, backend: Backend, hooks: tuple[Hook, ...]) -> tuple[Losses, list[int]]:
    """Make a connection under programs of our own; return losses, and who saw our calls."""
    variant = Variant(backend, hooks)
    probe = Probe("seen", source, (Seen,), (variant,), filters=frozenset(), columns=())

    def work() -> tuple[Losses, Losses, list[int]]:
        with closing(Attaching(Plan(probe, Filters(), backend=backend))) as attaching:
            session = attaching.session(lambda: False)
        assert session
        with closing(session):
            before = session.losses()
            accept_once()
            session.finish()
            events = chain.from_iterable(batch.events for batch in session.batches())
            seen_by = [event.uid or 0 for event in events if event.pid == os.getpid()]
            return before, session.losses(), seen_by

    before, after, seen_by = Worker(work).run()
    assert [*NOTHING_LOST] == before
    return Losses(*after), seen_by


def test_skipped_programs_are_counted(backend: Backend, tmp_path: Path) -> None:
    """A program that the kernel skips counts as lost, and not as one that found no room."""
    if backend not in HOOKS:
        not_offered("ftrace runs no programs")
    need_counts()
    source = tmp_path / "skipped.bpf.c"
    source.write_text(SOURCE)
    losses, _ = trace(source, backend, HOOKS[backend])
    assert losses.no_room == 0
    assert losses.skipped > 0


def test_stand_in_does_what_was_skipped(tmp_path: Path) -> None:
    """A skipped program's stand-in works, it alone, and then nothing counts as lost."""
    need_counts()
    source = tmp_path / "stand_in.bpf.c"
    source.write_text(STAND_IN)
    call = Hook("raw_tracepoint", "inet_sock_set_state", "call")
    hooks = (call, *with_stand_in("bpf_trace_printk", "on_called"))
    losses, seen_by = trace(source, "tracepoint", hooks)
    assert losses == NOTHING_LOST
    assert len(seen_by) > 1
    assert [1, 2] * (len(seen_by) // 2) == seen_by


def need_counts() -> None:
    """Skip the test on a kernel that does not count for all hooks."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < COUNTS_ALL:
        not_offered("a kernel that counts programs that it skips")


def test_missed_hits_in_tracefs_are_counted() -> None:
    """What probes in tracefs have missed is told apart from records that found no room."""
    need_backend("ftrace")
    with closing(tracefs.Instance(buffer_kb=64)) as instance:
        instance.define("call", "p", "tcp_connect", ["text=+0($arg1):ustring"])
        instance.define("be_called", "p", "strnlen_user_nofault", [])
        instance.open()
        for probe in instance.probes:
            instance.enable(probe)
        assert (0, 0) == (instance.dropped(), instance.missed())
        accept_once()
        assert instance.dropped() == 0
        assert instance.missed() > 0
