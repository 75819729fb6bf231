"""The loader: a short-lived child process attaches, the parent keeps the descriptors.

The parent never imports bcc. Its working directory, environment and output are not touched by what
bcc and LLVM do, and it survives their crashes.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

from tcptrace.errors import RefusedError, TcptraceError
from tcptrace.kernel.syscalls import die_with_parent
from tcptrace.sources.plan import Plan

MESSAGE_BYTES = 1 << 16
MOST_DESCRIPTORS = 250
TICK_S = 0.05


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


class Loader:
    """The child process that attaches, from its start until it has answered."""

    def __init__(self, plan: Plan) -> None:
        """Start the child; it works while the parent prepares its output."""
        self._output = os.memfd_create("tcptrace-loader-output")
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._channel.close()
            _child(theirs, self._output, plan)
        theirs.close()

    def close(self) -> None:
        """End the child if it still runs."""
        self._end(signal.SIGKILL)
        self._channel.close()
        os.close(self._output)

    def _end(self, number: signal.Signals | None = None) -> int:
        """Reap the child, after sending it a signal; return its status for waitpid's readers."""
        if not self._pid:
            return 0
        if number:
            os.kill(self._pid, number)
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return status

    def output(self) -> str:
        """Return what bcc, LLVM and the verifier printed."""
        size = os.fstat(self._output).st_size
        return os.pread(self._output, size, 0).decode("utf-8", "replace")

    def attached(self, stopped: Callable[[], bool]) -> Answer | None:
        """Wait for the child's answer; None when `stopped` says to give up.

        Raises:
            TcptraceError: the child could not attach, or died.

        """
        while not stopped():
            if select.select([self._channel], [], [], TICK_S)[0]:
                return self._receive()
        return None

    def _receive(self) -> Answer:
        message, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES, MOST_DESCRIPTORS)
        status = self._end()
        if not message:
            raise TcptraceError(_death(status), details=self.output())
        answer = json.loads(message)
        if "error" in answer:
            kind = RefusedError if answer["status"] == RefusedError.exit_status else TcptraceError
            details = "\n".join(filter(None, (answer["details"], self.output())))
            raise kind(answer["error"], details=details)
        rest = iter(descriptors)
        maps = {name: next(rest) for name in answer["maps"]}
        programs = [next(rest) for _ in range(answer["programs"])]
        return Answer(answer["backend"], answer["notes"], maps, programs, [*rest])


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        how = f"was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    else:
        how = f"ended with status {os.waitstatus_to_exitcode(status)}"
    return f"the process that compiles the probes {how}.\nRun again with -v; is memory short?"


def _child(channel: socket.socket, output: int, plan: Plan) -> NoReturn:
    """Attach, answer and end, without any exit handler: bcc's would detach."""
    status = 1
    try:
        die_with_parent()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.dup2(output, 1)
        os.dup2(output, 2)
        _answer(channel, plan)
        status = 0
    except BaseException:  # noqa: BLE001 - for -v, in place of the interpreter
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _answer(channel: socket.socket, plan: Plan) -> None:
    from tcptrace.sources.bpf.child import attach_best  # noqa: PLC0415 - only the child needs it

    try:
        attached = attach_best(plan)
    except TcptraceError as error:
        answer = {"error": str(error), "status": error.exit_status, "details": error.details}
        channel.send(json.dumps(answer).encode())
        return
    answer = {
        "backend": attached.backend,
        "notes": attached.notes,
        "maps": list(attached.maps),
        "programs": len(attached.programs),
    }
    descriptors = [*attached.maps.values(), *attached.programs, *attached.links]
    socket.send_fds(channel, [json.dumps(answer).encode()], descriptors)
