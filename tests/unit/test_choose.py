"""Which variants are usable: each hook is tried once, and the slow ones last."""

from __future__ import annotations

import pytest

from tcptrace.kernel.hooks import Hook
from tcptrace.model.filters import Filters
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sources.bpf import choose
from tcptrace.sources.bpf.choose import usable_variants
from tcptrace.sources.plan import Plan


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Hook]:
    """What is tried, on a kernel that has neither trampolines nor kprobes."""
    hooks: list[Hook] = []

    def obstacle(hook: Hook) -> str | None:
        hooks.append(hook)
        return f"{hook}: none" if hook.how in {"fentry", "kprobe"} else None

    monkeypatch.setattr(choose, "obstacle", obstacle)
    return hooks


def test_hooks_are_tried_once(tried: list[Hook]) -> None:
    """A hook that several variants and stand-ins have is tried for all of them."""
    notes: list[str] = []
    assert ["tracepoint"] == [
        variant.backend for variant in usable_variants(Plan(TRACER, Filters()), notes.append)
    ]
    places = [(hook.how, hook.target) for hook in tried]
    assert sorted(set(places)) == sorted(places)
    assert "fentry refused: fentry:__inet_accept: none" in notes


def test_raw_tracepoints_are_tried_last(tried: list[Hook]) -> None:
    """Where something else is missing, no raw tracepoint is touched."""
    plan = Plan(TRACER, Filters(), backend="fentry")
    assert [] == [*usable_variants(plan, lambda _: None)]
    assert {"fentry"} == {hook.how for hook in tried}
