"""The loader's work, in the child process: choose hooks, compile with bcc, load and attach.

Only this process imports bcc and LLVM. What it attaches lives on in the descriptors that it hands
to its parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import resource
from collections.abc import Callable, Iterator, Sequence

from tcptrace.errors import RefusedError, TcptraceError
from tcptrace.kernel import bpf, headers, tracefs
from tcptrace.kernel.confined import enter_test_network
from tcptrace.kernel.hooks import Hook, attach, obstacle
from tcptrace.probes.probe import BACKENDS, Variant
from tcptrace.sources.bpf.find_bcc import import_bcc
from tcptrace.sources.plan import Plan, c_source, cflags

PROGRAM_TYPES = {
    "fentry": "TRACING",
    "fexit": "TRACING",
    "kprobe": "KPROBE",
    "kretprobe": "KPROBE",
    "tracepoint": "TRACEPOINT",
    "raw_tracepoint": "RAW_TRACEPOINT",
}
# The descriptors by which prelude.bpf.c names these maps, and key and value sizes in bytes,
# as bcc's tools declare them. A path of the user's is not for the compiler: newer clang (19 does)
# refuses octal escapes where bcc has it, in the name of a section.
PINNED_MAPS = {"cgroupmap": (100, 8, 8), "mntnsmap": (101, 8, 4)}
SELF_TEST = 2  # its place in enum counter of probes/c/prelude.bpf.c


@dataclasses.dataclass(slots=True)
class Attached:
    """What the child hands over: the backend, how it was chosen, and descriptors."""

    backend: str
    notes: list[str]
    maps: dict[str, int]
    programs: list[int]
    """Without stand-ins."""
    links: list[int]

    def detach(self) -> None:
        """Close what holds the programs attached."""
        for link in self.links:
            os.close(link)
        self.links.clear()


class _Module:
    """One compiled C source."""

    def __init__(self, plan: Plan, variant: Variant, extra: Sequence[str]) -> None:
        bcc = import_bcc()
        self._lib = bcc.lib
        self._types = bcc.BPF
        self._names_modules = [int(part) for part in bcc.__version__.split(".")[:2]] >= [0, 28]
        text, flags = c_source(plan).encode(), [*cflags(plan, variant), *extra]
        try:
            self._module = bcc.BPF(text=text, cflags=flags)
        except Exception as error:  # bcc raises nothing more precise
            msg = (
                f"bcc cannot compile the probe {plan.probe.name} for this kernel: {error}.\n"
                "Run again with -v for the compiler's words"
            )
            raise TcptraceError(msg) from error

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a map."""
        return int(self._module[name.encode()].map_fd)

    def load(self, hook: Hook) -> int:
        """Load the program of `hook`; return its descriptor. Raises OSError.

        bcc takes the function that a trampoline is for from the program's name, where from 0.28 on
        a module's name stands before it. The name is given here, so that one C function can serve
        several kernel functions.
        """
        prefix = {"fentry": "kfunc__", "fexit": "kretfunc__"}.get(hook.how)
        names = [hook.program]
        if prefix:
            names = [prefix + hook.target, f"{prefix}vmlinux__{hook.target}"]
            if self._names_modules:
                names.reverse()
        for name in names:
            descriptor = self._load_as(name, hook)
            if descriptor >= 0:
                return descriptor
        number = ctypes.get_errno()
        raise OSError(number, f"{hook} cannot be loaded: {os.strerror(number)}")

    def _load_as(self, name: str, hook: Hook) -> int:
        lib, module, function = self._lib, self._module.module, hook.program.encode()
        arguments = (
            module,
            getattr(self._types, PROGRAM_TYPES[hook.how]),
            name.encode(),
            lib.bpf_function_start(module, function),
            lib.bpf_function_size(module, function),
            lib.bpf_module_license(module),
            lib.bpf_module_kern_version(module),
            0,  # log level
            None,  # log buffer
            0,  # its size
            None,  # device
            -1,  # attach type, from bcc 0.25
        )
        return int(lib.bcc_func_load(*arguments[: len(lib.bcc_func_load.argtypes)]))


def _lift_memory_limit() -> None:
    """Before 5.11, kernels count maps as locked memory."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)


def _hold_pinned_maps(plan: Plan) -> dict[str, int]:
    """Open the pinned maps that the plan's filters name where the C source finds them.

    Return their ids. Raises RefusedError.
    """
    ids = {}
    for name, (descriptor, *sizes) in PINNED_MAPS.items():
        if name in plan.filters:
            path = plan.filters[name]
            ids[name] = bpf.check_pinned_hash(path, *sizes).id
            opened = os.open(path, os.O_PATH)
            os.dup2(opened, descriptor)
            os.close(opened)
    return ids


def _check_same_maps(module: _Module, pinned: dict[str, int]) -> None:
    """Raise TcptraceError where a map is not the one that was checked."""
    for name, map_id in pinned.items():
        if bpf.map_info(module.map_fd(name)).id != map_id:
            raise TcptraceError(f"the pinned map for --{name} was replaced meanwhile; run again")


def obstacle_to(variant: Variant) -> str | None:
    """Return why the kernel does not permit a hook that `variant` needs, or None."""
    needed = (hook for hook in variant.hooks if not hook.optional)
    return next(filter(None, map(obstacle, needed)), None)


def _without_optional(variant: Variant, note: Callable[[str], None]) -> Variant:
    """Return `variant` without the optional hooks that the kernel does not permit."""
    reasons = {hook: obstacle(hook) for hook in variant.hooks if hook.optional}
    for reason in filter(None, reasons.values()):
        note(f"left out: {reason}")
    hooks = tuple(hook for hook in variant.hooks if not reasons.get(hook))
    return dataclasses.replace(variant, hooks=hooks)


def usable_variants(plan: Plan, note: Callable[[str], None]) -> Iterator[Variant]:
    """Yield the variants whose hooks this kernel permits, best first; note why not for others."""
    for variant in plan.variants():
        reason = obstacle_to(variant)
        if reason is None:
            yield _without_optional(variant, note)
        else:
            note(f"{variant.backend} refused: {reason}")


def _attach(module: _Module, plan: Plan, variant: Variant, notes: list[str]) -> Attached:
    """Load and attach the programs of `variant`. Raises OSError, with nothing left attached."""
    maps = {name: module.map_fd(name) for name in ("events", "counters", *plan.maps())}
    programs = {hook: module.load(hook) for hook in variant.hooks}
    counted = [program for hook, program in programs.items() if not hook.stands_in]
    attached = Attached(variant.backend, notes, maps, counted, links=[])
    try:
        for hook, program in programs.items():
            attached.links.append(attach(hook, program))
    except OSError:
        attached.detach()
        raise
    return attached


def _fires(self_test: Callable[[], None], attached: Attached) -> bool:
    """Tell whether the hooks see the event that `self_test` makes.

    A compiler may have inlined a function at the calls that matter; its hook is then silent.
    """
    before = bpf.lookup_u64(attached.maps["counters"], SELF_TEST)
    self_test()
    return bpf.lookup_u64(attached.maps["counters"], SELF_TEST) > before


def attach_best(plan: Plan) -> Attached:
    """Attach the best variant of the plan's probe that this kernel permits and that fires.

    Raises:
        TcptraceError: there is none, or the plan cannot be honoured.

    """
    notes: list[str] = []
    pinned = _hold_pinned_maps(plan)
    _lift_memory_limit()
    if "mntnsmap" in plan.filters and not headers.from_btf(plan.headers):
        raise RefusedError(
            "--mntnsmap needs the kernel's BTF: kernel headers do not describe mount namespaces.\n"
            "Filter by --cgroup or --netns, or boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
        )
    flags = headers.prepare(plan.headers, plan.types)
    self_test = plan.probe.self_test
    try:
        flags.append(f"-DSELF_TEST_NETNS={enter_test_network()}U")
    except OSError as error:
        self_test = None
        notes.append(f"whether hooks fire was not tried: {error}")
    for variant in usable_variants(plan, notes.append):
        try:
            module = _Module(plan, variant, flags)
            _check_same_maps(module, pinned)
            attached = _attach(module, plan, variant, notes)
        except OSError as error:
            notes.append(f"{variant.backend} refused: {error.strerror}")
            continue
        if self_test is None or _fires(self_test, attached):
            # Held open as long as the programs, which skip this namespace by its inode number:
            # else the next namespace that the kernel makes would be given that number.
            attached.links.append(os.open("/proc/self/ns/net", os.O_RDONLY))
            notes.append(f"{plan.probe.name}: {variant.backend}")
            notes += [f"  {hook}" for hook in variant.hooks if not hook.stands_in]
            return attached
        notes.append(f"{variant.backend} refused: {variant.hooks[-1]} stays silent")
        attached.detach()
    raise TcptraceError(no_backend(plan), details="\n".join(notes))


def no_backend(plan: Plan) -> str:
    """Return an error that says what there is in place of what was asked for."""
    if plan.backend == "auto":
        return (
            f"this kernel permits no way to trace {plan.probe.name}.\n`tcptrace doctor` tells why"
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
