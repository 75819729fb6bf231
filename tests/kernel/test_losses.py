"""The kernel tells which probes it has skipped, and so does tcptrace.

Probes of the tests' own are at what the kernel calls while it works on another, and are skipped.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from tests.kernel.harness import Worker, need_backend, not_offered
from tests.kernel.traffic import accept_once

from tcptrace.backends.attach import Attaching
from tcptrace.backends.source import Plan
from tcptrace.events import Event
from tcptrace.kernel import tracefs
from tcptrace.kernel.hooks import Hook
from tcptrace.probes import Backend, Probe, Variant

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
class Nothing(Event):
    """A record that never comes."""

    type = "nothing"


def test_skipped_programs_are_counted(backend: Backend, tmp_path: Path) -> None:
    """A program that the kernel skips counts as lost, and not as one that found no room."""
    if backend not in HOOKS:
        not_offered("ftrace runs no programs")
    if tuple(map(int, os.uname().release.split(".")[:2])) < COUNTS_ALL:
        not_offered("a kernel that counts programs that it skips")
    source = tmp_path / "skipped.bpf.c"
    source.write_text(SOURCE)
    variant = Variant(backend, HOOKS[backend])
    probe = Probe("skipped", source, (Nothing,), (variant,), filters=frozenset(), columns=())

    def trace() -> tuple[bool, int, int]:
        with closing(Attaching(Plan(probe, {}, backend=backend))) as attaching:
            session = attaching.session(lambda: False)
        assert session
        with closing(session):
            is_clean = session.lost().total == 0
            accept_once()
            return is_clean, *session.lost()

    is_clean, no_room, skipped = Worker(trace).run()
    assert (True, 0) == (is_clean, no_room)
    assert skipped > 0


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
