"""A seccomp filter (seccomp(2)): the system calls that a process may make from now on.

What is not listed here fails with EPERM. There is no exec, no ptrace, no mount, no bpf, no new
socket and no other user among them. The filter is classic BPF over `struct seccomp_data`
(include/uapi/linux/seccomp.h), for the machines of `ARCHITECTURES`; others have none.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

from tcptrace.kernel.syscalls import c_pointer, seccomp

# Each call with its number on x86_64 and on aarch64 (asm/unistd_64.h, asm-generic/unistd.h).
IO = """
read 0 63, write 1 64, readv 19 65, writev 20 66, pread64 17 67, pwrite64 18 68, preadv 295 69,
pwritev 296 70, preadv2 327 286, pwritev2 328 287, lseek 8 62, close 3 57, close_range 436 436,
dup 32 23, dup2 33 -, dup3 292 24, pipe 22 -, pipe2 293 59, fsync 74 82, fdatasync 75 83,
sync_file_range 277 84, ftruncate 77 46, fallocate 285 47, fadvise64 221 223, flock 73 32,
sendfile 40 71, getdents64 217 61, memfd_create 319 279,
recvfrom 45 207, recvmsg 47 212, sendto 44 206, sendmsg 46 211, shutdown 48 210,
getsockname 51 204, getpeername 52 205, getsockopt 55 209, setsockopt 54 208
"""
LOOKING = """
fstat 5 80, newfstatat 262 79, stat 4 -, lstat 6 -, statx 332 291, fstatfs 138 44, statfs 137 43,
access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getcwd 79 17
"""
WAITING = """
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72, epoll_create 213 -, epoll_create1 291 20,
epoll_ctl 233 21, epoll_wait 232 -, epoll_pwait 281 22, epoll_pwait2 441 441, eventfd2 290 19,
timerfd_create 283 85, timerfd_settime 286 86, timerfd_gettime 287 87, pause 34 -, nanosleep 35 101,
clock_nanosleep 230 115, clock_gettime 228 113, clock_getres 229 114, gettimeofday 96 169,
time 201 -, times 100 153, getitimer 36 102, setitimer 38 103, alarm 37 -, wait4 61 260,
waitid 247 95, restart_syscall 219 128, rt_sigaction 13 134, rt_sigprocmask 14 135,
rt_sigreturn 15 139, rt_sigpending 127 136, rt_sigtimedwait 128 137, rt_sigsuspend 130 133,
sigaltstack 131 132
"""
ITSELF = """
mmap 9 222, munmap 11 215, mremap 25 216, mprotect 10 226, brk 12 214, madvise 28 233, msync 26 227,
mincore 27 232, membarrier 324 283, futex 202 98, set_robust_list 273 99,
rseq 334 293, set_tid_address 218 96, arch_prctl 158 -, exit 60 93, exit_group 231 94,
getpid 39 172, getppid 110 173, gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176,
getegid 108 177, getresuid 118 148, getresgid 120 150, getgroups 115 158, getpgrp 111 -,
getpgid 121 155, getsid 124 156, uname 63 160, sysinfo 99 179, getrusage 98 165, getrlimit 97 163,
getcpu 309 168, sched_yield 24 124, sched_getaffinity 204 123,
sched_getparam 143 121, sched_getscheduler 145 120, sched_get_priority_max 146 125,
sched_get_priority_min 147 126, getpriority 140 141, getrandom 318 278
"""
FILES = """
unlink 87 -, unlinkat 263 35, rename 82 -, renameat 264 38,
renameat2 316 276, mkdir 83 -, mkdirat 258 34, rmdir 84 -, link 86 -, linkat 265 37
"""
"""What makes and removes files; where Landlock, or the user, leaves any."""
_CHECKED = """
open 2 -, openat 257 56, clone 56 220, clone3 435 435, ioctl 16 29, kill 62 129, tgkill 234 131,
prctl 157 167, bpf 321 280, socket 41 198, open_by_handle_at 304 265, setns 308 268, connect 42 203,
pidfd_send_signal 424 424, seccomp 317 277, fcntl 72 25, prlimit64 302 261,
fchmod 91 52
"""
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # include/uapi/linux/audit.h
"""The machines that have filters."""

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_MAKES = os.O_CREAT | os.O_TMPFILE & ~os.O_DIRECTORY
"""Only a file that is made gets a mode."""
_BEYOND_RWX = 0o7000
"""Who owns no more than a file's bytes must not have others run them as its owner."""
CLONE_THREAD = 0x10000
PR_SET_NAME, PR_GET_NAME, PR_SET_VMA = 15, 16, 0x53564D41
# A terminal's state, its size and its foreground group; never TIOCSTI, which types for the user.
_TERMINAL = (0x5401, 0x5402, 0x5403, 0x5404, 0x540B, 0x540F, 0x5410, 0x5413)
_DESCRIPTOR = (0x541B, 0x5421, 0x5450, 0x5451)  # FIONREAD, FIONBIO, FIONCLEX, FIOCLEX

# Of include/uapi/linux/fcntl.h what is about a descriptor, its locks, its pipe and its seals; never
# F_SETOWN, F_SETSIG and their like, by which the kernel sends signals to whom it is told.
_ABOUT_DESCRIPTORS = (*range(8), 36, 37, 38, 1030, 1031, 1032, 1033, 1034)

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
ACTIONS = "/proc/sys/kernel/seccomp/actions_avail"
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16
_INSTRUCTION = struct.Struct("=HBBI")


class Rule(NamedTuple):
    """A call that is permitted, or only where an argument's low 32 bits pass all tests."""

    call: str
    argument: int = 0
    values: Collection[int] | None = None
    """It is one of these."""
    without: int = 0
    """It has none of these bits."""
    having: int = 0
    """It has one of these bits."""


def reads_only() -> list[Rule]:
    """Return rules that let files be opened, but not for writing."""
    return [Rule("openat", 2, without=WRITES), Rule("open", 1, without=WRITES)]


def files() -> list[Rule]:
    """Return rules that let files be made, written and removed; none is another's program."""
    return [
        *(Rule(name) for name in _names(FILES)),
        *(Rule("openat", 2, without=_MAKES), Rule("openat", 3, without=_BEYOND_RWX)),
        *(Rule("open", 1, without=_MAKES), Rule("open", 2, without=_BEYOND_RWX)),
    ]


def signals(processes: Collection[int]) -> list[Rule]:
    """Return rules that let signals be sent to these processes.

    Others may be asked whether they are there, with signal 0, which is sent to nobody.
    """
    return [Rule("kill", 0, processes), Rule("kill", 1, (0,)), Rule("tgkill", 0, processes)]


def base() -> list[Rule]:
    """Return the rules of what every process does: on what is open, and on itself."""
    return [
        *(Rule(name) for group in (IO, LOOKING, WAITING, ITSELF) for name in _names(group)),
        Rule("clone", 0, having=CLONE_THREAD),
        Rule("ioctl", 1, (*_TERMINAL, *_DESCRIPTOR)),
        Rule("fcntl", 1, _ABOUT_DESCRIPTORS),
        Rule("fchmod", 1, without=_BEYOND_RWX),
        Rule("prlimit64", 0, (0,)),  # another process's limits can be its end
        Rule("prctl", 0, (PR_SET_NAME, PR_GET_NAME, PR_SET_VMA)),
    ]


def is_there() -> bool:
    """Tell whether this machine and its kernel have filters."""
    return platform.machine() in ARCHITECTURES and os.path.exists(ACTIONS)  # noqa: PTH110 - text


def install(rules: Sequence[Rule]) -> bool:
    """Permit this process, with all of its threads, nothing but these calls from now on.

    Return False where this machine, or its kernel, has no filters.
    """
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        return False
    code = assemble(rules, machine)
    instructions = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("=H6xQ", len(code) // _INSTRUCTION.size, c_pointer(instructions))
    try:
        seccomp(numbers(machine)["seccomp"], program)
    except OSError:
        return False
    return True


def assemble(rules: Sequence[Rule], machine: str) -> bytes:
    """Return the program that lets these calls pass on a machine of `ARCHITECTURES`."""
    known = numbers(machine)
    code = _load(_ARCHITECTURE_AT) + _unless(ARCHITECTURES[machine], _fail(errno.EPERM))
    code += _load(_NUMBER_AT)
    # It has its flags in memory, where a filter cannot look: libc takes clone where it fails so.
    code += _when(known["clone3"], _fail(errno.ENOSYS))
    for call, same in groupby(sorted(rules), key=lambda rule: rule.call):
        if call in known:
            tests = b"".join(map(_test, same))
            plain = tests == _ALLOW
            code += _when(known[call], tests if plain else tests + _fail(errno.EPERM))
    return code + _fail(errno.EPERM)


def _test(rule: Rule) -> bytes:
    """Return what allows a call where the rule does, and goes on where it does not."""
    if rule.values is not None:
        tests = b"".join(_when(value & 0xFFFFFFFF, _ALLOW) for value in rule.values)
        return _load(_ARGUMENTS_AT + 8 * rule.argument) + tests
    if rule.without:
        test = _instruction(_ANY_BIT, rule.without, 1, 0)
    elif rule.having:
        test = _instruction(_ANY_BIT, rule.having, 0, 1)
    else:
        return _ALLOW
    return _load(_ARGUMENTS_AT + 8 * rule.argument) + test + _ALLOW


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return _INSTRUCTION.pack(code, if_true, if_false, value)


_ALLOW = _instruction(_RETURN, SECCOMP_RET_ALLOW)


def _load(at: int) -> bytes:
    return _instruction(_LOAD, at)


def _fail(number: int) -> bytes:
    return _instruction(_RETURN, SECCOMP_RET_ERRNO | number)


def _when(value: int, then: bytes) -> bytes:
    """Return what does something where a value was loaded, and else goes on behind that."""
    return _instruction(_EQUAL, value, 0, len(then) // _INSTRUCTION.size) + then


def _unless(value: int, then: bytes) -> bytes:
    return _instruction(_EQUAL, value, len(then) // _INSTRUCTION.size, 0) + then


def _names(table: str) -> list[str]:
    return [entry.split()[0] for entry in table.split(",")]


def numbers(machine: str) -> dict[str, int]:
    """Return the numbers that a machine of `ARCHITECTURES` has for the calls that are known here.

    A machine has not all of them: newer ones lack what older programs call.
    """
    column = list(ARCHITECTURES).index(machine)
    found = {}
    for table in (IO, LOOKING, WAITING, ITSELF, FILES, _CHECKED):
        for entry in table.split(","):
            name, *texts = entry.split()
            if texts[column] != "-":
                found[name] = int(texts[column])
    return found
