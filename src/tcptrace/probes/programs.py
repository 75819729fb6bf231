"""The program, arguments and parent of processes: `WHO`, beside any other probe."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from tcptrace.model.events import U32, Event, decode_text
from tcptrace.model.identity import NO_PROGRAM, Program
from tcptrace.probes.probe import BPF_BACKENDS, C, Probe, Variant

HAS_ARGS, ARGS_CUT, HAS_EXE, EXE_DELETED = 1, 2, 4, 8
ARGC_SHIFT = 16
"""From this bit of the flags on: how many arguments execve was given; 0 where it is not known."""
MOST_KNOWN = 32_768
DELETED = " (deleted)"
"""As in /proc/PID/exe."""


@dataclasses.dataclass(slots=True, eq=False)
class Who(Event):
    """A process, from one execve to the next; `struct who_event` in who.bpf.c."""

    type = "who"

    parent_pid: U32
    flags: U32
    args_length: U32
    path_length: U32
    parent_name: Annotated[str, "16s", decode_text]
    args_space: Annotated[bytes, "1024s"]
    path_space: Annotated[bytes, "1280s"]
    _steps: Annotated[bytes, "16s"]
    """What the kernel's side keeps there while it looks."""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def _args(who: Who) -> tuple[str, ...] | None:
    """Return the arguments: strings that each end with a NUL, but for one that is cut.

    Where there are more than execve was given, the process has put a title in their place, with
    NULs behind it.
    """
    if not who.flags & HAS_ARGS:
        return None
    given = who.flags >> ARGC_SHIFT
    raw = who.args_space[: who.args_length].removesuffix(b"\0")
    if 0 < given <= raw.count(b"\0"):
        raw = raw.rstrip(b"\0")
    return tuple(map(_text, raw.split(b"\0")))


def _exe(who: Who) -> str | None:
    """Return the path of names that come from the last to the first."""
    if not who.flags & HAS_EXE:
        return None
    names = who.path_space[: who.path_length].split(b"\0")[:-1]
    path = "/" + "/".join(map(_text, reversed(names)))
    return path + DELETED if who.flags & EXE_DELETED else path


def program_of(who: Who) -> Program:
    """Return what a record tells."""
    cut = bool(who.flags & HAS_ARGS and who.flags & ARGS_CUT)
    return Program(who.parent_pid or None, who.parent_name, _exe(who), _args(who), cut or None)


class Programs:
    """Knows the programs of processes by the 64 bits that stand for them in events.

    The kernel forgets whom it has told of before this does: it keeps fewer, so that what was told
    is known as long as it is not told again.
    """

    def __init__(self, most: int = MOST_KNOWN) -> None:
        """Begin; nothing is known."""
        self._most = most
        self._known: dict[int, tuple[int | None, Program]] = {}

    def learn(self, who: Who) -> None:
        """Take in what a record tells."""
        self._known.pop(who.who, None)
        if len(self._known) >= self._most:
            self._known.pop(next(iter(self._known)))
        self._known[who.who] = who.pid, program_of(who)

    def find(self, event: Event) -> Program:
        """Return the program of an event's process; `NO_PROGRAM` where its record was lost."""
        found = self._known.pop(event.who, None)
        if found is None:
            return NO_PROGRAM
        self._known[event.who] = found  # the last to be forgotten
        pid, program = found
        return program if pid == event.pid else NO_PROGRAM


WHO = Probe(
    name="who",
    source=C / "who.bpf.c",
    records=(Who,),
    variants=tuple(Variant(backend, (), ("WHO",)) for backend in BPF_BACKENDS),
    filters=frozenset(),
    columns=(),
    extra_columns=(),
    types=("mount", "mm_struct", "dentry"),
)
