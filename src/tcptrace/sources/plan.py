"""What is compiled: the C source and its flags, for a plan."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from tcptrace.kernel.headers import CFLAGS
from tcptrace.model.events import Decoder, Event
from tcptrace.model.filters import Filters
from tcptrace.model.tables import Entry
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
    cache: bool = True
    """Whether programs that are kept may be used, and those that are compiled kept."""
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

    def shape_switches(self, value: Callable[[int], str]) -> dict[str, str]:
        """Return the switches that are compiled as defines; `value` gives what stands for one."""
        defines = {}
        for name, text in self.switches.items():
            known = self.probe.switches.get(name, Switch())
            if known.is_value:
                defines[name] = value(int(text))
            elif not known.entries_of:
                defines[name] = "1" if known.is_flag else text
        return defines

    def map_entries(self) -> dict[str, int]:
        """Return how many entries maps have, by name, where a switch says so."""
        known = self.probe.switches
        return {
            known[name].entries_of: int(text)
            for name, text in self.switches.items()
            if name in known and known[name].entries_of
        }

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


# Numbers of the values that the loader knows; those of the plan follow.
SELF_TEST_NETNS, STANDS_IN, FIRST_OF_PLAN = 0, 1, 16
VALUE_MARK = 0x7C97_4ACE << 32
"""With a value's number, the constant that is compiled in its place."""
_LITERAL = r"(?:0x[0-9a-f]+|[0-9]+)(?=ULL|U)(?:ULL|U)"
_VALUES = re.compile(rf"X\(({_LITERAL}),\1\)|{_LITERAL}")


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What is compiled for a plan, without the values of the run.

    Plans that differ in their values alone have the same source and flags, so they can share what
    was compiled.
    """

    name: str
    """The probe's."""
    source: str
    flags: tuple[str, ...]
    """clang's."""
    values: Mapping[int, int]
    """By number; the loader puts them into the instructions."""
    entries: Mapping[str, int]
    """How many entries maps have, by name, where that is not as compiled."""
    contents: Mapping[str, Sequence[Entry]]
    """What maps hold from the start, by name."""


def shape_of(plan: Plan, variant: Variant) -> Shape:
    """Return what to compile for `plan` with the hooks of `variant`, and the values apart."""
    values = _Values()
    defines = {
        "VALUE_MARK": f"{VALUE_MARK:#x}ULL",
        "SELF_TEST_NETNS": f"VALUE({SELF_TEST_NETNS})",
        "STANDS_IN": f"VALUE({STANDS_IN})",
        f"HOOK_{variant.backend.upper()}": "1",
        **dict.fromkeys(variant.defines, "1"),
        **plan.shape_switches(values.take),
        **Decoder(plan.records).defines(),
        **{name: values.taken_from(text) for name, text in plan.filters.defines().items()},
    }
    flags = (*CFLAGS, *(f"-D{name}={value}" for name, value in defines.items()))
    contents = {f"{name}_table": entries for name, entries in plan.filters.tables.items()}
    entries = {
        "events": plan.buffer_mb * 1024 * 1024,
        **plan.map_entries(),
        **{name: len(held) for name, held in contents.items()},
    }
    return Shape(plan.probe.name, c_source(plan), flags, values.by_number, entries, contents)


class _Values:
    """Gives numbers to values."""

    def __init__(self) -> None:
        self.by_number: dict[int, int] = {}

    def take(self, value: int) -> str:
        """Return what stands for a value in C."""
        number = FIRST_OF_PLAN + len(self.by_number)
        self.by_number[number] = value
        return f"VALUE({number})"

    def taken_from(self, text: str) -> str:
        """Return C with values in place of its unsigned literals; a range of one becomes E."""
        return _VALUES.sub(self._replaced, text)

    def _replaced(self, match: re.Match[str]) -> str:
        value = self.take(int((match[1] or match[0]).rstrip("UL"), 0))
        return f"E({value})" if match[1] else value


def c_source(plan: Plan) -> str:
    """Return the C source; the compiler's messages name the true files and lines."""
    parts = [
        f'#line 1 "{path.parent.name}/{path.name}"\n{path.read_text(encoding="utf-8")}'
        for path in (PRELUDE, *(probe.source for probe in plan.probes))
    ]
    return "\n".join(parts)


def listing(plan: Plan, variant: Variant) -> str:
    """Return flags, values and source as ``--dump-c`` prints them."""
    shape = shape_of(plan, variant)
    flags = "".join(f" *   {shlex.quote(flag)}\n" for flag in shape.flags)
    values = "".join(f" *   VALUE({number}): {value}\n" for number, value in shape.values.items())
    return (
        f"/*\n * Compiled by bcc for the {variant.backend} backend with\n{flags}"
        " * and what exists in a run alone: HAVE_BTF, KERNEL_TYPES. Not compiled, but put into\n"
        f" * the instructions when they are loaded:\n{values}"
        f" *   VALUE({SELF_TEST_NETNS}): the loader's own network namespace\n"
        f" *   VALUE({STANDS_IN}): 1 in a stand-in, else 0\n */\n"
    ) + shape.source
