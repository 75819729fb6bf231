"""What is compiled: the C source and its flags, for a plan."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from tcptrace.kernel.headers import CFLAGS
from tcptrace.model import tables
from tcptrace.model.events import Decoder, Event
from tcptrace.model.filters import BY_PLACE, Filters
from tcptrace.model.tables import Entry
from tcptrace.probes.probe import COMPONENTS, FILTERS, Probe, Switch, Variant
from tcptrace.sources import counters

Cache = Literal["keep", "use", "none"]


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
    """Probes that report into the same ring buffer, through the same backend."""
    own_filters: Mapping[str, Filters] = dataclasses.field(default_factory=dict)
    """Filters of companions, by name; others have what `Probe.own_filters` says, or the run's."""
    cache: Cache = "keep"
    """What becomes of programs that are kept: used and added to, used alone, or neither."""
    not_in_ftrace: tuple[str, ...] = ()
    """The options that were given and that the backend ftrace cannot honour."""

    @property
    def probes(self) -> tuple[Probe, ...]:
        """All probes, each once."""
        asked = (self.probe, *self.companions)
        known: dict[str, Probe] = {}
        for probe in itertools.chain.from_iterable(
            (wanted, *wanted.companions) for wanted in asked
        ):
            known.setdefault(probe.name, probe)
        return tuple(known.values())

    def filters_of(self, probe: Probe) -> Filters:
        """Return the filters of one of the probes."""
        return self.own_filters.get(probe.name) or probe.own_filters or self.filters

    @property
    def judged_by_place(self) -> list[type[Event]]:
        """The record classes that filters by unit, container or pod are for."""
        return [
            record
            for probe in self.probes
            if not BY_PLACE.isdisjoint(self.filters_of(probe).values)
            for record in probe.records
        ]

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
            if len({variant.backend for variant in way}) == 1
            and self.backend in ("auto", way[0].backend)
        ]

    def maps(self) -> list[str]:
        """Return the names of the BPF maps that the command reads."""
        of_switches = [name for switch in self._switches() for name in switch.maps]
        return [*of_switches, *(name for probe in self.probes for name in probe.maps)]

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
    hooks = itertools.chain.from_iterable(variant.hooks for variant in variants)
    defines = itertools.chain.from_iterable(variant.defines for variant in variants)
    return Variant(variants[0].backend, tuple(hooks), tuple(defines))


# Numbers of the values that the loader knows; those of the plan follow.
SELF_TEST_NETNS, STANDS_IN, BUFFER_BYTES, FIRST_OF_PLAN = 0, 1, 2, 16
VALUE_MARK = 0x7C97_4ACE << 32
"""With a value's number, the constant that is compiled in its place."""
KERNEL_FUNCTION = 1 << 30
"""With the BTF id of a function of the kernel, the number of the helper that is compiled for it."""
PORT_BITS = {"lport": ("LOCAL_PORT", 1), "rport": ("REMOTE_PORT", 2)}
"""The ports that a filter can be about: names and values in the C's PORT_FIELDS."""
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


def shape_of(plan: Plan, variant: Variant, flags: Sequence[str] = ()) -> Shape:
    """Return what to compile for `plan` with the hooks of `variant`, and the values apart.

    `flags` are those that depend on the kernel.
    """
    values = _Values()
    defines = {
        "VALUE_MARK": f"{VALUE_MARK:#x}ULL",
        "SELF_TEST_NETNS": f"VALUE({SELF_TEST_NETNS})",
        "STANDS_IN": f"VALUE({STANDS_IN})",
        "BUFFER_BYTES": f"VALUE({BUFFER_BYTES})",
        f"HOOK_{variant.backend.upper()}": "1",
        **dict.fromkeys(variant.defines, "1"),
        **plan.shape_switches(values.take),
        **counters.defines(),
        **Decoder(plan.records).defines(),
        **{name: str(number) for name, number in _numbers(plan)},
        **dict.fromkeys(_pinned(plan), "1"),
    }
    all_flags = (*CFLAGS, *(f"-D{name}={value}" for name, value in defines.items()), *flags)
    contents = {
        f"{_own(probe)}_{name}_table": entries
        for probe in plan.probes
        for name, entries in plan.filters_of(probe).tables.items()
    }
    entries = {
        "events": plan.buffer_mb * 1024 * 1024,
        **plan.map_entries(),
        **{name: len(held) for name, held in contents.items()},
    }
    source = c_source(plan, values)
    return Shape(plan.probe.name, source, all_flags, values.by_number, entries, contents)


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


# What a table is looked up by, by filter name: a struct in probes/c/lists.h.
KEYS = {
    **dict.fromkeys(("pid", "uid", "port", "netns"), "number_key"),
    "comm": "name_key",
    "cgroup": "id_key",
}


def _own(probe: Probe) -> str:
    """Return what the names of a probe's own C begin with."""
    return re.sub(r"\W", "_", probe.name)


def _pinned(plan: Plan) -> list[str]:
    """Return the defines of the pinned maps that any probe's filters look into."""
    asked = {name for probe in plan.probes for name in plan.filters_of(probe).values}
    return [f"PINNED_{name.upper()}" for name in ("cgroupmap", "mntnsmap") if name in asked]


def _numbers(plan: Plan) -> Iterator[tuple[str, int]]:
    """Yield what Python and C both number, by the names of defines."""
    yield from tables.NUMBERS.items()
    yield from PORT_BITS.values()
    for probe in plan.probes:
        yield from probe.numbers.items()


def _read(path: Path) -> str:
    return f'#line 1 "{path.parent.name}/{path.name}"\n{path.read_text(encoding="utf-8")}'


def c_source(plan: Plan, values: _Values) -> str:
    """Return the C source; the compiler's messages name the true files and lines."""
    parts = [*map(_read, COMPONENTS)]
    for probe in plan.probes:
        parts += [*_filter_defines(plan, probe, values), *map(_read, (FILTERS, *probe.sources))]
    return "\n".join(parts)


def _filter_defines(plan: Plan, probe: Probe, values: _Values) -> Iterator[str]:
    """Yield the C that makes `FILTERS` those of one probe."""
    filters, own = plan.filters_of(probe), _own(probe)
    known = (PORT_BITS[field][0] for field in filters.port_fields if field in PORT_BITS)
    fields = " | ".join(known) or "0"
    yield f'#line 1 "filters of {probe.name}"\n#undef PROBE'
    yield f"#define PROBE {own}"
    yield f"#define PORT_FIELDS ({fields})"
    if probe.self_test is plan.probe.self_test:
        yield "#define COUNTS_SELF_TEST"
    for name, text in filters.defines().items():
        yield f"#define {name} {values.taken_from(text)}"
    for name in filters.tables:
        yield (
            f"TABLE({own}_{name}_table, {KEYS[name]});\n"
            f"static __always_inline u64 *find_{name}(struct {KEYS[name]} *key)\n"
            f"{{\n\treturn {own}_{name}_table.lookup(key);\n}}"
        )


def listing(plan: Plan, variant: Variant) -> str:
    """Return flags, values and source as ``--dump-c`` prints them."""
    import shlex  # noqa: PLC0415 - seldom needed

    shape = shape_of(plan, variant)
    flags = "".join(f" *   {shlex.quote(flag)}\n" for flag in shape.flags)
    values = "".join(f" *   VALUE({number}): {value}\n" for number, value in shape.values.items())
    return (
        f"/*\n * Compiled by bcc for the {variant.backend} backend with\n{flags}"
        " * and what exists in a run alone: HAVE_BTF, KERNEL_TYPES, READ_FUNCTION. Not\n"
        f" * compiled, but put into the instructions when they are loaded:\n{values}"
        f" *   VALUE({SELF_TEST_NETNS}): the loader's own network namespace\n"
        f" *   VALUE({STANDS_IN}): 1 in a stand-in, else 0\n"
        f" *   VALUE({BUFFER_BYTES}): {shape.entries['events']}\n */\n"
    ) + shape.source
