"""The filter of system calls, run here as the kernel would run it."""

from __future__ import annotations

import errno
import os
import platform
import struct
from collections.abc import Sequence

import pytest

from tcptrace.kernel import keeper, seccomp, sockets
from tcptrace.kernel.seccomp import ARCHITECTURES, SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, Rule
from tcptrace.kernel.syscalls import CLONE_NEWNET

EXEC = {"x86_64": 59, "aarch64": 221}
OPENAT = {"x86_64": 257, "aarch64": 56}
CLONE = {"x86_64": 56, "aarch64": 220}
KILL = {"x86_64": 62, "aarch64": 129}
IOCTL = {"x86_64": 16, "aarch64": 29}
READ = {"x86_64": 0, "aarch64": 63}
FCNTL = {"x86_64": 72, "aarch64": 25}
PRLIMIT = {"x86_64": 302, "aarch64": 261}
FCHMOD = {"x86_64": 91, "aarch64": 52}
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
F_SETFL, F_SETOWN, F_SETSIG, F_SETOWN_EX = 4, 8, 10, 15
ARGUMENTS = (0, 1, 3, 7, 1 << 31, (1 << 32) - 1, (1 << 64) - 1)
PERMITTED, REFUSED = 0, errno.EPERM
CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
TIOCSTI, TIOCGWINSZ = 0x5412, 0x5413


def result(code: bytes, machine: str, number: int, *arguments: int, architecture: int = 0) -> int:
    """Return what a filter says of a call: 0 where it is permitted, else an errno."""
    padded = (*arguments, 0, 0, 0, 0, 0, 0)[:6]
    head = struct.pack("=IIQ", number, architecture or ARCHITECTURES[machine], 0)
    data = head + struct.pack("=6Q", *padded)
    instructions = [*struct.iter_unpack("=HBBI", code)]
    value, at = 0, 0
    while True:
        kind, if_true, if_false, operand = instructions[at]
        at += 1
        if kind == 0x20:
            (value,) = struct.unpack_from("=I", data, operand)
        elif kind == 0x15:
            at += if_true if value == operand else if_false
        elif kind == 0x45:
            at += if_true if value & operand else if_false
        else:
            assert kind == 0x06
            return 0 if operand == SECCOMP_RET_ALLOW else operand & ~SECCOMP_RET_ERRNO


@pytest.fixture(params=ARCHITECTURES)
def machine(request: pytest.FixtureRequest) -> str:
    """Each machine that has filters."""
    name: str = request.param
    return name


def tracing(machine: str) -> bytes:
    """Return the filter of a process that traces, whose own ids are 7 and 8."""
    rules = [*seccomp.base(), *seccomp.signals([7, 8]), *seccomp.reads_only()]
    return seccomp.assemble(rules, machine)


@pytest.mark.parametrize(
    ("calls", "arguments", "expected"),
    [
        (READ, (), PERMITTED),
        (EXEC, (), REFUSED),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_CLOEXEC), PERMITTED),
        (OPENAT, (0, 0, os.O_WRONLY), REFUSED),
        (OPENAT, (0, 0, os.O_RDWR), REFUSED),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_CREAT), REFUSED),
        (OPENAT, (0, 0, os.O_RDONLY | os.O_TRUNC), REFUSED),
        (CLONE, (0x3D0F00,), PERMITTED),
        (CLONE, (17,), REFUSED),
        (KILL, (8, 15), PERMITTED),
        (KILL, (9, 15), REFUSED),
        (KILL, (9, 0), PERMITTED),
        (KILL, (0xFFFFFFFF, 15), REFUSED),
        (IOCTL, (0, TIOCGWINSZ), PERMITTED),
        (IOCTL, (0, TIOCSTI), REFUSED),
        (IOCTL, (0, TIOCSTI + (1 << 32)), REFUSED),
        (FCNTL, (0, F_SETFL), PERMITTED),
        (FCNTL, (0, F_SETOWN), REFUSED),
        (FCNTL, (0, F_SETSIG), REFUSED),
        (FCNTL, (0, F_SETOWN_EX), REFUSED),
        (PRLIMIT, (0, 7), PERMITTED),
        (PRLIMIT, (7, 7), REFUSED),
        (SOCKETPAIR, (1, 2), REFUSED),
        (FCHMOD, (0, 0o600), PERMITTED),
        (FCHMOD, (0, 0o4755), REFUSED),
        (FCHMOD, (0, 0o2755), REFUSED),
    ],
)
def test_what_is_permitted(
    machine: str, calls: dict[str, int], arguments: Sequence[int], expected: int
) -> None:
    """Reading, threads, signals to its own; no program, no file to be written, no key strokes.

    Nor what comes to the same: a signal in the kernel's name, limits that end another process, a
    socket that sends to any address.
    """
    assert expected == result(tracing(machine), machine, calls[machine], *arguments)


@pytest.mark.parametrize(
    ("flags", "mode", "expected"),
    [
        (os.O_RDONLY, 0o7777, PERMITTED),
        (os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600, PERMITTED),
        (os.O_RDWR | os.O_CREAT, 0o4755, REFUSED),
        (os.O_RDWR | os.O_CREAT, 0o2755, REFUSED),
        (os.O_RDWR | os.O_TMPFILE, 0o4755, REFUSED),
    ],
)
def test_who_makes_files_makes_no_programs_of_root_s(
    machine: str, flags: int, mode: int, expected: int
) -> None:
    """One that stays root by its id, to write in root's directory, gives that id to nobody."""
    code = seccomp.assemble([*seccomp.base(), *seccomp.files()], machine)
    assert expected == result(code, machine, OPENAT[machine], 0, 0, flags, mode)


def test_who_lists_sockets_enters_no_namespace_but_of_networks(machine: str) -> None:
    """It has the capability for each kind, and for much else."""
    code = seccomp.assemble([*seccomp.base(), *sockets.calls()], machine)
    number = seccomp.numbers(machine)["setns"]
    kinds = (CLONE_NEWNET, 0, CLONE_NEWUSER, CLONE_NEWNS)
    assert [PERMITTED, *[REFUSED] * 3] == [result(code, machine, number, 3, kind) for kind in kinds]


def test_the_keeper_asks_and_writes_nothing(machine: str) -> None:
    """Where it holds nothing of tracefs."""
    code = seccomp.assemble([*seccomp.base(), *keeper.Holdings().calls()], machine)
    numbers = seccomp.numbers(machine)
    handle, open_ = numbers["open_by_handle_at"], numbers["openat"]
    assert [PERMITTED, REFUSED] == [
        result(code, machine, handle, 3, 0, flags) for flags in (os.O_DIRECTORY, os.O_RDWR)
    ]
    assert REFUSED == result(code, machine, open_, 0, 0, os.O_WRONLY)
    asked = [result(code, machine, numbers["bpf"], command) for command in range(40)]
    assert [1, 2, 4, 15] == [number for number, refused in enumerate(asked) if not refused]
    families = [result(code, machine, numbers["socket"], family) for family in range(50)]
    assert [1] == [number for number, refused in enumerate(families) if not refused]


def test_another_architecture_is_refused(machine: str) -> None:
    """Its numbers mean something else: those of 32-bit programs, for one."""
    code = tracing(machine)
    assert REFUSED == result(code, machine, READ[machine], architecture=0x40000003)
    assert REFUSED == result(code, machine, 0x40000000 | READ[machine])


def test_clone3_is_not_there(machine: str) -> None:
    """So libc makes threads with clone, whose flags can be seen."""
    assert errno.ENOSYS == result(tracing(machine), machine, 435)


def test_nothing_else_is_permitted(machine: str) -> None:
    """Of all numbers, so many as are listed pass, whatever their arguments."""
    code = tracing(machine)
    passed = {
        number
        for number in range(1000)
        if not all(result(code, machine, number, *[value] * 6) for value in ARGUMENTS)
    }
    forbidden = {"bpf", "socket", "connect", "setns", "seccomp", "open_by_handle_at"}
    numbers = seccomp.numbers(machine)
    assert passed <= {*numbers.values()} - {numbers[name] for name in forbidden}


def test_rules_for_one_call_add_up(machine: str) -> None:
    """A call passes where one of its rules lets it, wherever that stands."""
    rules = [Rule("kill", 1, (0,)), Rule("close"), Rule("kill", 0, (5,)), Rule("kill", 0, (6,))]
    code = seccomp.assemble(rules, machine)
    results = [result(code, machine, KILL[machine], pid, 9) for pid in (5, 6, 7)]
    assert [PERMITTED, PERMITTED, REFUSED] == results


def test_a_machine_without_numbers_has_no_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is said, and tracing goes on."""
    monkeypatch.setattr(platform, "machine", lambda: "s390x")
    assert not seccomp.install(seccomp.base())
