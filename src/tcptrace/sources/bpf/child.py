"""The loader's work, in the child process: choose hooks, compile with bcc, load and attach.

Only this process imports bcc and LLVM. What it attaches lives on in the descriptors that it hands
to its parent.
"""

from __future__ import annotations

import os

from tcptrace.errors import RefusedError, TcptraceError
from tcptrace.kernel import headers
from tcptrace.kernel.confined import enter_test_network
from tcptrace.kernel.shortage import LOADING, check_shortage
from tcptrace.sources.bpf.choose import no_backend, usable_variants
from tcptrace.sources.bpf.compile import compile_shape
from tcptrace.sources.bpf.load import (
    Attached,
    Surroundings,
    attach_variant,
    fires,
    lift_memory_limit,
    open_pinned_maps,
)
from tcptrace.sources.plan import Plan, shape_of

READ_MAPS = ["events", "counters"]
"""The maps that every session reads."""


def attach_best(plan: Plan) -> Attached:
    """Attach the best variant of the plan's probe that this kernel permits and that fires.

    Raises:
        TcptraceError: there is none, or the plan cannot be honoured.

    """
    notes: list[str] = []
    pinned = open_pinned_maps(plan)
    lift_memory_limit()
    if "mntnsmap" in plan.filters.values and not headers.from_btf(plan.headers):
        raise RefusedError(
            "--mntnsmap needs the kernel's BTF: kernel headers do not describe mount namespaces.\n"
            "Filter by --cgroup or --netns, or boot a kernel with CONFIG_DEBUG_INFO_BTF=y"
        )
    flags = headers.prepare(plan.headers, plan.types)
    self_test, netns = plan.probe.self_test, 0
    try:
        netns = enter_test_network()
    except OSError as error:
        self_test = None
        notes.append(f"whether hooks fire was not tried: {error}")
    around = Surroundings(pinned, netns)
    for variant in usable_variants(plan, notes.append):
        shape = shape_of(plan, variant)
        programs = compile_shape(shape, flags)
        try:
            attached = attach_variant(programs, shape, variant, around)
        except OSError as error:
            check_shortage(error, "cannot load the programs", LOADING)
            notes.append(f"{variant.backend} refused: {error.strerror}")
            continue
        if self_test is None or fires(self_test, attached):
            # Held open as long as the programs, which skip this namespace by its inode number:
            # else the next namespace that the kernel makes would be given that number.
            attached.links.append(os.open("/proc/self/ns/net", os.O_RDONLY))
            notes.append(f"{plan.probe.name}: {variant.backend}")
            notes += [f"  {hook}" for hook in variant.hooks if not hook.stands_in]
            attached.maps = {name: attached.maps[name] for name in READ_MAPS + plan.maps()}
            attached.notes = notes
            return attached
        notes.append(f"{variant.backend} refused: {variant.hooks[-1]} stays silent")
        attached.detach()
    raise TcptraceError(no_backend(plan), details="\n".join(notes))
