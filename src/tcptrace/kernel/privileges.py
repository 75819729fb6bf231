"""What this process may do."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tcptrace.errors import RightsError

# include/uapi/linux/capability.h
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_KILL, CAP_SYS_PTRACE = 1, 2, 5, 19
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39


NAMES = {
    CAP_DAC_OVERRIDE: "CAP_DAC_OVERRIDE",
    CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH",
    CAP_KILL: "CAP_KILL",
    CAP_SYS_PTRACE: "CAP_SYS_PTRACE",
    CAP_SYS_ADMIN: "CAP_SYS_ADMIN",
    CAP_PERFMON: "CAP_PERFMON",
    CAP_BPF: "CAP_BPF",
}


MISSED = {
    CAP_DAC_READ_SEARCH: "no cgroups, units, containers and pods; no tracefs closed to others",
    CAP_SYS_PTRACE: "no holders of sockets, and no network namespaces of others' processes",
    CAP_SYS_ADMIN: "no sockets of other network namespaces, no trial whether hooks fire",
}
"""What is not to be had without a right that tracing can do without."""


def missed() -> list[str]:
    """Return what is not to be had for want of rights, each with its capability."""
    mask = permitted_capabilities()
    lacking = [number for number in MISSED if not mask >> number & 1]
    return [f"without {NAMES[number]}: {MISSED[number]}" for number in lacking]


def names_of(capabilities: Iterable[int]) -> str:
    """Return capabilities for people."""
    return ", ".join(NAMES[number] for number in sorted(capabilities)) or "no capability"


def effective_capabilities() -> int:
    """Return the effective capabilities as a bit mask (proc(5), CapEff)."""
    return _mask(b"CapEff:")


def permitted_capabilities() -> int:
    """Return the capabilities that this process may have, as a bit mask (proc(5), CapPrm)."""
    return _mask(b"CapPrm:")


def _mask(name: bytes) -> int:
    for line in Path("/proc/self/status").read_bytes().split(b"\n"):
        if line.startswith(name):
            return int(line.split()[1], 16)
    return 0


def may_trace() -> bool:
    """Tell whether this process has CAP_SYS_ADMIN, or CAP_BPF and CAP_PERFMON."""
    mask = effective_capabilities()
    return bool(mask >> CAP_SYS_ADMIN & 1) or bool(mask >> CAP_BPF & mask >> CAP_PERFMON & 1)


def require_tracing() -> None:
    """Raise RightsError unless this process may trace."""
    if may_trace():
        return
    mask = effective_capabilities()
    known = {"CAP_BPF": CAP_BPF, "CAP_PERFMON": CAP_PERFMON}
    lacking = [name for name, number in known.items() if not mask >> number & 1]
    missing = f"; {lacking[0]} is missing" if len(lacking) == 1 else ""
    raise RightsError(
        f"tracing needs root, or the capabilities CAP_BPF and CAP_PERFMON{missing}.\n"
        "Try it with sudo"
    )
