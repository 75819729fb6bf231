"""What is told to people: it is escaped, and nobody has to read it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tcptrace.shell import say as saying
from tcptrace.shell.say import say, tell
from tcptrace.sinks.output import Output


def test_what_is_told_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines stay lines; what a terminal could act on does not come out."""
    say("two\nlines\x1b[31m")
    assert "tcptrace: two\nlines\\x1b[31m\n" == capsys.readouterr().err


def test_a_full_device_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a stream that is closed."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        tell("nothing")
    tell("nothing")


def test_a_reader_who_stands_still_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each further message is left out at once, until one is taken again."""
    waits: list[float] = []
    monkeypatch.setattr(Output, "wait", lambda _, seconds: waits.append(seconds))
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        while not waits:
            tell("x" * 1000)
        tell("x" * 1000)
        assert [saying.PATIENCE_S, 0.0] == waits
        os.read(reading, 1 << 16)
        tell("taken")
        assert b"taken\n" == os.read(reading, 100)
    os.close(reading)
