"""What this kernel offers to a tracer, each answer asked of the kernel itself.

`gather` may mount tracefs for its process alone: call it through `in_child.ask`.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from tcptrace.errors import TcptraceError
from tcptrace.kernel import apart, bpf, btf, cgroups, privileges, syscalls, tracefs
from tcptrace.kernel.hooks import Hook, obstacle

LOCKDOWN = Path("/sys/kernel/security/lockdown")

# include/uapi/linux/bpf.h
MAP_CREATE, MAP_TYPE_RINGBUF = 0, 27
PROGRAM_TYPES = {"kprobe": 2, "tracepoint": 5, "raw_tracepoint": 17}
# include/uapi/linux/capability.h: those that bear on tracing
CAPABILITIES = {"CAP_SYS_ADMIN": 21, "CAP_SYS_RESOURCE": 24, "CAP_PERFMON": 38, "CAP_BPF": 39}

# One hook of each type, on what every kernel has.
HOOKS = (
    Hook("fentry", "inet_csk_accept", ""),
    Hook("fexit", "inet_csk_accept", ""),
    Hook("kprobe", "inet_csk_accept", ""),
    Hook("kretprobe", "inet_csk_accept", ""),
    Hook("tracepoint", "syscalls:sys_exit_accept4", ""),
    Hook("raw_tracepoint", "inet_sock_set_state", ""),
)
NOT_ASKED = "not asked: this needs root"


@dataclasses.dataclass(frozen=True, slots=True)
class Fact:
    """One answer."""

    key: str
    """Its name, for people and for JSON."""
    value: str
    good: bool | None
    """None where it is neither good nor bad, or could not be asked."""
    advice: str = ""
    """What to do about what is not good."""


def gather() -> list[Fact]:
    """Return what is known of the kernel, on one screen's lines."""
    return [
        Fact("release", os.uname().release, None),
        _types(),
        _headers(),
        _libbpf(),
        _capabilities(),
        *_rights(),
        _lockdown(),
        _tracefs(),
        _ring_buffer(),
        _programs(),
        _cgroup2(),
    ]


def gather_hooks() -> list[Fact]:
    """Return for each type of hook whether the kernel permits it, by attaching to one."""
    return [*map(_hook, HOOKS), _ftrace()]


def _types() -> Fact:
    if not btf.VMLINUX.exists():
        advice = "Boot a kernel with CONFIG_DEBUG_INFO_BTF=y, or install its headers"
        return Fact("btf", f"{btf.VMLINUX} is missing", good=False, advice=advice)
    return Fact("btf", str(btf.VMLINUX), good=True)


def _headers() -> Fact:
    place = Path("/lib/modules", os.uname().release, "build")
    found = str(place) if place.exists() else f"{place} is missing"
    needless = ", not needed: the kernel describes its types" if btf.VMLINUX.exists() else ""
    return Fact("headers", found + needless, None)


def _libbpf() -> Fact:
    try:
        library = btf.libbpf()
    except TcptraceError as error:
        found, _, advice = str(error).partition("; ")
        return Fact("libbpf", found, good=False, advice=advice.capitalize())
    try:
        version = library.libbpf_version_string
    except AttributeError:  # before 0.6
        return Fact("libbpf", "older than 0.6", good=True)
    version.restype = ctypes.c_char_p
    return Fact("libbpf", version().decode().removeprefix("v"), good=True)


def _capabilities() -> Fact:
    mask = privileges.effective_capabilities()
    names = [name for name, number in CAPABILITIES.items() if mask >> number & 1]
    advice = "Run it as root, with sudo, or with CAP_BPF and CAP_PERFMON"
    good = privileges.may_trace()
    found = ", ".join(names) or "none that tracing needs"
    return Fact("capabilities", found, good=good, advice="" if good else advice)


def _rights() -> Iterator[Fact]:
    """Yield who would trace when all is attached, and what is missing for want of rights."""
    yield Fact("traces_as", apart.outlook(os.environ), None)
    if privileges.may_trace():
        for number, what in enumerate(privileges.missed()):
            yield Fact(f"missing_{number + 1}", what, None)


def _lockdown() -> Fact:
    """Return the mode of lockdown_lsm(7): confidentiality keeps BPF from kernel memory."""
    try:
        modes = LOCKDOWN.read_text(encoding="ascii").split()
    except FileNotFoundError:
        return Fact("lockdown", "unknown: no securityfs, or a kernel without it", None)
    except OSError as error:
        return Fact("lockdown", f"unknown: {error.strerror}", None)
    mode = next((mode.strip("[]") for mode in modes if mode.startswith("[")), "unknown")
    if mode == "confidentiality":
        advice = "Boot with lockdown=integrity, or without lockdown"
        return Fact("lockdown", mode, good=False, advice=advice)
    return Fact("lockdown", mode, good=True)


def _tracefs() -> Fact:
    place = tracefs.find()
    if place:
        return Fact("tracefs", str(place), good=True)
    if not privileges.may_trace():
        return Fact("tracefs", f"not readable; {NOT_ASKED}", None)
    try:
        tracefs.find_or_mount()
    except TcptraceError as error:
        found, _, advice = str(error).partition("\n")
        return Fact("tracefs", found.rstrip("."), good=False, advice=advice)
    return Fact("tracefs", "not mounted; a run mounts it for itself alone", good=True)


def _ring_buffer() -> Fact:
    if not privileges.may_trace():
        return Fact("ring_buffer", NOT_ASKED, None)
    page = os.sysconf("SC_PAGE_SIZE")
    attributes = syscalls.pack_attributes("IIII", MAP_TYPE_RINGBUF, 0, 0, page)
    try:
        os.close(syscalls.bpf(MAP_CREATE, attributes))
    except OSError as error:
        advice = "Boot Linux 5.8 or newer"
        return Fact("ring_buffer", error.strerror or "refused", good=False, advice=advice)
    return Fact("ring_buffer", "yes", good=True)


def _loads(program_type: int) -> bool:
    try:
        os.close(bpf.load_empty(program_type))
    except OSError:
        return False
    return True


def _programs() -> Fact:
    """Return the types of BPF programs that load; fentry's type is tried with its hook."""
    if not privileges.may_trace():
        return Fact("programs", NOT_ASKED, None)
    names = [name for name, number in PROGRAM_TYPES.items() if _loads(number)]
    advice = "" if names else "Boot a kernel with CONFIG_BPF_SYSCALL and CONFIG_BPF_EVENTS"
    return Fact("programs", ", ".join(names) or "none can be loaded", bool(names), advice)


def _cgroup2() -> Fact:
    place = cgroups.mount_point()
    if place is None:
        return Fact("cgroup2", "not mounted: --cgroup has nothing to take", None)
    return Fact("cgroup2", place, good=True)


def _ftrace() -> Fact:
    """Return whether tracefs alone will do, for the backend ftrace."""
    if not privileges.may_trace() and not tracefs.find():
        return Fact("ftrace", NOT_ASKED, None)
    reason = tracefs.obstacle()
    return Fact("ftrace", reason.splitlines()[0] if reason else "yes", good=not reason)


def _hook(hook: Hook) -> Fact:
    if not privileges.may_trace():
        return Fact(hook.how, NOT_ASKED, None)
    reason = obstacle(hook)
    if reason is None:
        return Fact(hook.how, "yes", good=True)
    return Fact(hook.how, reason.removeprefix(f"{hook}: ").splitlines()[0], good=False)
