"""How runs end that have seen nothing, or not all."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.test_pump import Numbers
from tests.unit.test_summary import record

from tcptrace.commands.connect import connect
from tcptrace.errors import TcptraceError, UncertainError
from tcptrace.kernel import processes
from tcptrace.shell import run
from tcptrace.sources.recording.jsonl import JsonLines


class Stopped:
    """Attaches nothing, for a signal has come."""

    def __init__(self, _plan: object) -> None:
        """Begin."""

    def session(self, _is_asked: object) -> None:
        """Return that it was stopped."""

    def close(self) -> None:
        """Have nothing to close."""


class Interrupted:
    """Attaches, and a signal comes at the last moment."""

    def __init__(self, _plan: object) -> None:
        """Begin."""

    def close(self) -> None:
        """Have nothing to close."""

    def session(self, _is_asked: object) -> Attached:
        """Return what is attached."""
        os.kill(os.getpid(), signal.SIGTERM)
        return Attached()


class Attached(Numbers):
    """A source that tells nothing, and follows this process."""

    def table(self, _name: str, _key_size: int, _value_size: int) -> dict[bytes, bytes]:
        """Return the processes that are followed."""
        return {os.getpid().to_bytes(4, sys.byteorder): b"\1"}

    def put(self, _name: str, _entries: object) -> None:
        """Need nothing."""

    def wake_at(self, _descriptor: int) -> None:
        """Never sleep."""

    def write_for(self, _writer: object) -> None:
        """Write no lines."""


@pytest.fixture(autouse=True)
def _stopped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have every run stopped, and leave signals as they were."""
    monkeypatch.setattr(run, "Attaching", Stopped)
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    yield
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


def error_of(*arguments: str) -> Any:
    """Return the error with which `connect` ends."""
    return CliRunner().invoke(connect, [*arguments]).exception


def test_a_command_that_was_not_run_has_not_succeeded() -> None:
    """Whoever looks at the status alone learns that there was nothing."""
    error = error_of("--", "true")
    assert isinstance(error, TcptraceError)
    assert (1, True) == (error.exit_status, "was not run" in str(error))


def test_a_process_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped process id is not taken for a process that does nothing."""
    monkeypatch.setattr(processes, "is_in_initial", lambda _namespace: True)
    nobody, own = 4_000_000_001, os.getpid()
    for arguments, expected in {
        ("-p", str(nobody)): f"there is no process {nobody} now",
        ("-p", f"{own},{nobody}"): f"there is no process {nobody} now",
        ("-p", ",".join(str(nobody + number) for number in range(9))): "and others",
        ("-p", str(own)): "",
        ("-p", f"!{nobody}"): "",
        ("-p", f"{nobody}-{nobody + 7}"): "",
    }.items():
        said = CliRunner().invoke(connect, [*arguments]).stderr
        assert (expected in said) if expected else ("no process" not in said)
    monkeypatch.setattr(processes, "is_in_initial", lambda _namespace: False)
    assert "no process" not in CliRunner().invoke(connect, ["-p", str(nobody)]).stderr


def test_a_recording_that_lacks_files_is_not_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a source warns of may be what the gate is to see."""
    path = str(record(tmp_path / "x.jsonl"))
    assert error_of("-r", path, "--only", "192.0.2.1") is None
    monkeypatch.setattr(JsonLines, "warning", "1 of 2 files were cut off")
    error = error_of("-r", path, "--only", "192.0.2.1")
    assert (True, True) == (isinstance(error, UncertainError), "cut off" in str(error))


def test_what_was_not_looked_at_is_not_clean() -> None:
    """A gate that has seen nothing permits nothing; without one, it is a normal end."""
    assert isinstance(error_of("--fail-on-connect"), UncertainError)
    assert error_of() is None


def test_a_signal_that_comes_while_following_begins_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is not run, and a process that runs already is not waited for."""
    monkeypatch.setattr(run, "Attaching", Interrupted)
    error = error_of("--keep-privileges", "--", "touch", str(tmp_path / "file"))
    assert isinstance(error, TcptraceError)
    assert "was not run" in str(error)
    assert [] == [*tmp_path.iterdir()]
    assert error_of("--keep-privileges", "-f", "-p", str(os.getpid())) is None
