"""What the kernel tells: probes are data here, and C in the ``.bpf.c`` files beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from tcptrace.kernel.hooks import Hook
from tcptrace.model.columns import COMMON, Column
from tcptrace.model.events import Event
from tcptrace.model.filters import BY_NAME, EITHER_PORT, Filters
from tcptrace.probes.trace_points import TraceVariant

Backend = Literal["fentry", "kprobe", "tracepoint", "ftrace"]
BPF_BACKENDS: tuple[Backend, ...] = ("fentry", "kprobe", "tracepoint")
BACKENDS: tuple[Backend, ...] = (*BPF_BACKENDS, "ftrace")
ALL_FILTERS = frozenset(BY_NAME)
FTRACE: Backend = "ftrace"
ALWAYS = "always"
"""In `Probe.gaps`: never given."""
C = Path(__file__).parent / "c"
COMPONENTS = tuple(
    C / f"{name}.h"
    for name in (
        "types",
        "event",
        "hooks",
        "stand_in",
        "task",
        "sock",
        "syn",
        "fd",
        "lists",
        "follow",
        "places",
    )
)
"""The C that all probes share, in the order in which it is compiled."""
FILTERS = C / "filters.h"
"""The C that is there once for each probe, behind the defines of its filters."""


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One way to hook a probe: all of `hooks`, with `defines` set in the C source."""

    backend: Backend
    hooks: tuple[Hook, ...]
    defines: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Switch:
    """What an option such as ``--failed`` needs in the kernel beside its define."""

    variants: tuple[Variant, ...] = ()
    """Extra hooks, one variant for each backend that needs any."""
    maps: tuple[str, ...] = ()
    """BPF maps that the command reads; see `tcptrace.sources.bpf.session.Session.table`."""
    is_value: bool = False
    """Whether it is a number that the C computes with, so that programs for one serve for all."""
    is_flag: bool = False
    """Whether it is set to 1, whatever the option's value is."""
    entries_of: str = ""
    """The map whose size it is; then it is no define."""


@dataclasses.dataclass(frozen=True, slots=True)
class Probe:
    """A kind of kernel event: its C source, its records, its hooks and what it can honour."""

    name: str
    source: Path
    """The ``.bpf.c`` file, compiled behind `COMPONENTS` and `FILTERS`."""
    records: tuple[type[Event], ...]
    variants: tuple[Variant, ...]
    """The best first; the first that the kernel permits is taken."""
    filters: frozenset[str]
    """Names from `tcptrace.model.filters`; the C source applies each of them."""
    columns: tuple[Column, ...]
    """What text shows."""
    ports: str = "Ports at either end"
    """Which ports ``-P`` is about."""
    port_fields: tuple[str, ...] = EITHER_PORT
    """The fields of its rows that have these ports."""
    extra_columns: tuple[Column, ...] = COMMON
    """What ``--columns`` can add."""
    trace_variants: tuple[TraceVariant, ...] = ()
    """The same for the backend ftrace, which needs no BPF; the first that works is taken."""
    switches: Mapping[str, Switch] = dataclasses.field(default_factory=dict)
    """By define; a define that needs nothing more is not here."""
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What filters are where nothing is said, by name, as the user would write it."""
    rows: tuple[type[Any], ...] = ()
    """The classes of what commands make of the records, where they do not show these."""
    gaps: Mapping[Backend, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """What a backend does not give where others do: by JSON key, or type and key (``open.tid``),
    when it is absent, or `ALWAYS`. docs/backends.md has it as tables, and the kernel tests hold
    it."""
    companions: tuple[Probe, ...] = ()
    """Probes whose events come among this one's; see `tcptrace.sources.plan.Plan`."""
    maps: tuple[str, ...] = ()
    """BPF maps that the run reads or writes."""
    types: tuple[str, ...] = ()
    """Kernel structs that the source needs beside `tcptrace.kernel.headers.STRUCTS`."""
    numbers: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """What the source and Python both number; defines of these names."""
    own_filters: Filters | None = None
    """Its filters where it is a companion, if these are not the run's."""
    more_sources: tuple[Path, ...] = ()
    """C files that are compiled behind `source`."""
    self_test: Callable[[], None] | None = None
    """Makes the event once; the loader calls it in a network namespace of its own and takes another
    variant when the kernel's hook stays silent."""

    def switch_text(self, define: str, value: float) -> str:
        """Return what a switch is set to, alike for what compiles alike."""
        return "1" if self.switches.get(define, Switch()).is_flag else str(int(value))

    def gap(self, backend: Backend, kind: str, key: str) -> str | None:
        """Return when `backend` does not give a field of rows of type `kind`; see `gaps`."""
        known = self.gaps.get(backend, {})
        return known.get(f"{kind}.{key}", known.get(key))

    @property
    def sources(self) -> tuple[Path, ...]:
        """All its C files, in the order in which they are compiled."""
        return (self.source, *self.more_sources)

    @property
    def row_classes(self) -> tuple[Any, ...]:
        """The classes of what is shown."""
        return self.rows or self.records

    @property
    def backends(self) -> tuple[Backend, ...]:
        """The backends that it has a variant for, the best first."""
        offered: set[Backend] = {variant.backend for variant in self.variants}
        if self.trace_variants:
            offered.add("ftrace")
        return tuple(name for name in BACKENDS if name in offered)
