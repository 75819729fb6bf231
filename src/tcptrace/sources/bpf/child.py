"""The loader's work, in the child process: choose hooks, find or compile programs, load, attach.

Only this process imports bcc and LLVM, and only where programs are not kept. What it attaches lives
on in the descriptors that it hands to its parent.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from functools import cached_property

from tcptrace.errors import RefusedError, TcptraceError
from tcptrace.kernel import btf, headers, reading
from tcptrace.kernel.in_child import enter_test_network
from tcptrace.kernel.shortage import LOADING, check_shortage
from tcptrace.probes.probe import Variant
from tcptrace.probes.programs import WHO
from tcptrace.sources.bpf.choose import no_backend, usable_variants
from tcptrace.sources.bpf.compiler import NoCompilerError
from tcptrace.sources.bpf.kept import Kept
from tcptrace.sources.bpf.load import (
    Attached,
    Surroundings,
    attach_variant,
    fires,
    lift_memory_limit,
    open_pinned_maps,
)
from tcptrace.sources.bpf.programs import Programs
from tcptrace.sources.plan import KERNEL_FUNCTION, Plan, Shape, shape_of

HEEDED = {"PATH", "LANG", "LC_ALL"}
"""The variables that a compile may see."""
READ_MAPS = ["events", "counters"]
"""The maps that every session reads."""


def _clear_environment() -> None:
    """Leave no variable that tells bcc or clang where to look: root's or another's."""
    for name in os.environ.keys() - HEEDED:
        del os.environ[name]


class Supply:
    """Where a plan's programs come from: what is kept, else bcc."""

    def __init__(self, plan: Plan, notes: list[str]) -> None:
        """Open what is kept."""
        self._plan = plan
        self._notes = notes
        self._kept: Kept | None = None
        self.compiled = 0
        """How often bcc compiled."""
        self.no_compiler: NoCompilerError | None = None
        """Why programs that are not kept cannot be had."""
        if plan.cache != "none" and headers.from_btf(plan.headers):
            self._kept = Kept(notes.append, adds=plan.cache == "keep")

    @cached_property
    def _flags(self) -> list[str]:
        """The flags that depend on this process; it is made ready to compile."""
        _clear_environment()
        return headers.prepare(self._plan.headers, self._plan.types)

    @property
    def names(self) -> Sequence[str]:
        """The names of what was read and kept."""
        return self._kept.names if self._kept else ()

    def learn_functions(self, variants: Sequence[Variant]) -> None:
        """Learn the ids of the functions that programs of these variants name."""
        hooks = (hook for variant in variants for hook in variant.hooks)
        names = {hook.target for hook in hooks if hook.how in ("fentry", "fexit")}
        names.add(reading.FUNCTION)
        if self._kept:
            with contextlib.suppress(TcptraceError):  # without libbpf, no trampoline is possible
                btf.learn_functions(self._kept.function_ids(names))

    @cached_property
    def ways_to_read(self) -> tuple[str, ...]:
        """The flags that say how programs are to read the kernel's memory."""
        if not headers.from_btf(self._plan.headers):
            return ()
        try:
            number = btf.function_id(reading.FUNCTION)
        except TcptraceError:  # without libbpf it is not known
            return ()
        if not reading.loads_from_anywhere(number):
            return ()
        return (f"-DREAD_FUNCTION={KERNEL_FUNCTION + number}",)

    def programs(self, shape: Shape) -> Programs | None:
        """Return the programs of a shape, or None where there is nothing to compile them."""
        if self._kept and (kept := self._kept.find(shape, self._plan.types)):
            self._notes.append(f"programs taken from {self._kept.place}")
            return kept
        try:
            return self._compile(shape)
        except NoCompilerError as error:
            self.no_compiler = error
        if self._kept:
            return self._kept.find(shape, self._plan.types, of_any_compiler=True)
        return None

    def _compile(self, shape: Shape) -> Programs:
        from tcptrace.sources.bpf.compile import compile_shape  # noqa: PLC0415 - it is seldom needed

        started = time.monotonic()
        programs, compiler = compile_shape(shape, lambda: self._flags)
        self.compiled += 1
        self._notes.append(f"compiled by {compiler} in {time.monotonic() - started:.3f} s")
        if self._kept:
            self._kept.keep(shape, self._plan.types, programs, compiler)
        return programs


class Choice:
    """The way to the best variant of a plan that this kernel permits and that fires."""

    def __init__(self, plan: Plan) -> None:
        """Make this process ready to attach. Raises TcptraceError."""
        self.notes: list[str] = []
        self._plan = plan
        pinned = open_pinned_maps(plan)
        lift_memory_limit()
        self._supply = Supply(plan, self.notes)
        self._self_test, netns = plan.probe.self_test, 0
        try:
            netns = enter_test_network()
        except OSError as error:
            self._self_test = None
            self.notes.append(f"whether hooks fire was not tried: {error}")
        self._around = Surroundings(pinned, netns)

    def attached(self) -> Attached:
        """Attach. Raises TcptraceError where there is no such variant."""
        self._supply.learn_functions(self._plan.variants())
        for variant in usable_variants(self._plan, self.notes.append):
            attached = self._try(variant)
            if attached:
                attached.notes = self.notes
                attached.compiled = self._supply.compiled
                attached.kept = self._supply.names
                return attached
        details = "\n".join(self.notes)
        if self._supply.no_compiler:
            raise TcptraceError(self._nothing_to_load(self._supply.no_compiler), details=details)
        raise TcptraceError(no_backend(self._plan), details=details)

    def _nothing_to_load(self, error: NoCompilerError) -> str:
        """Say that nothing is kept, and why nothing can be compiled."""
        if self._plan.cache == "none":
            return str(error)
        what, _, advice = str(error).partition("\n")
        return (
            f"no programs are kept for these options, and {what.rstrip('.')}.\n"
            f"{advice}; or bring programs from another host: tcptrace prepare --help"
        )

    def _try(self, variant: Variant) -> Attached | None:
        """Attach a variant, or note why that cannot be."""
        shape = shape_of(self._plan, variant, self._supply.ways_to_read)
        programs = self._supply.programs(shape)
        if programs is None:
            self.notes.append(f"{variant.backend} refused: its programs are not kept")
            return None
        try:
            attached = attach_variant(programs, shape, variant, self._around)
        except OSError as error:
            check_shortage(error, "cannot load the programs", LOADING)
            self.notes.append(f"{variant.backend} refused: {error.strerror}")
            return None
        if self._self_test and not fires(self._self_test, attached):
            self.notes.append(f"{variant.backend} refused: {variant.hooks[-1]} stays silent")
            attached.detach()
            return None
        # Held open as long as the programs, which skip this namespace by its inode number: else the
        # next namespace that the kernel makes would be given that number.
        attached.links.append(os.open("/proc/self/ns/net", os.O_RDONLY))
        self.notes.append(f"{self._plan.probe.name}: {variant.backend}")
        self.notes += [f"  {hook}" for hook in variant.hooks if not hook.stands_in]
        attached.maps = {name: attached.maps[name] for name in READ_MAPS + self._plan.maps()}
        return attached


def _refuse_without_btf(plan: Plan) -> None:
    """Raise RefusedError for what the plan wants of types that kernel headers do not describe."""
    if headers.from_btf(plan.headers):
        return
    boot = "boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
    if "mntnsmap" in plan.filters.values:
        raise RefusedError(
            "--mntnsmap needs the kernel's BTF: kernel headers do not describe mount namespaces.\n"
            f"Filter by --cgroup or --netns, or {boot}"
        )
    if WHO in plan.companions:
        raise RefusedError(
            "--who needs the kernel's BTF: kernel headers do not describe mounts.\n"
            f"Trace without it, or {boot}"
        )


def attach_best(plan: Plan) -> Attached:
    """Attach the best variant of the plan's probe that this kernel permits and that fires.

    Raises:
        TcptraceError: there is none, or the plan cannot be honoured.

    """
    _refuse_without_btf(plan)
    return Choice(plan).attached()
