"""The loader: a short-lived child process attaches, the parent keeps the descriptors.

The parent never imports bcc. Its working directory, environment and output are not touched by what
bcc and LLVM do, and it survives their crashes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tcptrace.errors import TcptraceError
from tcptrace.kernel.child import Child
from tcptrace.kernel.in_child import telling, told
from tcptrace.kernel.shortage import FORKING, check_shortage, short_of
from tcptrace.sources.plan import Plan

MESSAGE_BYTES = 1 << 16
MOST_DESCRIPTORS = 250
SHORT = {
    "Too many open files": errno.EMFILE,
    "File too large": errno.EFBIG,
    "Cannot allocate memory": errno.ENOMEM,
    "bad_alloc": errno.ENOMEM,
    "out of memory": errno.ENOMEM,
    "failed to map segment": errno.ENOMEM,
    "MemoryError": errno.ENOMEM,
}
"""What bcc, LLVM, the dynamic linker and Python print when something is short."""


class Answer(NamedTuple):
    """What the child attached."""

    backend: str
    notes: Sequence[str]
    """How the backend was chosen."""
    maps: dict[str, int]
    """Descriptors of the BPF maps, by name."""
    programs: Sequence[int]
    """Descriptors of the BPF programs."""
    links: Sequence[int]
    """Descriptors that hold the programs attached."""
    compiled: int
    """How often bcc compiled; 0 where all programs were kept."""
    kept: Sequence[str]
    """The names of what was read from the store or written there."""


class Loader:
    """The child process that attaches, from its start until it has answered."""

    def __init__(self, plan: Plan) -> None:
        """Start the child; it works while the parent prepares its output. Raises TcptraceError."""
        try:
            self._output = os.memfd_create("tcptrace-loader-output")
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._child = Child("compiles the probes", lambda: _attach(theirs, self._output, plan))
        except OSError as error:
            check_shortage(error, "cannot start the process that compiles", FORKING)
            raise
        theirs.close()

    def close(self) -> None:
        """End the child if it still runs."""
        self._child.kill()
        self._channel.close()
        os.close(self._output)

    def output(self) -> str:
        """Return what bcc, LLVM and the verifier printed."""
        size = os.fstat(self._output).st_size
        return os.pread(self._output, size, 0).decode("utf-8", "replace")

    def attached(self, stopped: Callable[[], bool]) -> Answer | None:
        """Wait for the child's answer; None when `stopped` says to give up.

        Raises:
            TcptraceError: the child could not attach, died or hangs.

        """
        return self._receive() if self._child.wait(self._channel.fileno(), stopped) else None

    def _receive(self) -> Answer:
        message, descriptors, flags, _ = socket.recv_fds(
            self._channel, MESSAGE_BYTES, MOST_DESCRIPTORS
        )
        status = self._child.end()
        if not message:
            raise self._death(status)
        if flags & socket.MSG_CTRUNC:
            raise short_of(errno.EMFILE, "cannot keep what was attached")
        answer = json.loads(message)
        if "error" in answer:
            raise self._explained(told(answer))
        rest = iter(descriptors)
        maps = {name: next(rest) for name in answer["maps"]}
        programs = [next(rest) for _ in range(answer["programs"])]
        links = [*rest]
        return Answer(
            answer["backend"],
            answer["notes"],
            maps,
            programs,
            links,
            answer["compiled"],
            answer["kept"],
        )

    def _death(self, status: int) -> TcptraceError:
        how = self._child.death(status)
        return self._explained(TcptraceError(f"{how}.\nRun again with -v; is memory short?"))

    def _explained(self, error: TcptraceError) -> TcptraceError:
        """Return an error of the child's with what was printed, or what that says is short."""
        output = self.output()
        details = "\n".join(filter(None, (error.details, output)))
        short = next((SHORT[words] for words in SHORT if words in f"{error} {output}"), None)
        if short and type(error) is TcptraceError:
            error = short_of(short, str(error).partition("\n")[0].rstrip("."))
        error.details = details
        return error


def _attach(channel: socket.socket, output: int, plan: Plan) -> None:
    """Attach and answer. What is raised is written for -v, in place of the interpreter."""
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        _answer(channel, plan)
    except BaseException:
        with contextlib.suppress(OSError):
            import traceback  # noqa: PLC0415 - slow to import, and seldom needed

        os.write(2, traceback.format_exc().encode())
        raise


def _answer(channel: socket.socket, plan: Plan) -> None:
    from tcptrace.sources.bpf.child import attach_best  # noqa: PLC0415 - only the child needs it

    try:
        attached = attach_best(plan)
    except TcptraceError as error:
        channel.send(json.dumps(telling(error)).encode())
        return
    except (OSError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        lacking = TcptraceError(f"cannot compile the probes: {why}")
        channel.send(json.dumps(telling(lacking)).encode())
        return
    answer = {
        "backend": attached.backend,
        "notes": attached.notes,
        "maps": list(attached.maps),
        "programs": len(attached.programs),
        "compiled": attached.compiled,
        "kept": attached.kept,
    }
    descriptors = [*attached.maps.values(), *attached.programs, *attached.links]
    socket.send_fds(channel, [json.dumps(answer).encode()], descriptors)
