"""What processes run: records of programs, and their joining with events."""

from __future__ import annotations

import shlex
import struct

import pytest
from tests.unit.records import DECODER, accept_bytes, accepted

from tcptrace.model.columns import ARGS
from tcptrace.model.events import Decoder, Event
from tcptrace.model.identity import NO_PROGRAM, Program
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.programs import (
    ARGC_SHIFT,
    ARGS_CUT,
    EXE_DELETED,
    HAS_ARGS,
    HAS_EXE,
    WHO,
    Programs,
    Who,
    program_of,
)
from tcptrace.sources.arrivals import Arrivals

BOTH = Decoder((*ACCEPT.records, *WHO.records))
HEAD_BYTES = 104


def record(
    who: int = 7,
    *,
    pid: int = 181,
    flags: int = HAS_ARGS | HAS_EXE,
    args: bytes = b"nginx\0-g\0daemon off;\0",
    path: bytes = b"nginx\0sbin\0usr\0",
) -> Who:
    """Return a record, as the kernel sends it; what it has not written is what was there."""
    head = accept_bytes(kind=2, pid=pid, who=who)[:HEAD_BYTES]
    numbers = struct.pack("=IIII", 180, flags, len(args), len(path))
    spaces = args.ljust(1024, b"\xaa") + path.ljust(1280, b"\xaa")
    decoded = BOTH.decode(head + numbers + b"systemd".ljust(16, b"\0") + spaces + bytes(16))
    assert isinstance(decoded, Who)
    return decoded


def test_a_record() -> None:
    """A record has the parent, the path from its last name to the first, and the arguments."""
    expected = Program(180, "systemd", "/usr/sbin/nginx", ("nginx", "-g", "daemon off;"))
    assert expected == program_of(record())


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (b"", ("",)),
        (b"\0", ("",)),
        (b"a\0\0", ("a", "")),
        (b"a\0b", ("a", "b")),
        (b"\xff\0\n'\"\x1b\0", (r"\xff", "\n'\"\x1b")),
    ],
)
def test_arguments(args: bytes, expected: tuple[str, ...]) -> None:
    """Each ends with a NUL, and may be empty; bytes that are not UTF-8 are escaped."""
    assert expected == program_of(record(args=args)).args


@pytest.mark.parametrize(
    ("given", "args", "expected"),
    [
        (2, b"title\0\0\0\0", ("title",)),
        (2, b"a title\0\0", ("a title", "")),
        (4, b"a\0\0\0\0", ("a", "", "", "")),
        (0, b"a\0\0\0\0", ("a", "", "", "")),
        (1, b"\0\0", ("",)),
        (1, b"a\0b\0\0", ("a", "b")),
    ],
)
def test_a_title(given: int, args: bytes, expected: tuple[str, ...]) -> None:
    """The zeros behind a title are no arguments, where there are more than execve was given."""
    flags = HAS_ARGS | given << ARGC_SHIFT
    assert expected == program_of(record(flags=flags, args=args)).args


def test_what_could_not_be_read_is_absent() -> None:
    """Without the page that has the arguments, or a path that can be followed, there is none."""
    found = program_of(record(flags=0))
    assert (None, None, None) == (found.args, found.args_cut, found.exe)
    assert (180, "systemd") == (found.ppid, found.parent_comm)


def test_what_is_cut_or_deleted_says_so() -> None:
    """Arguments that go on are marked, and so is a program without a name on disk."""
    found = program_of(record(flags=HAS_ARGS | ARGS_CUT | HAS_EXE | EXE_DELETED))
    assert (True, "/usr/sbin/nginx (deleted)") == (found.args_cut, found.exe)
    assert "/memfd:x (deleted)" == (
        program_of(record(flags=HAS_EXE | EXE_DELETED, path=b"memfd:x\0")).exe
    )


def event(who: int, pid: int = 181) -> Event:
    """Return an event of a process."""
    return DECODER.decode(accept_bytes(who=who, pid=pid))


def test_events_are_joined_with_their_process() -> None:
    """A record is no row; the events behind it have its program, and others have none."""
    coming = [event(7), record(7), event(7), event(8), event(7, pid=182), event(0)]
    rows = list(Arrivals().fill(coming, 0))
    assert [None, "/usr/sbin/nginx", None, None, None] == [row.exe for row in rows]


def test_another_program_of_the_same_process() -> None:
    """After execve other bits stand for a process; its earlier events keep what it was."""
    coming = [record(7), event(7), record(9, path=b"curl\0bin\0"), event(9), event(7)]
    rows = Arrivals().fill(coming, 0)
    assert ["/usr/sbin/nginx", "/bin/curl", "/usr/sbin/nginx"] == [row.exe for row in rows]


def test_the_last_seen_is_forgotten_first() -> None:
    """What is known is bounded; a process that has events stays known."""
    programs = Programs(most=2)
    programs.learn(record(1))
    programs.learn(record(2))
    assert programs.find(event(1)).exe
    programs.learn(record(3))
    assert NO_PROGRAM == programs.find(event(2))
    assert programs.find(event(1)).exe
    programs.learn(record(3, path=b"other\0"))
    assert "/other" == programs.find(event(3)).exe


def test_arguments_are_shown_as_a_shell_takes_them() -> None:
    """ARGS can be copied to a shell; a mark says that there was more."""
    row = accepted(accept_bytes())
    assert ARGS.value(row, 0) is None
    args = ("sh", "-c", "echo 'a  b'", "", "$HOME")
    row.program = Program(args=args)
    assert list(args) == shlex.split(str(ARGS.value(row, 0)))
    row.program = Program(args=args, args_cut=True)
    assert str(ARGS.value(row, 0)).endswith("'$HOME' …")
