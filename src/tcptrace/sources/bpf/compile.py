"""Compile a plan's C with bcc; in the loader's child alone, which is where bcc and LLVM are."""

from __future__ import annotations

from collections.abc import Sequence

from tcptrace.errors import TcptraceError
from tcptrace.probes.probe import Variant
from tcptrace.sources.bpf.find_bcc import import_bcc
from tcptrace.sources.plan import Plan, c_source, cflags


class Module:
    """One C source that bcc has compiled, in bcc's own terms."""

    def __init__(self, plan: Plan, variant: Variant, extra: Sequence[str]) -> None:
        bcc = import_bcc()
        self.lib = bcc.lib
        self.types = bcc.BPF
        self.version = tuple(int(part) for part in bcc.__version__.split(".")[:2])
        text, flags = c_source(plan).encode(), [*cflags(plan, variant), *extra]
        try:
            self.compiled = bcc.BPF(text=text, cflags=flags)
        except Exception as error:  # bcc raises nothing more precise
            msg = (
                f"bcc cannot compile the probe {plan.probe.name} for this kernel: {error}.\n"
                "Run again with -v for the compiler's words"
            )
            raise TcptraceError(msg) from error

    def map_fd(self, name: str) -> int:
        """Return the descriptor of a map."""
        return int(self.compiled[name.encode()].map_fd)
