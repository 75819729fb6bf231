"""Following processes: `Tree`, those that are followed, and `Child`, a command that is run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pwd
import select
import signal
import struct
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Protocol

from tcptrace.errors import TcptraceError
from tcptrace.kernel import apart
from tcptrace.kernel.lookups import is_running
from tcptrace.probes.follow import FOLLOWED
from tcptrace.shell.say import tell
from tcptrace.shell.stop import Stop, Why

NOT_FOUND, NOT_RUNNABLE = 127, 126
"""Exit statuses that shells give to what cannot be run."""
KILLED = 128
ENDING_S = 2
"""How long a process may take to end, in seconds. Later, its number can be another process's."""
LOOK_S = 0.02
"""How often to look whether a followed process is left, in seconds."""
PASS_ON_S = 0.1
"""How late, in seconds, a signal is passed on at most when nothing is traced any more."""
_PID = struct.Struct("=I")
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)
"""Signals that are passed on to the command; a terminal sends it the others itself."""
_TAKEN = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass(frozen=True, slots=True)
class Following:
    """Whom to follow."""

    pids: tuple[int, ...] = ()
    """Processes that run already."""
    command: tuple[str, ...] = ()
    user: str | None = None
    """Whom the command runs as, where not as the one behind sudo."""
    waits: bool = True
    """Whether to trace until the last process has ended, not only the command itself."""

    def __bool__(self) -> bool:
        """Tell whether anything is followed."""
        return bool(self.pids or self.command)


NOBODY = Following()


class KeepsTree(Protocol):
    """A source that keeps a map of the processes that are followed."""

    def put(self, name: str, entries: Iterable[tuple[bytes, bytes]]) -> None:
        """Put entries into the map."""

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return what the map holds."""


class Tree:
    """The processes that are followed now, which the kernel keeps."""

    def __init__(self, source: KeepsTree) -> None:
        """Follow nobody yet."""
        self._source = source
        self._last: set[int] = set()
        """The processes that were left when there were any for the last time."""
        self._seen = time.monotonic()
        """When that was, by time.monotonic."""
        self._is_over = False
        self._asked_again = 0.0

    def add(self, pids: Iterable[int]) -> None:
        """Follow processes, and what they start from now on."""
        self._asked_again = 0.0
        self._source.put(FOLLOWED, [(_PID.pack(pid), b"\1") for pid in pids])

    def add_with_descendants(self, pids: Iterable[int]) -> None:
        """Follow processes and what they have started before.

        What is started meanwhile by one that is not followed yet is found in the next round.
        """
        known: set[int] = set()
        new = set(pids)
        while new:
            self.add(new)
            known |= new
            new = {pid for pid, parent in _parents() if parent in known} - known

    def is_over(self) -> bool:
        """Tell whether nobody is left, and the last have closed what they had open.

        The kernel takes a process out of the map before it closes its files.
        """
        now = time.monotonic()
        if now >= self._asked_again:
            self._asked_again = now + LOOK_S
            self._is_over = self._has_nobody()
        return self._is_over

    def _has_nobody(self) -> bool:
        left = {_PID.unpack(key)[0] for key in self._source.table(FOLLOWED, _PID.size, 1)}
        if any(map(_is_there, left)):
            self._last, self._seen = left, time.monotonic()
            return False
        is_late = time.monotonic() > self._seen + ENDING_S
        return is_late or not any(map(is_running, self._last))


def _is_there(pid: int) -> bool:
    """Tell whether there is a process of this id, whoever has it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _parents() -> Iterable[tuple[int, int]]:
    """Yield processes with their parents."""
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with contextlib.suppress(OSError):
                fields = (place / "stat").read_bytes().rpartition(b")")[2].split()
                yield int(place.name), int(fields[1])


def user_of(name: str | None, environ: Mapping[str, str]) -> pwd.struct_passwd | None:
    """Return whom a command is to run as; None for whoever runs this.

    Raises TcptraceError where there is no such user, or no right to become another.
    """
    behind = environ.get("SUDO_UID") if os.geteuid() == 0 else None
    if name is None and not behind:
        return None
    wanted = name or str(behind)
    try:
        number = int(wanted) if wanted.isdecimal() else None
        user = pwd.getpwnam(wanted) if number is None else pwd.getpwuid(number)
    except KeyError:
        raise TcptraceError(
            f"there is no user {wanted} to run the command as.\nGive another one with --as"
        ) from None
    if user.pw_uid != os.geteuid() and os.geteuid() != 0:
        raise TcptraceError("only root can run the command as another user.\nRun this with sudo")
    return user


def environment_of(user: pwd.struct_passwd | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command, without what sudo says of itself and of root."""
    if user is None:
        return dict(environ)
    own = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    kept = {name: value for name, value in environ.items() if not name.startswith("SUDO_")}
    return {**kept, **own, "SHELL": user.pw_shell}


class Child:
    """A command that waits until it may start."""

    def __init__(self, command: Sequence[str], user: pwd.struct_passwd | None) -> None:
        """Fork; the child does nothing yet."""
        waiting, self._go = os.pipe()
        self.status: int | None = None
        self.uid = user.pw_uid if user else os.geteuid()
        """The user that it runs as."""
        self._waiting_signals: list[int] = []
        self._pass_on: Callable[[int], None] | None = None
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)  # until it has no handlers of ours
        try:
            self.pid = os.fork()
            if self.pid == 0:
                os.close(self._go)
                _become(command, user, waiting, mask)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        os.close(waiting)
        self.descriptor = os.pidfd_open(self.pid)
        """Can be read when it has ended."""

    def start(self, stop: Stop) -> bool:
        """Let it run; return False, and do not, where a signal has asked to stop before.

        From now on signals are for the command; when it has ended, they stop the trace.
        """

        def handle(number: int, _frame: object) -> None:
            if self.status is not None:
                stop.ask(Why.SIGNAL)
            elif number in _PASSED_ON and self._pass_on:
                self._waiting_signals.append(number)  # whoever passes it on may be at work now
            elif number in _PASSED_ON:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, number)

        for number in _TAKEN:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, handle)
        runs = not stop.why
        if runs:
            with contextlib.suppress(BrokenPipeError):  # a signal has ended it
                os.write(self._go, b"\1")
        os.close(self._go)
        return runs

    def pass_on_by(self, send: Callable[[int], None]) -> None:
        """Have signals sent by `send`, which has the right to; `has_ended` calls it."""
        self._pass_on = send

    def has_ended(self) -> bool:
        """Tell whether the command has ended."""
        while self._waiting_signals and self._pass_on:
            self._pass_on(self._waiting_signals.pop(0))
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._note(status)
        return self.status is not None

    def wait(self) -> int:
        """Wait for its end, and pass signals on; return its exit status, as a shell would."""
        poller = select.poll()
        poller.register(self.descriptor, select.POLLIN)
        while not self.has_ended():
            poller.poll(PASS_ON_S * 1000)
        return self.status or 0

    def _note(self, status: int) -> None:
        self.status = _status(status)
        os.close(self.descriptor)


def _status(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else KILLED - code


def _become(
    command: Sequence[str], user: pwd.struct_passwd | None, waiting: int, mask: Collection[int]
) -> NoReturn:
    """Become the command when `waiting` can be read; end where its other end is closed.

    Signals that `mask` does not block are taken from here on.
    """
    status = NOT_RUNNABLE
    try:
        for number in (*_IGNORED_BY_PYTHON, *_TAKEN):
            if number in _IGNORED_BY_PYTHON or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not os.read(waiting, 1):
            os._exit(0)
        _keep_own_files()
        if user and user.pw_uid != os.geteuid():
            os.initgroups(user.pw_name, user.pw_gid)
            os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
            os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
        apart.pass_on_no_rights()  # those of a unit, say, are for tracing
        if not command[0]:
            os.stat(command[0])  # noqa: PTH116 - is not found; Python refuses it in its own words
        os.execvpe(command[0], [*command], environment_of(user, os.environ))  # noqa: S606 - no shell
    except FileNotFoundError as error:
        status = NOT_FOUND
        tell(f"tcptrace: cannot run {command[0]}: {error.strerror}")
    except (OSError, ValueError) as error:
        tell(f"tcptrace: cannot run {command[0]}: {getattr(error, 'strerror', None) or error}")
    finally:
        os._exit(status)


def _keep_own_files() -> None:
    """Let no descriptor of what is attached pass to the command: it would stay attached."""
    for place in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if os.readlink(place).startswith(("anon_inode:", "net:")):  # noqa: PTH115
                os.set_inheritable(int(place.name), False)  # noqa: FBT003


class FollowingStop(Stop):
    """Stops when those who are followed have ended."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        """Go on until `is_over`."""
        super().__init__()
        self._is_over = is_over

    def take_over(self, before: Stop) -> None:
        """Take the signals that `before` took, those included that have come."""
        self.take_signals()
        self.is_echoed |= before.is_echoed
        if before.why:
            self.ask(before.why)

    def is_asked(self) -> bool:
        """Tell whether to stop."""
        if self.why is None and self._is_over():
            self.ask(Why.ENDED)
        return super().is_asked()
