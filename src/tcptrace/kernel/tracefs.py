"""tracefs: where it is mounted, what it says of tracepoints, and instances of its ring buffer."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache
from math import inf
from pathlib import Path

from tcptrace.errors import TcptraceError
from tcptrace.kernel import trace_buffer
from tcptrace.kernel.processes import start_time
from tcptrace.kernel.syscalls import detached_mount
from tcptrace.kernel.trace_buffer import Record

USUAL_PLACES = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
MOST_PAGES = 256
"""So many of a CPU's pages are read before the next CPU's turn."""
RELEASE_S = 5.0
"""So long it is waited for a process that has ended to let go of its buffer."""
_OWN = re.compile(r"tcptrace_(\d+)_(\d+)")


def find() -> Path | None:
    """Return where tracefs is mounted and can be read, or None."""
    return next((place for place in USUAL_PLACES if _is_there(place)), None)


def _is_there(place: Path) -> bool:
    with contextlib.suppress(OSError):
        return (place / "events").is_dir()
    return False


def _closed() -> Path | None:
    """Return where tracefs is mounted, but may not be entered by this process."""
    for place in USUAL_PLACES:
        try:
            (place / "events").stat()
        except PermissionError:
            return place
        except OSError:
            continue
    return None


@cache
def _mounted() -> Path:
    """Mount it where nobody else sees it: it goes with the descriptor."""
    return Path(f"/proc/self/fd/{detached_mount('tracefs')}")


def find_or_mount() -> Path:
    """Return where tracefs is; mount it for this process alone where it is not.

    Raises:
        TcptraceError: it is not mounted and cannot be.

    """
    try:
        return find() or _mounted()
    except OSError as error:
        if place := _closed():
            raise TcptraceError(
                f"tracefs is mounted on {place}, but this process may not enter it.\n"
                "It needs root, CAP_DAC_READ_SEARCH, or as root: "
                f"mount -o remount,mode=755 {place}"
            ) from None
        raise TcptraceError(
            f"tracefs is not readable and cannot be mounted privately ({error.strerror}).\n"
            f"As root: mount -t tracefs tracefs {USUAL_PLACES[0]}"
        ) from None


def tracepoint_id(name: str) -> int:
    """Return the id of the tracepoint ``category:event``. Raises OSError or TcptraceError."""
    category, _, event = name.partition(":")
    return int((find_or_mount() / "events" / category / event / "id").read_text())


def append(path: Path, text: str) -> None:
    """Write without truncating first, which would remove what others have put into some files."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        os.write(descriptor, os.fsencode(text))
    finally:
        os.close(descriptor)


def own_name() -> str:
    """Return the name of what this process makes in tracefs: with its id and when it began.

    The id alone would be another process's one day.
    """
    return f"tcptrace_{os.getpid()}_{start_time(os.getpid())}"


def is_stale(name: str) -> bool:
    """Tell whether this was made in tracefs by a tcptrace process that has ended."""
    match = _OWN.fullmatch(name)
    return match is not None and start_time(int(match[1])) != int(match[2])


def remove_stale(root: Path) -> None:
    """Remove what tcptrace processes that were killed have left; nothing of those that live.

    The kernel itself would not let go of what is in use.
    """
    with contextlib.suppress(OSError):
        for path in (root / "instances").glob("tcptrace_*"):
            if is_stale(path.name):
                with contextlib.suppress(OSError):
                    path.rmdir()
        for event in _probes(root):
            if is_stale(event.partition("/")[0]):
                with contextlib.suppress(OSError):
                    append(root / "kprobe_events", f"-:{event}")


def _probes(root: Path) -> set[str]:
    """Return the probes that are defined, as ``group/name``."""
    text = (root / "kprobe_events").read_text(encoding="utf-8", errors="replace")
    return set(re.findall(r"^\w+:(\S+)", text, re.MULTILINE))


def obstacle() -> str | None:
    """Return why no probe can be defined in tracefs, or None; one is, for a moment."""
    try:
        instance = Instance(buffer_kb=0)
        with contextlib.closing(instance):
            instance.define("try", "p", "inet_csk_accept", ())
    except TcptraceError as error:
        return str(error)
    except FileNotFoundError:
        return "the kernel has no kprobes in tracefs"
    except OSError as error:
        return error.strerror
    return None


class Instance:
    """A ring buffer of this process's own, with probes of its own; others' are never touched.

    All CPUs' records come in one stream, by CLOCK_MONOTONIC.
    """

    def __init__(self, buffer_kb: int) -> None:
        """Remember how large the buffer of each CPU is to be; nothing is made yet."""
        self._buffer_kb = buffer_kb
        self._root = find_or_mount()
        remove_stale(self._root)
        self.name = own_name()
        self._path = self._root / "instances" / self.name
        self._cleanup = contextlib.ExitStack()
        self._files = contextlib.ExitStack()
        self.probes: dict[str, str] = {}
        """The full names of those that are defined, by name."""
        self.pipes: list[int] = []
        """Each CPU's records; they can be read as soon as there is one."""
        self._stats: list[int] = []
        self._pending: list[Record] = []
        """Read, and not yet due; the latest first."""
        self.taken = 0
        """How many records were read."""
        self.has_more = False
        """Whether the last look at the buffer has left some."""
        header = (self._root / "events/header_page").read_text(encoding="ascii")
        self._page = trace_buffer.Page(header)

    def define(self, event: str, kind: str, function: str, arguments: Sequence[str]) -> None:
        """Define a probe before `open`, or add a function to one. Raises OSError.

        Args:
            event: its name.
            kind: ``p`` for the function's entry, ``r`` for its return.
            function: the kernel's function.
            arguments: what is fetched, as in `kernel.fetch`.

        """
        # The kernel counts missed hits by name alone, so that must be ours as well.
        own = f"{self.name}/{event}_{self.name}"
        text = " ".join((f"{kind}:{own}", function, *arguments))
        append(self._root / "kprobe_events", text)
        if event not in self.probes:
            self.probes[event] = own
            self._cleanup.callback(append, self._root / "kprobe_events", f"-:{own}")

    def open(self) -> None:
        """Make the buffer. Raises OSError."""
        self._path.mkdir()
        self._cleanup.callback(self._remove_buffer)
        self.write("trace_clock", "mono")
        self.write("options/overwrite", "0")
        self.write("buffer_size_kb", str(self._buffer_kb))
        with contextlib.suppress(OSError):  # before Linux 5.0, any record wakes who polls
            self.write("buffer_percent", "0")
        for cpu in sorted(glob.glob(f"{self._path}/per_cpu/cpu*")):  # noqa: PTH207 - a str is wanted
            self.pipes.append(self._opened(f"{cpu}/trace_pipe_raw"))
            self._stats.append(self._opened(f"{cpu}/stats"))
        self._cleanup.callback(self.write, "events/enable", "0")

    def _opened(self, path: str) -> int:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._files.callback(os.close, descriptor)
        return descriptor

    def close(self) -> None:
        """Remove all of it."""
        self.close_buffer()
        self.remove()

    def close_buffer(self) -> None:
        """Let go of the buffer; the kernel removes none that is open anywhere."""
        self._files.close()
        self.pipes, self._stats = [], []

    def remove(self) -> None:
        """Remove the buffer and the probes."""
        self._cleanup.close()

    def _remove_buffer(self) -> None:
        """Remove the buffer; a process that was killed lets go of it a moment after its sockets."""
        until = time.monotonic() + RELEASE_S
        while True:
            try:
                self._path.rmdir()
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > until:
                    raise
                time.sleep(0.01)
            else:
                return

    def places(self) -> list[int]:
        """Return the descriptor that keeps tracefs where it is mounted for this process alone."""
        private = str(self._root).removeprefix("/proc/self/fd/")
        return [int(private)] if private.isdecimal() else []

    def written(self) -> list[str]:
        """Return the directory that all it writes and removes is in."""
        return [str(self._root)]

    def write(self, file: str, text: str) -> None:
        """Write to a file of the instance, behind what it has. Raises OSError."""
        append(self._path / file, text)

    def place(self, event: str) -> str:
        """Return the directory of an event: of a probe by its name, or of ``system/event``."""
        return f"events/{self.probes.get(event, event)}"

    def format(self, event: str) -> str:
        """Return an event's format file. Raises OSError."""
        return (self._path / self.place(event) / "format").read_text(encoding="ascii")

    def enable(self, event: str, condition: str = "") -> None:
        """Let an event be recorded where `condition` holds. Raises OSError."""
        self.write(f"{self.place(event)}/filter", condition or "0")
        self.write(f"{self.place(event)}/enable", "1")

    def follow(self, thread: int) -> None:
        """Record a thread, too, where others are left out. Raises OSError."""
        self.write("set_event_pid", str(thread))

    def stop(self) -> None:
        """Record no more; what is in the buffer can still be read."""
        self.write("tracing_on", "0")

    def records(self, before_ns: float = inf, *, most: int = sys.maxsize) -> Iterator[Record]:
        """Yield what was recorded before a time, or all that is there, the oldest first.

        A CPU that has more than `most` pages leaves some for the next call: then `has_more`.
        """
        read_ns = min((self._read(pipe, most) for pipe in self.pipes), default=inf)
        self.has_more = read_ns < inf
        self._pending.sort(key=lambda record: record.ts_ns, reverse=True)
        while self._pending and self._pending[-1].ts_ns < min(before_ns, read_ns):
            yield self._pending.pop()

    @property
    def holds_back(self) -> bool:
        """Whether records were read that are not due yet."""
        return bool(self._pending)

    def waiting(self) -> int:
        """Return how many records nobody has taken."""
        return len(self._pending) + sum(_figures(stats)["entries"] for stats in self._stats)

    def _read(self, pipe: int, most: int) -> float:
        """Read `most` of a CPU's pages; return up to when all are read."""
        last_ns = inf
        for _ in range(most):
            try:
                page = os.read(pipe, 1 << 16)
            except BlockingIOError:
                return inf
            if not page:
                return inf
            for record in self._page.records(page):
                self._pending.append(record)
                self.taken += 1
                last_ns = record.ts_ns
        return last_ns

    def dropped(self) -> int:
        """Return how many records found no room."""
        return sum(map(_dropped, self._stats))

    def missed(self) -> int:
        """Return how many hits of its probes the kernel has missed."""
        own = {name.partition("/")[2] for name in self.probes.values()}
        if not own:
            return 0  # the kernel may have no kprobes
        profile = (self._root / "kprobe_profile").read_text(encoding="utf-8", errors="replace")
        lines = map(str.split, profile.splitlines())
        return sum(int(misses) for name, _, misses in lines if name in own)


def _figures(stats: int) -> dict[str, int]:
    """Return the whole numbers in a CPU's file stats."""
    lines = os.pread(stats, 1 << 12, 0).decode("ascii").splitlines()
    figures = (line.split(": ") for line in lines)
    return {name: int(figure) for name, figure in figures if figure.isdigit()}


def _dropped(stats: int) -> int:
    figures = _figures(stats)
    return figures["overrun"] + figures["dropped events"]
