"""The processes that are followed, with what they start: `FOLLOW`, beside any other probe."""

from __future__ import annotations

from tcptrace.kernel.hooks import Hook
from tcptrace.probes.probe import BPF_BACKENDS, C, Probe, Variant

FOLLOWED = "followed"
"""The map, from process ids of 4 bytes to a byte."""

_HOOKS = (
    Hook("raw_tracepoint", "sched_process_fork", "on_follow_fork"),
    Hook("raw_tracepoint", "sched_process_exit", "on_follow_exit"),
)

FOLLOW = Probe(
    name="follow",
    source=C / "follow.bpf.c",
    records=(),
    variants=tuple(Variant(backend, _HOOKS, ("FOLLOW",)) for backend in BPF_BACKENDS),
    filters=frozenset(),
    columns=(),
    extra_columns=(),
    types=("signal_struct",),
    maps=(FOLLOWED,),
)
