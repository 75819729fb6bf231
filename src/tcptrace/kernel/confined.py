"""Ask a question in a child process, whose mounts, output and crashes are its own."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from tcptrace.errors import TcptraceError
from tcptrace.kernel.syscalls import CLONE_NEWNET, die_with_parent, unshare

SIOCSIFFLAGS, IFF_UP = 0x8914, 1


class Question:
    """A question that a forked child works on; the answer comes back as JSON."""

    def __init__(self, question: Callable[[], Any]) -> None:
        """Start the child."""
        self._pipe, writing = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._pipe)
            _child(question, writing)
        os.close(writing)
        os.set_blocking(self._pipe, False)
        self._text = bytearray()

    def is_answered(self) -> bool:
        """Tell whether the answer is there, without waiting for it."""
        while True:
            try:
                part = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return False
            if not part:
                return True
            self._text += part

    def answer(self) -> Any:
        """Wait for the answer and return it; call it once.

        Raises:
            TcptraceError: the question raised it, or the child died.

        """
        while not self.is_answered():
            select.select([self._pipe], [], [])
        os.close(self._pipe)
        _, status = os.waitpid(self._pid, 0)
        if not self._text:
            raise TcptraceError(_death(status))
        answer = json.loads(self._text)
        if "error" in answer:
            raise TcptraceError(answer["error"])
        return answer["answer"]


def ask(question: Callable[[], Any]) -> Any:
    """Return what `question` answers in a child. Raises TcptraceError as `Question.answer` does."""
    return Question(question).answer()


def _death(status: int) -> str:
    if os.WIFSIGNALED(status):
        return f"the process that asked was killed by {signal.Signals(os.WTERMSIG(status)).name}"
    return f"the process that asked ended with status {os.waitstatus_to_exitcode(status)}"


def _child(question: Callable[[], Any], writing: int) -> NoReturn:
    """Answer and end, without any exit handler and without a word to the parent's output."""
    status = 1
    try:
        die_with_parent()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        try:
            answer = {"answer": question()}
        except TcptraceError as error:
            answer = {"error": str(error)}
        with os.fdopen(writing, "w", encoding="ascii") as pipe:
            json.dump(answer, pipe)
        status = 0
    finally:
        os._exit(status)


def enter_test_network() -> int:
    """Move this process to a network namespace with a loopback; return its inode number.

    Raises OSError.
    """
    unshare(CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    return Path("/proc/self/ns/net").stat().st_ino
