"""Load what was compiled into the kernel and attach it; pinned maps are found in their places."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import resource
from collections.abc import Callable

from tcptrace.errors import TcptraceError
from tcptrace.kernel import bpf
from tcptrace.kernel.hooks import Hook, attach
from tcptrace.probes.probe import Variant
from tcptrace.sources.bpf.compile import Module
from tcptrace.sources.plan import Plan

PROGRAM_TYPES = {
    "fentry": "TRACING",
    "fexit": "TRACING",
    "kprobe": "KPROBE",
    "kretprobe": "KPROBE",
    "tracepoint": "TRACEPOINT",
    "raw_tracepoint": "RAW_TRACEPOINT",
}
# The descriptors by which probes/c/prelude.bpf.c names these maps, and key and value sizes in
# bytes, as bcc's tools declare them. A path of the user's is not for the compiler: newer clang (19
# does) refuses octal escapes where bcc has it, in the name of a section.
PINNED_MAPS = {"cgroupmap": (100, 8, 8), "mntnsmap": (101, 8, 4)}
NAMES_MODULES = (0, 28)
"""The first bcc that puts a module's name before a function's."""
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


def lift_memory_limit() -> None:
    """Before 5.11, kernels count maps as locked memory."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, unlimited)


def hold_pinned_maps(plan: Plan) -> dict[str, int]:
    """Open the pinned maps that the plan's filters name where the C source finds them.

    Return their ids. Raises RefusedError.
    """
    ids = {}
    for name, (descriptor, *sizes) in PINNED_MAPS.items():
        if name in plan.filters.values:
            path = plan.filters.values[name].path
            ids[name] = bpf.check_pinned_hash(path, *sizes).id
            opened = os.open(path, os.O_PATH)
            os.dup2(opened, descriptor)
            os.close(opened)
    return ids


def check_same_maps(module: Module, pinned: dict[str, int]) -> None:
    """Raise TcptraceError where a map is not the one that was checked."""
    for name, map_id in pinned.items():
        if bpf.map_info(module.map_fd(name)).id != map_id:
            raise TcptraceError(f"the pinned map for --{name} was replaced meanwhile; run again")


def _load(module: Module, hook: Hook) -> int:
    """Load the program of `hook`; return its descriptor. Raises OSError.

    bcc takes the function that a trampoline is for from the program's name, where from 0.28 on a
    module's name stands before it. The name is given here, so that one C function can serve several
    kernel functions.
    """
    prefix = {"fentry": "kfunc__", "fexit": "kretfunc__"}.get(hook.how)
    names = [hook.program]
    if prefix:
        names = [prefix + hook.target, f"{prefix}vmlinux__{hook.target}"]
        if module.version >= NAMES_MODULES:
            names.reverse()
    for name in names:
        descriptor = _load_as(module, name, hook)
        if descriptor >= 0:
            return descriptor
    number = ctypes.get_errno()
    raise OSError(number, f"{hook} cannot be loaded: {os.strerror(number)}")


def _load_as(module: Module, name: str, hook: Hook) -> int:
    lib, compiled, function = module.lib, module.compiled.module, hook.program.encode()
    arguments = (
        compiled,
        getattr(module.types, PROGRAM_TYPES[hook.how]),
        name.encode(),
        lib.bpf_function_start(compiled, function),
        lib.bpf_function_size(compiled, function),
        lib.bpf_module_license(compiled),
        lib.bpf_module_kern_version(compiled),
        0,  # log level
        None,  # log buffer
        0,  # its size
        None,  # device
        -1,  # attach type, from bcc 0.25
    )
    return int(lib.bcc_func_load(*arguments[: len(lib.bcc_func_load.argtypes)]))


def attach_variant(module: Module, plan: Plan, variant: Variant, notes: list[str]) -> Attached:
    """Load and attach the programs of `variant`. Raises OSError, with nothing left attached."""
    maps = {name: module.map_fd(name) for name in ("events", "counters", *plan.maps())}
    programs = {hook: _load(module, hook) for hook in variant.hooks}
    counted = [program for hook, program in programs.items() if not hook.stands_in]
    attached = Attached(variant.backend, notes, maps, counted, links=[])
    try:
        for hook, program in programs.items():
            attached.links.append(attach(hook, program))
    except OSError:
        attached.detach()
        raise
    return attached


def fires(self_test: Callable[[], None], attached: Attached) -> bool:
    """Tell whether the hooks see the event that `self_test` makes.

    A compiler may have inlined a function at the calls that matter; its hook is then silent.
    """
    before = bpf.lookup_u64(attached.maps["counters"], SELF_TEST)
    self_test()
    return bpf.lookup_u64(attached.maps["counters"], SELF_TEST) > before
