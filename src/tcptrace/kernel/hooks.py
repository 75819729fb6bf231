"""The hooks that a BPF program can be attached to, and whether this kernel permits them.

Attaching is done here and not by bcc: bcc falls back to kprobe events in tracefs, which outlive a
process that is killed. All that is attached here lives as long as its descriptor.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Literal

from tcptrace.errors import TcptraceError
from tcptrace.kernel import bpf, btf, tracefs
from tcptrace.kernel.shortage import check_shortage
from tcptrace.kernel.syscalls import c_pointer, perf_event_open

PMU = Path("/sys/bus/event_source/devices")
PERF_TYPE_SOFTWARE, PERF_TYPE_TRACEPOINT = 1, 2
PERF_COUNT_SW_DUMMY = 9
PERF_EVENT_IOC_ENABLE, PERF_EVENT_IOC_SET_BPF = 0x2400, 0x40042408

How = Literal["fentry", "fexit", "kprobe", "kretprobe", "tracepoint", "raw_tracepoint"]


@dataclasses.dataclass(frozen=True, slots=True)
class Hook:
    """A place in the kernel and the C function that runs there."""

    how: How
    target: str
    """A kernel function, a tracepoint ``category:event``, or a raw tracepoint's name."""
    program: str
    """The C function's name."""
    optional: bool = False
    """Left out where the kernel does not permit it."""
    stands_in: bool = False
    """Whether it does the work of the one before it, which has the same function, where the kernel
    has skipped that; see probes/c/stand_in.h."""

    def __str__(self) -> str:
        """Return it as bpftrace would write it."""
        return f"{self.how}:{self.target}"


def with_stand_in(tracepoint: str, program: str) -> tuple[Hook, Hook]:
    """Return the hooks of a program on a raw tracepoint and of its stand-in.

    The kernel calls them in this order.
    """
    first = Hook("raw_tracepoint", tracepoint, program)
    return first, dataclasses.replace(first, stands_in=True)


def _perf_attributes(kind: int, config: int, name_address: int = 0) -> bytes:
    """Pack struct perf_event_attr, version 5: sample period 1, wake up at each event."""
    return struct.pack("=IIQQQQQIIQQ", kind, 112, config, 1, 0, 0, 0, 1, 0, name_address, 0).ljust(
        112, b"\0"
    )


def _open_kprobe(function: str, *, at_return: bool) -> int:
    """Open a perf event on a kernel function's entry or return (kernel/events/core.c)."""
    kind = int((PMU / "kprobe/type").read_text())
    bit = (PMU / "kprobe/format/retprobe").read_text().strip().removeprefix("config:")
    name = ctypes.create_string_buffer(function.encode())
    config = 1 << int(bit) if at_return else 0
    return perf_event_open(_perf_attributes(kind, config, c_pointer(name)))


def _open_tracepoint(name: str) -> int:
    return perf_event_open(_perf_attributes(PERF_TYPE_TRACEPOINT, tracefs.tracepoint_id(name)))


def attach(hook: Hook, program: int) -> int:
    """Attach a loaded program; return the descriptor that holds it attached. Raises OSError."""
    if hook.how in ("fentry", "fexit"):
        return bpf.raw_tracepoint_open(program)
    if hook.how == "raw_tracepoint":
        return bpf.raw_tracepoint_open(program, hook.target)
    if hook.how == "tracepoint":
        event = _open_tracepoint(hook.target)
    else:
        event = _open_kprobe(hook.target, at_return=hook.how == "kretprobe")
    return _attach_to_event(event, program)


def _attach_to_event(event: int, program: int) -> int:
    """Attach to a perf event, by a link where the kernel has such, which can tell of misses."""
    with contextlib.suppress(OSError):
        link = bpf.link_perf_event(program, event)
        os.close(event)
        return link
    try:
        fcntl.ioctl(event, PERF_EVENT_IOC_SET_BPF, program)
        fcntl.ioctl(event, PERF_EVENT_IOC_ENABLE, 0)
    except OSError:
        os.close(event)
        raise
    return event


def _try(hook: Hook) -> None:
    """Do with an empty program what attaching would do, or all but; nothing remains of it."""
    opened = []
    try:
        if hook.how in ("fentry", "fexit"):
            place = bpf.TRACE_FENTRY if hook.how == "fentry" else bpf.TRACE_FEXIT
            function = btf.function_id(hook.target)
            if not function:
                raise OSError(errno.ENOENT, "the kernel has no such function")
            # Not attached: the kernel waits long before it lets a trampoline go.
            opened.append(bpf.load_empty(bpf.PROG_TYPE_TRACING, place, function))
        elif hook.how == "raw_tracepoint":
            opened.append(bpf.load_empty(bpf.PROG_TYPE_RAW_TRACEPOINT))
            opened.append(bpf.raw_tracepoint_open(opened[0], hook.target))
        elif hook.how == "tracepoint":
            tracefs.tracepoint_id(hook.target)
            # One that counts nothing: the kernel waits long before it lets a tracepoint go.
            opened.append(
                perf_event_open(_perf_attributes(PERF_TYPE_SOFTWARE, PERF_COUNT_SW_DUMMY))
            )
        else:
            if not (PMU / "kprobe").is_dir():
                raise OSError(errno.EOPNOTSUPP, "the kernel has no kprobes")
            opened.append(_open_kprobe(hook.target, at_return=hook.how == "kretprobe"))
    finally:
        for descriptor in opened:
            os.close(descriptor)


_REASONS = {
    errno.EPERM: "not permitted (EPERM)",
    errno.EACCES: "not permitted (EACCES)",
    errno.ENOENT: "this kernel has no such hook",
    errno.EINVAL: "this kernel cannot do it (EINVAL)",
}


def obstacle(hook: Hook) -> str | None:
    """Return why `hook` cannot be used on this kernel, or None where it can."""
    try:
        _try(hook)
    except TcptraceError as error:
        return f"{hook}: {error}"
    except OSError as error:
        check_shortage(error, f"cannot try {hook}")
        number = error.errno or 0
        return f"{hook}: {_REASONS.get(number, error.strerror)}"
    return None
