"""What is compiled: the C source and its flags, for a plan."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shlex
from collections.abc import Mapping, Sequence

from tcptrace.kernel.headers import CFLAGS
from tcptrace.model.events import Decoder, Event
from tcptrace.model.filters import Filters
from tcptrace.probes.probe import PRELUDE, Probe, Switch, Variant


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a session is to trace."""

    probe: Probe
    filters: Filters
    switches: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Defines that the command's own options set."""
    backend: str = "auto"
    buffer_mb: int = 4
    headers: str = "auto"
    """One of `headers.CHOICES`."""
    companions: tuple[Probe, ...] = ()
    """Probes that report into the same ring buffer, through the same backend. Their C source sees
    the filters' defines, and says itself which it applies."""
    not_in_ftrace: tuple[str, ...] = ()
    """The options that were given and that the backend ftrace cannot honour."""

    @property
    def probes(self) -> tuple[Probe, ...]:
        """All probes."""
        return (self.probe, *self.probe.companions, *self.companions)

    @property
    def records(self) -> Sequence[type[Event]]:
        """The record classes that the ring buffer will hold."""
        return [record for probe in self.probes for record in probe.records]

    @property
    def types(self) -> Sequence[str]:
        """The kernel structs that the probes need beside those that all need."""
        return [name for probe in self.probes for name in probe.types]

    def variants(self) -> list[Variant]:
        """Return the variants that the asked backend allows, with the switches' hooks.

        With companions, that is each way to take one variant of each probe.
        """
        ways = itertools.product(*(probe.variants for probe in self.probes))
        return [
            self._with_switches(_joined(way))
            for way in ways
            if len({one.backend for one in way}) == 1 and self.backend in ("auto", way[0].backend)
        ]

    def maps(self) -> list[str]:
        """Return the names of the BPF maps that the command reads."""
        return [name for switch in self._switches() for name in switch.maps]

    def _switches(self) -> list[Switch]:
        known = self.probe.switches
        return [known[name] for name in sorted(self.switches) if name in known]

    def _with_switches(self, variant: Variant) -> Variant:
        hooks, defines = list(variant.hooks), list(variant.defines)
        for extra in (extra for switch in self._switches() for extra in switch.variants):
            if extra.backend == variant.backend:
                hooks += extra.hooks
                defines += extra.defines
        return Variant(variant.backend, tuple(hooks), tuple(defines))


def _joined(variants: Sequence[Variant]) -> Variant:
    """Return variants of one backend as one."""
    hooks = itertools.chain.from_iterable(one.hooks for one in variants)
    defines = itertools.chain.from_iterable(one.defines for one in variants)
    return Variant(variants[0].backend, tuple(hooks), tuple(defines))


def cflags(plan: Plan, variant: Variant) -> list[str]:
    """Return clang's flags for compiling `plan` with the hooks of `variant`."""
    pages = plan.buffer_mb * 1024 * 1024 // os.sysconf("SC_PAGE_SIZE")
    defines = {
        f"HOOK_{variant.backend.upper()}": "1",
        **dict.fromkeys(variant.defines, "1"),
        **plan.switches,
        "RINGBUF_PAGES": str(pages),
        **Decoder(plan.records).defines(),
        **plan.filters.defines(),
    }
    return [*CFLAGS, *(f"-D{name}={value}" for name, value in defines.items())]


def c_source(plan: Plan) -> str:
    """Return the C source; the compiler's messages name the true files and lines."""
    parts = [
        f'#line 1 "{path.parent.name}/{path.name}"\n{path.read_text(encoding="utf-8")}'
        for path in (PRELUDE, *(probe.source for probe in plan.probes))
    ]
    return "\n".join(parts)


def listing(plan: Plan, variant: Variant) -> str:
    """Return flags and source as ``--dump-c`` prints them."""
    flags = "".join(f" *   {shlex.quote(flag)}\n" for flag in cflags(plan, variant))
    return (
        f"/*\n * Compiled by bcc for the {variant.backend} backend with\n{flags}"
        " * and what exists in a run alone: HAVE_BTF, KERNEL_TYPES, SELF_TEST_NETNS\n */\n"
    ) + c_source(plan)
