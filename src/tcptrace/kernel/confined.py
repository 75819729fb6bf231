"""Ask a question in a child process, whose mounts, output and crashes are its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from tcptrace.errors import TcptraceError
from tcptrace.kernel.syscalls import die_with_parent


def ask(question: Callable[[], Any]) -> Any:
    """Return what `question` answers in a forked child, through JSON.

    Raises:
        TcptraceError: `question` raised it, or the child died.

    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _child(question, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    if not text:
        raise TcptraceError(_death(status))
    answer = json.loads(text)
    if "error" in answer:
        raise TcptraceError(answer["error"])
    return answer["answer"]


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
        os.write(writing, json.dumps(answer).encode())
        status = 0
    finally:
        os._exit(status)
