"""Links are closed together, and one by one where no threads are to be had."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from tcptrace.sources.bpf.session import detach, detach_apart


def links() -> list[int]:
    """Return descriptors that stand for links."""
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]


def test_all_are_closed() -> None:
    """When it returns, none is open."""
    descriptors = links()
    detach(descriptors)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_another_process_waits() -> None:
    """It closes what it holds, links last, when this process has closed its own, and ends."""
    reading, link = os.pipe()
    output, pipe = os.pipe()
    detach_apart([link])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(link)
    assert b"" == os.read(reading, 1)
    os.close(pipe)
    assert b"" == os.read(output, 1)
    os.close(reading)
    os.close(output)


def test_another_process_is_no_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there can be none, the links are closed here."""

    def refuse() -> int:
        raise OSError(errno.EAGAIN, "no more processes")

    monkeypatch.setattr(os, "fork", refuse)
    descriptors = links()
    detach_apart(descriptors)
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def test_threads_are_no_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system lets no thread start, the links are closed all the same."""

    def refuse(_thread: threading.Thread) -> None:
        msg = "can't start new thread"
        raise RuntimeError(msg)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    descriptors = links()
    detach(descriptors)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[-1])
