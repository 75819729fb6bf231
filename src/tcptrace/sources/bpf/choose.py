"""Which of a plan's variants this kernel permits, the best first; nothing is compiled or loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from tcptrace.kernel import tracefs
from tcptrace.kernel.hooks import Hook, obstacle
from tcptrace.probes.probe import BACKENDS, Variant
from tcptrace.sources.plan import Plan


class Trials:
    """Tries hooks, each once: to attach to a tracepoint and let it go can take the kernel 20 ms."""

    def __init__(self) -> None:
        """Nothing was tried yet."""
        self._known: dict[tuple[str, str], str | None] = {}

    def obstacle(self, hook: Hook) -> str | None:
        """Return why a hook cannot be used on this kernel, or None where it can."""
        key = (hook.how, hook.target)
        if key not in self._known:
            self._known[key] = obstacle(hook)
        return self._known[key]


def obstacle_to(variant: Variant, trials: Trials | None = None) -> str | None:
    """Return why the kernel does not permit a hook that `variant` needs, or None."""
    trials = trials or Trials()
    needed = (hook for hook in variant.hooks if not hook.optional)
    # Raw tracepoints last: they take longest, and every kernel has them.
    in_order = sorted(needed, key=lambda hook: hook.how == "raw_tracepoint")
    return next(filter(None, map(trials.obstacle, in_order)), None)


def _without_optional(variant: Variant, trials: Trials, note: Callable[[str], None]) -> Variant:
    """Return `variant` without the optional hooks that the kernel does not permit."""
    reasons = {hook: trials.obstacle(hook) for hook in variant.hooks if hook.optional}
    for reason in filter(None, reasons.values()):
        note(f"left out: {reason}")
    hooks = tuple(hook for hook in variant.hooks if not reasons.get(hook))
    return dataclasses.replace(variant, hooks=hooks)


def usable_variants(plan: Plan, note: Callable[[str], None]) -> Iterator[Variant]:
    """Yield the variants whose hooks this kernel permits, best first; note why not for others."""
    trials = Trials()
    for variant in plan.variants():
        reason = obstacle_to(variant, trials)
        if reason is None:
            yield _without_optional(variant, trials, note)
        else:
            note(f"{variant.backend} refused: {reason}")


def no_backend(plan: Plan) -> str:
    """Return an error that says what there is in place of what was asked for."""
    if plan.backend == "auto":
        return (
            f"{plan.probe.name} cannot trace: this kernel permits no set of its hooks.\n"
            "`tcptrace doctor` tells why"
        )
    free = dataclasses.replace(plan, backend="auto")
    usable = {variant.backend for variant in usable_variants(free, lambda _: None)}
    if plan.probe.trace_variants and not tracefs.obstacle():
        usable.add("ftrace")
    names = ", ".join(name for name in BACKENDS if name in usable) or "none"
    if plan.backend in usable and plan.backend != "ftrace":
        return (
            f"this kernel refused the {plan.backend} programs of {plan.probe.name}.\n"
            "Run again with -v for its words, and please report them"
        )
    return (
        f"the backend {plan.backend} is not available for {plan.probe.name} on this kernel.\n"
        f"Available: {names}; `tcptrace doctor` tells why"
    )
