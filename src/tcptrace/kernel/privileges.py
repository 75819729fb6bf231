"""What this process may do."""

from __future__ import annotations

from pathlib import Path

from tcptrace.errors import TcptraceError

# include/uapi/linux/capability.h
CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF = 21, 38, 39


def effective_capabilities() -> int:
    """Return the effective capabilities as a bit mask (proc(5), CapEff)."""
    for line in Path("/proc/self/status").read_bytes().split(b"\n"):
        if line.startswith(b"CapEff:"):
            return int(line.split()[1], 16)
    return 0


def may_trace() -> bool:
    """Tell whether this process has CAP_SYS_ADMIN, or CAP_BPF and CAP_PERFMON."""
    mask = effective_capabilities()
    return bool(mask >> CAP_SYS_ADMIN & 1) or bool(mask >> CAP_BPF & mask >> CAP_PERFMON & 1)


def require_tracing() -> None:
    """Raise TcptraceError unless this process may trace."""
    if may_trace():
        return
    mask = effective_capabilities()
    known = {"CAP_BPF": CAP_BPF, "CAP_PERFMON": CAP_PERFMON}
    lacking = [name for name, number in known.items() if not mask >> number & 1]
    missing = f"; {lacking[0]} is missing" if len(lacking) == 1 else ""
    raise TcptraceError(
        f"tracing needs root, or the capabilities CAP_BPF and CAP_PERFMON{missing}.\n"
        "Try it with sudo"
    )
