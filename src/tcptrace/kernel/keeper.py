"""The keeper: a child process that is asked for what only the privileged get from the kernel.

The process that traces gives up its rights when its probes are attached, since it reads what
strangers have written. What it cannot do itself any more it asks of this one, over a socket pair:
the questions are the methods of `_Office`, and there are no others. A question is a JSON list of a
name and its arguments, at most `QUESTION_BYTES` long; an answer is an errno, a length and bytes.

The keeper holds the BPF programs and maps of this run, and what it has made in tracefs. It believes
nothing that it is asked: each argument is checked, and where one is not what it should be, the
keeper ends. It writes no file but those of tracefs that the run has made, where Landlock holds it
to tracefs; it starts no program, and reaches no network. It ends with the process that traces, and
when an answer takes too long.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tcptrace.kernel import bpf, cgroups, child, processes, seccomp
from tcptrace.kernel.apart import confine_helper
from tcptrace.kernel.cgroup_paths import owner_of, read_path
from tcptrace.kernel.privileges import (
    CAP_BPF,
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_KILL,
    permitted_capabilities,
)

if TYPE_CHECKING:
    from tcptrace.kernel.tracefs import Instance

QUESTION_BYTES = 1 << 15
"""A path of 4096 bytes, each of them escaped, is shorter."""
MOST_NAME = 4 * 255
"""A cgroup's name, each byte of it escaped; to look for a container in a longer one takes long."""
ANSWER_BYTES = 1 << 28
ANSWER_S = 60
"""So long the keeper may work on an answer; then the kernel ends it."""
PATIENCE_S = 5.0
"""So long the tracing process waits for an answer; of a whole table, for `ANSWER_S`."""
END_S = 2.0
"""So long it waits for the keeper's end; where something is to be removed, for `ANSWER_S`."""
_QUESTION = struct.Struct("=I")
_ANSWER = struct.Struct("=IQ")
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP)


class Holdings(NamedTuple):
    """What a run has that only the keeper can use in the end."""

    programs: Sequence[int] = ()
    """Descriptors of BPF programs, whose runs that were skipped are counted."""
    links: Sequence[int] = ()
    """Descriptors that hold them attached; some count what was missed."""
    maps: Mapping[str, int] = {}
    """Descriptors of BPF hash maps, which are read and filled, by name."""
    instance: Instance | None = None
    """What was made in tracefs, to be removed in the end."""
    command: int | None = None
    """A descriptor of the process that is followed, where it is another user's."""

    def rights(self) -> set[int]:
        """Return the capabilities that this takes."""
        rights = {CAP_DAC_READ_SEARCH}  # cgroups by their ids, and runtimes' files
        if self.programs or self.maps:
            rights.add(CAP_BPF)
        if self.instance:
            rights.add(CAP_DAC_OVERRIDE)  # tracefs is root's
        if self.command is not None:
            rights.add(CAP_KILL)
        return rights

    def calls(self) -> Iterator[seccomp.Rule]:
        """Yield the system calls that this takes."""
        yield seccomp.Rule("open_by_handle_at", 2, without=seccomp.WRITES)
        reading = (bpf.MAP_LOOKUP_ELEM, bpf.MAP_GET_NEXT_KEY, bpf.OBJ_GET_INFO_BY_FD)
        yield seccomp.Rule("bpf", 0, (*reading, bpf.MAP_UPDATE_ELEM))
        # What names users may ask a daemon of this host for them.
        yield seccomp.Rule("socket", 0, (socket.AF_UNIX,))
        yield seccomp.Rule("connect")
        yield from seccomp.files() if self.instance else seccomp.reads_only()
        if self.command is not None:
            yield seccomp.Rule("pidfd_send_signal", 1, _PASSED_ON)

    def descriptors(self) -> Iterator[int]:
        """Yield what is to stay open in the keeper."""
        yield from (*self.programs, *self.links, *self.maps.values())
        yield from self.instance.places() if self.instance else ()
        yield from () if self.command is None else (self.command,)

    def detached(self) -> Holdings:
        """Return what is left when BPF is let go of."""
        for descriptor in (*self.programs, *self.links, *self.maps.values()):
            os.close(descriptor)
        return self._replace(programs=(), links=(), maps={})


class _Office:
    """Answers. Raises ValueError or TypeError where a question is not one, OSError for an errno."""

    def __init__(self, held: Holdings) -> None:
        """Answer about what is held."""
        self._held = held
        self.is_over = False
        """Whether BPF is to be let go of."""

    def answer(self, question: bytes) -> bytes:
        """Return what a question is answered with."""
        name, *arguments = json.loads(question)
        questions: dict[str, Callable[..., bytes]] = {
            "path_of": self.path_of,
            "names": self.names,
            "user": self.user,
            "is_running": self.is_running,
            "skipped": self.skipped,
            "table": self.table,
            "put": self.put,
            "signal": self.signal,
            "missed": self.missed,
            "stop": self.stop,
            "follow": self.follow,
            "detach": self.detach,
        }
        return questions[name](*arguments)

    def path_of(self, number: object) -> bytes:
        """Return a cgroup's path, or nothing."""
        return (cgroups.path_of(_number(number, 64)) or "").encode()

    def names(self, path: object) -> bytes:
        """Return what a runtime's files call the container whose cgroup has this path.

        The path is text: of it, the container's id and the user's are taken, and no file is read
        there.
        """
        place, owner = read_path(_path(path)), owner_of(_path(path))
        from tcptrace.kernel import runtimes  # noqa: PLC0415 - for containers alone

        return json.dumps(runtimes.names_of(place, runtimes.places(owner))).encode()

    def user(self, number: object) -> bytes:
        """Return a user's name, or nothing."""
        try:
            return pwd.getpwuid(_number(number, 32)).pw_name.encode()
        except KeyError:
            return b""

    def is_running(self, process: object) -> bytes:
        """Return something where a thread of a process goes on."""
        return b"1" if processes.is_running(_number(process, 22)) else b""

    def skipped(self) -> bytes:
        """Return how often the kernel has skipped the programs, or passed over their probes."""
        programs = sum(map(bpf.skipped, self._held.programs))
        return str(programs + sum(map(bpf.missed, self._held.links))).encode()

    def table(self, name: object, key_size: object, value_size: object) -> bytes:
        """Return the entries of a hash map, one behind the other."""
        descriptor = self._held.maps[_text(name)]
        info = bpf.map_info(descriptor)
        if (info.key_size, info.value_size) != (key_size, value_size):
            raise ValueError(name)
        entries = bpf.read_hash(descriptor, info.key_size, info.value_size)
        return b"".join(key + value for key, value in entries.items())

    def put(self, name: object, key: object, value: object) -> bytes:
        """Put an entry into a hash map."""
        descriptor = self._held.maps[_text(name)]
        entry = bytes.fromhex(_text(key)), bytes.fromhex(_text(value))
        info = bpf.map_info(descriptor)
        if (info.key_size, info.value_size) != (len(entry[0]), len(entry[1])):
            raise ValueError(name)
        bpf.fill(descriptor, [entry])
        return b""

    def signal(self, number: object) -> bytes:
        """Send a signal to the command that is followed."""
        if _number(number, 7) not in _PASSED_ON or self._held.command is None:
            raise ValueError(number)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._held.command, _number(number, 7))
        return b""

    def missed(self) -> bytes:
        """Return how many hits of the probes in tracefs the kernel has missed."""
        return str(self._instance().missed()).encode()

    def stop(self) -> bytes:
        """Let tracefs record no more."""
        self._instance().stop()
        return b""

    def follow(self, thread: object) -> bytes:
        """Let tracefs record a thread, too."""
        self._instance().follow(_number(thread, 22))
        return b""

    def detach(self) -> bytes:
        """Have BPF let go of after the answer, so that nobody waits for that."""
        self.is_over = True
        return b""

    def _instance(self) -> Instance:
        if self._held.instance is None:
            raise ValueError
        return self._held.instance


def _number(value: object, bits: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise ValueError(value)
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(value)
    return value


def _path(value: object) -> str:
    path = _text(value)
    if max(map(len, path.split("/"))) > MOST_NAME:
        raise ValueError(path)
    return path


def _keep(channel: socket.socket, held: Holdings) -> None:
    """Be the keeper: answer until nobody can ask any more, then remove what was made."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends it
    root = cgroups.prepare()
    files = {channel.fileno(), *held.descriptors(), *([] if root is None else [root])}
    if held.instance:
        held.instance.close_buffer()
    confine_helper(
        held.rights(),
        held.calls(),
        files,
        writes=held.instance.written() if held.instance else (),
        outlives=held.instance is not None,
    )
    office = _Office(held)
    try:
        while question := _received(channel, _QUESTION, QUESTION_BYTES):
            signal.alarm(ANSWER_S)
            number, answer = _answered(office, question[1])
            signal.alarm(0)
            channel.sendall(_ANSWER.pack(number, len(answer)) + answer)
            if office.is_over:
                held = held.detached()
                office = _Office(held)
    finally:
        if held.instance:
            signal.alarm(ANSWER_S)
            held.instance.remove()


def _answered(office: _Office, question: bytes) -> tuple[int, bytes]:
    """Return an errno, and what a question is answered with."""
    try:
        answer = office.answer(question)
    except OSError as error:
        return error.errno or 1, b""
    if len(answer) > ANSWER_BYTES:
        raise ValueError(len(answer))
    return 0, answer


def _received(
    channel: socket.socket, head: struct.Struct, most: int, until: float | None = None
) -> tuple[tuple[Any, ...], bytes] | None:
    """Return a message's head and body; None where nobody can send any more.

    Raises:
        ValueError: it is too long.
        TimeoutError: it does not come in time.

    """
    raw = _exactly(channel, head.size, until)
    if raw is None:
        return None
    numbers = head.unpack(raw)
    if numbers[-1] > most:
        raise ValueError(numbers)
    body = _exactly(channel, numbers[-1], until)
    return None if body is None else (numbers, body)


def _exactly(channel: socket.socket, size: int, until: float | None) -> bytes | None:
    data = bytearray()
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    while len(data) < size:
        if until is not None and not poller.poll(max(0.0, until - time.monotonic()) * 1000):
            raise TimeoutError
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            return None
        data += part
    return bytes(data)


NAMELESS: Sequence[str | None] = (None,) * 5
"""A container of which nothing is known."""


class Keeper:
    """The keeper, as the tracing process sees it."""

    def __init__(self, held: Holdings) -> None:
        """Start it. Raises OSError."""
        self.problem = ""
        """Why it does not answer any more; nothing of what it knew is known then."""
        mask = permitted_capabilities()
        self.rights = {right for right in held.rights() if mask >> right & 1}
        self._end_s = ANSWER_S if held.instance else END_S
        self._has_command = held.command is not None
        self._is_left = False
        self._channel, theirs = socket.socketpair()
        self._child = child.Child(
            "keeps rights", lambda: _keep(theirs, held), outlives=held.instance is not None
        )
        theirs.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def leave(self) -> None:
        """Let it detach, and end; nobody waits until it has.

        Where it passes signals on to a command, it ends with this process.
        """
        if self._has_command:
            self._ask("detach")
        else:
            self._channel.close()
        self._is_left = True

    def close(self) -> None:
        """Let it remove what was made, and end."""
        if self._is_left:
            return
        self._channel.close()
        if not self._child.ends_within(self._end_s):
            with contextlib.suppress(PermissionError):
                self._child.kill()

    def path_of(self, number: int) -> str | None:
        """Return a cgroup's path."""
        answer = self._ask("path_of", number)
        return answer.decode() if answer else None

    def names(self, path: str) -> Sequence[str | None]:
        """Return the fields of `tcptrace.kernel.runtimes.Names` of a container."""
        answer = self._ask("names", path)
        return tuple(json.loads(answer)) if answer else NAMELESS

    def user(self, number: int) -> str | None:
        """Return a user's name."""
        answer = self._ask("user", number)
        return answer.decode() if answer else None

    def is_running(self, process: int) -> bool:
        """Tell whether a thread of a process goes on."""
        return bool(self._ask("is_running", process))

    def skipped(self) -> int:
        """Return how often the kernel has skipped the programs, as far as that is known."""
        return int(self._ask("skipped") or 0)

    def missed(self) -> int:
        """Return how many hits of the probes in tracefs were missed, as far as that is known."""
        return int(self._ask("missed") or 0)

    def table(self, name: str, key_size: int, value_size: int) -> dict[bytes, bytes]:
        """Return the entries of a hash map. Raises OSError."""
        data = self._ask("table", name, key_size, value_size, seconds=ANSWER_S)
        if data is None:
            raise OSError(0, self.problem)
        size = key_size + value_size
        rows = (data[at : at + size] for at in range(0, len(data), size))
        return {row[:key_size]: row[key_size:] for row in rows}

    def put(self, name: str, key: bytes, value: bytes) -> None:
        """Put an entry into a hash map. Raises OSError."""
        if self._ask("put", name, key.hex(), value.hex()) is None:
            raise OSError(0, self.problem)

    def signal(self, number: int) -> None:
        """Send a signal to the command that is followed."""
        self._ask("signal", number)

    def stop(self) -> None:
        """Let tracefs record no more."""
        self._ask("stop")

    def follow(self, thread: int) -> None:
        """Let tracefs record a thread, too."""
        self._ask("follow", thread)

    def _ask(self, *question: object, seconds: float = PATIENCE_S) -> bytes | None:
        """Return an answer; None where the keeper has none to give any more. Raises OSError."""
        if self.problem:
            return None
        data = json.dumps(question).encode()
        until = time.monotonic() + seconds
        try:
            self._channel.sendall(_QUESTION.pack(len(data)) + data)
            received = _received(self._channel, _ANSWER, ANSWER_BYTES, until)
        except TimeoutError:
            self.problem = f"has not answered in {seconds:.0f} s"
            return None
        except ConnectionError:
            received = None
        except (OSError, ValueError) as error:
            self.problem = f"cannot be asked: {getattr(error, 'strerror', None) or error}"
            return None
        if received is None:
            self.problem = "has ended"
            return None
        (number, _), answer = received
        if number:
            raise OSError(number, os.strerror(number))
        return answer
