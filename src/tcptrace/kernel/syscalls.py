"""The system calls that Python lacks, through libc. Every failure is an OSError."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct

libc = ctypes.CDLL(None, use_errno=True)

# arch/*/include/generated/asm: numbers of bpf(2) and perf_event_open(2).
_NUMBERS = {
    "x86_64": (321, 298),
    "aarch64": (280, 241),
    "riscv64": (280, 241),
    "ppc64le": (361, 319),
    "s390x": (351, 331),
}

# The same on all of these machines.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
FSCONFIG_CMD_CREATE = 6

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _number(which: int) -> int:
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise OSError(38, f"no system call numbers are known for {machine}")
    return _NUMBERS[machine][which]


def bpf(command: int, attributes: ctypes.Array[ctypes.c_char]) -> int:
    """Ask the kernel for a BPF `command`; it may write to what `attributes` points to."""
    result = libc.syscall(_number(0), command, attributes, ctypes.sizeof(attributes))
    return _checked(result, "bpf")


def perf_event_open(attributes: bytes) -> int:
    """Open a perf event for all processes on CPU 0, which is enough for probes; close on exec."""
    cloexec = 8
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    result = libc.syscall(_number(1), buffer, -1, 0, -1, cloexec)
    return _checked(result, "perf_event_open")


def open_by_handle_at(mount: int, kind: int, handle: int, flags: int) -> int:
    """Open a file by an 8-byte handle of this kind; `mount` is a descriptor in its file system."""
    packed = struct.pack("=IiQ", 8, kind, handle)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    return _checked(libc.open_by_handle_at(mount, buffer, flags), "open_by_handle_at")


def unshare(flags: int) -> None:
    """Leave the namespaces in `flags` for new ones."""
    _checked(libc.unshare(flags), "unshare")


def setns(namespace: int, kind: int) -> None:
    """Enter a namespace by its descriptor; Python has it from 3.12 on."""
    _checked(libc.setns(namespace, kind), "setns")


def mount(source: str, target: str, kind: str, flags: int = 0) -> None:
    """Mount `source` on `target`."""
    _checked(
        libc.mount(source.encode(), os.fsencode(target), kind.encode() or None, flags, None),
        "mount",
    )


def detached_mount(kind: str) -> int:
    """Mount a file system nowhere; return the descriptor of its root, with which it goes."""
    cloexec = 1
    context = _checked(libc.syscall(_FSOPEN, kind.encode(), cloexec), "fsopen")
    try:
        made = libc.syscall(_FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        _checked(made, "fsconfig")
        return _checked(libc.syscall(_FSMOUNT, context, cloexec, 0), "fsmount")
    finally:
        os.close(context)


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends; end it now if that has ended."""
    _checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL), "prctl")
    if os.getppid() != parent:
        os._exit(1)


def c_pointer(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Return the address of `buffer`, which the caller keeps alive."""
    return ctypes.addressof(buffer)


def pack_attributes(form: str, *values: int | bytes) -> ctypes.Array[ctypes.c_char]:
    """Pack kernel attributes in native order without padding, zero-filled to 128 bytes."""
    packed = struct.pack("=" + form, *values).ljust(128, b"\0")
    return ctypes.create_string_buffer(packed, len(packed))


def prctl(option: int, *arguments: int) -> int:
    """Change or ask for an attribute of this process (prctl(2))."""
    padded = (ctypes.c_ulong(value) for value in (*arguments, 0, 0, 0, 0)[:4])
    return _checked(libc.prctl(option, *padded), "prctl")


def capset(effective: int, permitted: int) -> None:
    """Give this thread these capabilities, as bit masks, and let no program inherit any."""
    version = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
    header = ctypes.create_string_buffer(struct.pack("=Ii", version, 0), 8)
    halves = [(mask & 0xFFFFFFFF, mask >> 32) for mask in (effective, permitted)]
    low, high = zip(*halves, strict=True)
    data = ctypes.create_string_buffer(struct.pack("=6I", *low, 0, *high, 0), 24)
    _checked(libc.capset(header, data), "capset")


def seccomp(number: int, program: bytes) -> None:
    """Install a filter, a `struct sock_fprog`, in all threads; `number` is this call's own."""
    set_mode_filter, all_threads = 1, 1
    buffer = ctypes.create_string_buffer(program, len(program))
    _checked(libc.syscall(number, set_mode_filter, all_threads, buffer), "seccomp")


def landlock_create_ruleset(attributes: bytes) -> int:
    """Return a ruleset's descriptor; without attributes, the version of Landlock."""
    if not attributes:
        version_flag = 1
        return _checked(libc.syscall(_LANDLOCK_CREATE, None, 0, version_flag), "landlock")
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    return _checked(libc.syscall(_LANDLOCK_CREATE, buffer, len(attributes), 0), "landlock")


def landlock_add_path(ruleset: int, rights: int, directory: int) -> None:
    """Let a ruleset permit these rights below an open directory, or on an open file."""
    path_beneath = 1
    packed = struct.pack("=Qi", rights, directory)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    _checked(libc.syscall(_LANDLOCK_ADD, ruleset, path_beneath, buffer, 0), "landlock")


def landlock_restrict_self(ruleset: int) -> None:
    """Hold this thread to a ruleset."""
    _checked(libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock")
