"""Make maps, load programs into the kernel and attach them; nothing here knows a compiler."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import resource
import sys
import threading
from collections.abc import Callable, Mapping, Sequence

from tcptrace.kernel import bpf, btf
from tcptrace.kernel.hooks import Hook, attach
from tcptrace.probes.probe import Variant
from tcptrace.sources.bpf.programs import Programs
from tcptrace.sources.counters import Counter
from tcptrace.sources.plan import BUFFER_BYTES, SELF_TEST_NETNS, STANDS_IN, Plan, Shape

# The type of a hook's program, and what it is loaded to be attached to.
PROGRAM_TYPES = {
    "fentry": (bpf.PROG_TYPE_TRACING, bpf.TRACE_FENTRY),
    "fexit": (bpf.PROG_TYPE_TRACING, bpf.TRACE_FEXIT),
    "kprobe": (bpf.PROG_TYPE_KPROBE, 0),
    "kretprobe": (bpf.PROG_TYPE_KPROBE, 0),
    "tracepoint": (bpf.PROG_TYPE_TRACEPOINT, 0),
    "raw_tracepoint": (bpf.PROG_TYPE_RAW_TRACEPOINT, 0),
}
ON_PERF_EVENTS = frozenset({"kprobe", "kretprobe", "tracepoint"})
SMALL_BYTES = 16_000
"""Programs that are not larger together are loaded one after the other."""
MOST_AT_A_TIME = 4
# Sizes of key and value in bytes, as bcc's tools declare these maps.
PINNED_MAPS = {"cgroupmap": (8, 8), "mntnsmap": (8, 4)}


@dataclasses.dataclass(slots=True)
class Attached:
    """What the child hands over: the backend, how it was chosen, and descriptors."""

    backend: str
    maps: dict[str, int]
    programs: list[int]
    """Without stand-ins."""
    links: list[int]
    notes: list[str] = dataclasses.field(default_factory=list)
    compiled: int = 0
    """How often bcc compiled; 0 where all programs were kept."""
    kept: Sequence[str] = ()
    """The names of what was read from the store or written there."""

    def detach(self) -> None:
        """Close what holds the programs attached."""
        for link in self.links:
            os.close(link)
        self.links.clear()


def lift_memory_limit() -> None:
    """Before 5.11, kernels count maps as locked memory."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)


def open_pinned_maps(plan: Plan) -> dict[str, int]:
    """Return the descriptors of the pinned maps that the plan's filters name.

    Raises RefusedError.
    """
    return {
        name: bpf.open_pinned_hash(plan.filters.values[name].path, *sizes)
        for name, sizes in PINNED_MAPS.items()
        if name in plan.filters.values
    }


def create_maps(
    programs: Programs, entries: Mapping[str, int], present: Mapping[str, int]
) -> dict[str, int]:
    """Make the maps of `programs`; return their descriptors by name, in the programs' order.

    Args:
        programs: what was compiled.
        entries: how many entries maps have, where that is not as compiled; by name.
        present: descriptors of maps that there are already, by name.

    Raises OSError.

    """
    return {
        spec.name: present[spec.name]
        if spec.name in present
        else bpf.create_map(spec._replace(entries=entries.get(spec.name, spec.entries)))
        for spec in programs.maps
    }


def _load(hook: Hook, code: bytes) -> int:
    """Load the program of `hook`; return its descriptor. Raises OSError."""
    kind, place = PROGRAM_TYPES[hook.how]
    function = 0
    if kind == bpf.PROG_TYPE_TRACING:
        function = btf.function_id(hook.target)
        if not function:
            raise OSError(errno.ENOENT, f"{hook} cannot be loaded: there is no such function")
    spec = bpf.ProgramSpec(hook.program, kind, place, function)
    try:
        return bpf.load_program(spec, code)
    except OSError as error:
        sys.stderr.write(f"{bpf.verifier_log(spec, code)}\n")
        sys.stderr.flush()
        words = f"{hook} cannot be loaded: {error.strerror}"
        raise OSError(error.errno, words) from error


def _identity(hook: Hook) -> tuple[str, ...]:
    """Return what two hooks must have in common to share a program.

    Of the programs on perf events, the kernel runs one at a time on a processor, whichever they
    are. Others it skips where the very same one is under way: these are not shared.
    """
    own = () if hook.how in ON_PERF_EVENTS else (hook.target, str(hook.stands_in))
    return hook.how, hook.program, *own


def _load_all(jobs: Sequence[tuple[Hook, bytes]]) -> list[int]:
    """Load programs; return their descriptors, in order. Raises OSError, with nothing loaded.

    The kernel verifies each on the processor that asks, so that several are loaded at a time where
    there is enough to do; the largest first, so that none is waited for alone in the end.
    """
    loaded: dict[int, int] = {}
    failures: list[OSError] = []
    waiting = iter(sorted(range(len(jobs)), key=lambda number: -len(jobs[number][1])))

    def work() -> None:
        for number in waiting:
            try:
                loaded[number] = _load(*jobs[number])
            except OSError as error:
                failures.append(error)
                return

    is_worth_it = sum(len(code) for _, code in jobs) > SMALL_BYTES
    helpers = min(os.cpu_count() or 1, MOST_AT_A_TIME) - 1 if is_worth_it else 0
    threads = [threading.Thread(target=work) for _ in range(helpers)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    if failures:
        for descriptor in loaded.values():
            os.close(descriptor)
        raise failures[0]
    return [loaded[number] for number in range(len(jobs))]


@dataclasses.dataclass(frozen=True, slots=True)
class Surroundings:
    """What programs find in this process beside what their plan says."""

    pinned: Mapping[str, int]
    """Descriptors of maps, by name."""
    self_test_netns: int
    """The network namespace that programs pass over; 0 where there is none."""


def attach_variant(
    programs: Programs, shape: Shape, variant: Variant, around: Surroundings
) -> Attached:
    """Load and attach the programs of `variant`. Raises OSError, with nothing left attached."""
    maps = create_maps(programs, shape.entries, around.pinned)
    for name, entries in shape.contents.items():
        bpf.fill(maps[name], entries)
    values = {
        **shape.values,
        SELF_TEST_NETNS: around.self_test_netns,
        BUFFER_BYTES: shape.entries["events"],
    }
    descriptors = [*maps.values()]
    jobs = {
        _identity(hook): (
            hook,
            programs.linked(hook.program, descriptors, {**values, STANDS_IN: int(hook.stands_in)}),
        )
        for hook in variant.hooks
    }
    loaded = dict(zip(jobs, _load_all([*jobs.values()]), strict=True))
    counted = {loaded[_identity(hook)] for hook in variant.hooks if not hook.stands_in}
    attached = Attached(variant.backend, maps, sorted(counted), links=[])
    try:
        for hook in variant.hooks:
            attached.links.append(attach(hook, loaded[_identity(hook)]))
    except OSError:
        attached.detach()
        raise
    return attached


def fires(self_test: Callable[[], None], attached: Attached) -> bool:
    """Tell whether the hooks see the event that `self_test` makes.

    A compiler may have inlined a function at the calls that matter; its hook is then silent.
    """
    before = bpf.lookup_u64(attached.maps["counters"], Counter.SELF_TEST)
    self_test()
    return bpf.lookup_u64(attached.maps["counters"], Counter.SELF_TEST) > before
