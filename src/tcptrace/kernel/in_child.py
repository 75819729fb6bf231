"""Ask a question in a child process, whose mounts, output and crashes are its own."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tcptrace import errors
from tcptrace.errors import TcptraceError
from tcptrace.kernel.child import Child
from tcptrace.kernel.shortage import FORKING, check_shortage, short_of
from tcptrace.kernel.syscalls import CLONE_NEWNET, unshare

MOST_DETAILS = 30_000
"""Of the words of a compiler, in characters; an answer is one message."""
SIOCSIFFLAGS, IFF_UP = 0x8914, 1


def no_limits(_answering: int) -> None:
    """Give up nothing."""


class Question:
    """A question that a forked child works on; the answer comes back as JSON."""

    def __init__(
        self, what: str, question: Callable[[], Any], confine: Callable[[int], None] = no_limits
    ) -> None:
        """Start the child. Raises TcptraceError.

        Args:
            what: what it does, for errors.
            question: what it answers.
            confine: gives up rights that this does not take; gets the descriptor of the answer.

        """
        try:
            self._pipe, writing = os.pipe()
            os.set_blocking(self._pipe, False)
            self._child = Child(what, lambda: _answer(what, question, writing, confine))
        except OSError as error:
            check_shortage(error, "cannot start a process", FORKING)
            raise
        os.close(writing)
        self._text = bytearray()

    def is_answered(self) -> bool:
        """Tell whether the answer is there, without waiting for it. Raises HungError."""
        while True:
            try:
                part = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                self._child.check()
                return False
            if not part:
                return True
            self._text += part

    def answer(self) -> Any:
        """Wait for the answer and return it; call it once.

        Raises:
            HungError: the child does not come to its end.
            TcptraceError: the question raised it, or the child died.

        """
        while not self.is_answered():
            self._child.wait(self._pipe)
        status = self._child.end()
        self.close()
        if not self._text:
            raise TcptraceError(self._child.death(status))
        answer = json.loads(self._text)
        if "error" in answer:
            raise told(answer)
        return answer["answer"]

    def close(self) -> None:
        """End the child if it still works."""
        self._child.kill()
        if self._pipe >= 0:
            os.close(self._pipe)
            self._pipe = -1


def ask(question: Callable[[], Any], what: str = "asked") -> Any:
    """Return what `question` answers in a child. Raises TcptraceError as `Question.answer` does."""
    asked = Question(what, question)
    try:
        return asked.answer()
    finally:
        asked.close()


def telling(error: TcptraceError) -> dict[str, str]:
    """Return an error in JSON's types, for `told`."""
    details = error.details[-MOST_DETAILS:]
    return {"error": str(error), "kind": type(error).__name__, "details": details}


def told(answer: dict[str, str]) -> TcptraceError:
    """Return the error that another process has told with `telling`."""
    kind = getattr(errors, answer["kind"], TcptraceError)
    error: TcptraceError = kind(answer["error"], details=answer["details"])
    return error


def _answer(
    what: str, question: Callable[[], Any], writing: int, confine: Callable[[int], None]
) -> None:
    """Answer, without a word to the parent's output."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    confine(writing)
    try:
        answer = {"answer": question()}
    except TcptraceError as error:
        answer = telling(error)
    except MemoryError:
        answer = telling(short_of(errno.ENOMEM, f"the process that {what}"))
    with os.fdopen(writing, "w", encoding="ascii") as pipe:
        json.dump(answer, pipe)


def enter_test_network() -> int:
    """Move this process to a network namespace with a loopback; return its inode number.

    Raises OSError.
    """
    unshare(CLONE_NEWNET)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
    return Path("/proc/self/ns/net").stat().st_ino
