"""`tcptrace doctor`: what it says and how it ends, whatever the host."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tcptrace.cli import cli
from tcptrace.commands import doctor
from tcptrace.errors import TcptraceError
from tcptrace.kernel import facts, in_child
from tcptrace.kernel.facts import Fact
from tcptrace.shell.stop import Stop
from tcptrace.sources.bpf.prepare import Inventory

GATHER = facts.gather
ANSI = re.compile(r"\x1b\[[0-9;]*m")
NOTES = ("fentry refused: fentry:f: not permitted (EPERM)", "accept: kprobe, kprobe:f")


@pytest.fixture(autouse=True)
def _signals_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signals are pytest's."""
    monkeypatch.setattr(Stop, "take_signals", lambda _: None)


class FakeSession:
    """Stands for what is attached."""

    backend = "kprobe"
    notes = NOTES
    compiles = False

    def close(self) -> None:
        """Close nothing."""


class FakeAttaching:
    """Stands for what attaches, or cannot."""

    error: TcptraceError | None = None

    def __init__(self, _plan: object) -> None:
        """Take a plan."""

    def session(self, _stopped: object) -> FakeSession:
        """Attach, or fail."""
        if self.error:
            raise self.error
        return FakeSession()

    def close(self) -> None:
        """Close nothing."""


class FakeSessions:
    """Sessions that end only when as many as there are commands are being closed."""

    def __init__(self, commands: int) -> None:
        """Begin without any."""
        self._all = threading.Barrier(commands)
        self.closed = 0

    def session(self, _stopped: object) -> FakeSession:
        """Return one more."""
        session = FakeSession()
        session.close = self._close  # type: ignore[method-assign]
        return session

    def _close(self) -> None:
        self._all.wait(timeout=20)
        self.closed += 1


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Return a host on which all is well."""
    monkeypatch.setattr(doctor, "Attaching", FakeAttaching)
    monkeypatch.setattr(doctor, "may_trace", lambda: True)
    monkeypatch.setattr(facts, "gather", lambda: [Fact("release", "6.1", None)])
    monkeypatch.setattr(facts, "gather_hooks", lambda: [Fact("kprobe", "yes", good=True)])
    bcc = {"version": "0.26.0", "place": "/usr/lib", "llvm": "14"}
    monkeypatch.setattr("tcptrace.sources.bpf.find_bcc.describe", lambda: bcc)
    return monkeypatch


def examined(*arguments: str) -> Result:
    """Run `tcptrace doctor` in this process."""
    return CliRunner().invoke(cli, ["doctor", *arguments])


def as_json() -> dict[str, Any]:
    """Return what `tcptrace doctor --json` says."""
    result: dict[str, Any] = json.loads(examined("--json").stdout)
    return result


def test_all_is_well(host: pytest.MonkeyPatch) -> None:
    """Exit status 0; each command has its backend, and why not a better one."""
    result = examined()
    assert 0 == result.exit_code
    told = r"ok accept +kprobe, from kept programs\n +fentry refused: fentry:f: not permitted"
    assert re.search(told, result.stdout)
    assert "What to do" not in result.stdout


def test_all_is_detached_at_the_same_time(host: pytest.MonkeyPatch) -> None:
    """The kernel lets hooks go slowly; nobody waits for one command's after the other's."""
    trials = len(as_json()["commands"])
    sessions = FakeSessions(trials)
    host.setattr(FakeAttaching, "session", lambda _, stopped: sessions.session(stopped))
    assert 0 == examined().exit_code
    assert trials == sessions.closed


def test_json(host: pytest.MonkeyPatch) -> None:
    """One object with all of it."""
    answer = as_json()
    keys = {"ok", "kernel", "hooks", "software", "programs", "commands", "advice"}
    assert keys == answer.keys()
    expected = {"backend": "kprobe", "refused": [NOTES[0]], "error": None, "compiles": False}
    assert expected == answer["commands"]["accept"]
    assert {"value": "0.26.0 in /usr/lib", "good": True} == answer["software"]["bcc"]


def test_a_reason_is_told_once(host: pytest.MonkeyPatch) -> None:
    """Several variants of a backend may be refused for the same."""
    host.setattr(FakeAttaching, "error", TcptraceError("no way.", details=f"{NOTES[0]}\n" * 2))
    assert [NOTES[0]] == as_json()["commands"]["accept"]["refused"]


def test_a_command_that_cannot_run(host: pytest.MonkeyPatch) -> None:
    """Exit status 1, with the reason and what to do."""
    host.setattr(FakeAttaching, "error", TcptraceError("no way.\nTry this", details=NOTES[0]))
    result = examined()
    assert 1 == result.exit_code
    assert re.search(r"no accept +no way\.\n +fentry refused", result.stdout)
    assert "Try this" in result.stdout.partition("What to do")[2]


def test_advice_is_what_is_wrong(host: pytest.MonkeyPatch) -> None:
    """What is known to be wrong is advised on, rather than what followed from it."""
    host.setattr(FakeAttaching, "error", TcptraceError("no way"))
    bad = [Fact("lockdown", "confidentiality", good=False, advice="Boot without lockdown")]
    host.setattr(facts, "gather", lambda: bad)
    assert ["Boot without lockdown"] == as_json()["advice"]


def test_without_bcc(host: pytest.MonkeyPatch) -> None:
    """A missing bcc is a finding with its hint."""

    def describe() -> dict[str, str]:
        raise TcptraceError("bcc is not installed.\nInstall it: apt install python3-bpfcc")

    host.setattr("tcptrace.sources.bpf.find_bcc.describe", describe)
    host.setattr(FakeAttaching, "error", TcptraceError("bcc is not installed"))
    answer = as_json()
    assert {"value": "bcc is not installed", "good": False} == answer["software"]["bcc"]
    assert ["Install it: apt install python3-bpfcc"] == answer["advice"]


def test_a_crash_of_llvm_is_survived(host: pytest.MonkeyPatch) -> None:
    """LLVM runs in a child: when that dies, the doctor says so."""
    host.setattr(
        "tcptrace.sources.bpf.find_bcc.describe", lambda: os.kill(os.getpid(), signal.SIGKILL)
    )
    assert "SIGKILL" in as_json()["software"]["bcc"]["value"]


def test_without_privileges(host: pytest.MonkeyPatch) -> None:
    """Nothing is attached; it says that root is needed, and ends with 1."""
    host.setattr(doctor, "may_trace", lambda: False)
    host.setattr(facts, "gather", GATHER)
    host.setattr("tcptrace.kernel.privileges.effective_capabilities", lambda: 0)
    result = examined()
    assert 1 == result.exit_code
    assert re.search(r"- +accept +not asked: this needs root", result.stdout)
    assert re.search(r"no capabilities +none that tracing needs", result.stdout)
    assert "sudo" in result.stdout.partition("What to do")[2]


def test_a_signal_ends_it(host: pytest.MonkeyPatch) -> None:
    """What was begun is put in order, and it is said that not all was asked."""
    host.setattr(Stop, "is_asked", lambda _: True)
    result = examined()
    assert (1, "") == (result.exit_code, result.stdout)
    assert "stopped before all was asked" in result.stderr


def test_commands_are_tried_beside_each_other(host: pytest.MonkeyPatch) -> None:
    """While one is attached, the next compiles; never more than a few at a time."""
    host.setattr("os.cpu_count", lambda: 64)
    under_way, most = 0, 0

    class Counted(FakeAttaching):
        def __init__(self, _plan: object) -> None:
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)

        def close(self) -> None:
            nonlocal under_way
            under_way -= 1

    host.setattr(doctor, "Attaching", Counted)
    assert 0 == examined().exit_code
    assert (0, True) == (under_way, 1 < most <= doctor.MOST_AT_ONCE)


def test_a_plugin_s_failure_is_not_ours(host: pytest.MonkeyPatch) -> None:
    """Only built-in commands decide the exit status."""
    trials = (
        doctor.Trial("accept", built_in=True, backend="fentry", refused=()),
        doctor.Trial("plug", built_in=False, backend=None, refused=(), error="no way"),
    )
    assert doctor.Findings((), (), (), Inventory("/", (), ""), trials).ok


@pytest.mark.parametrize("columns", [40, 80])
def test_a_narrow_terminal(columns: int) -> None:
    """On a real terminal no line is wider than it is."""
    master, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    attributes = termios.tcgetattr(terminal)
    attributes[1] &= ~termios.OPOST
    termios.tcsetattr(terminal, termios.TCSANOW, attributes)
    environment = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    process = subprocess.Popen(
        [sys.executable, "-m", "tcptrace", "doctor"],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env={**environment, "TERM": "xterm"},
    )
    os.close(terminal)
    text = b""
    while chunk := _read(master):
        text += chunk
    os.close(master)
    process.wait()
    lines = ANSI.sub("", text.decode()).splitlines()
    assert {"Kernel", "Hooks", "Software", "Commands"} <= {line.strip() for line in lines}
    assert max(map(len, lines)) <= columns


def _read(terminal: int) -> bytes:
    """Read what is there; nothing when the other end is closed (EIO)."""
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""


@pytest.mark.parametrize(
    ("text", "value", "good"),
    [
        ("[none] integrity confidentiality\n", "none", True),
        ("none [integrity] confidentiality\n", "integrity", True),
        ("none integrity [confidentiality]\n", "confidentiality", False),
        ("", "unknown", True),
    ],
)
def test_lockdown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, value: str, *, good: bool
) -> None:
    """Only confidentiality keeps BPF from the kernel's memory."""
    monkeypatch.setattr(facts, "LOCKDOWN", tmp_path / "lockdown")
    (tmp_path / "lockdown").write_text(text, encoding="ascii")
    fact = facts._lockdown()
    assert (value, good) == (fact.value, fact.good)
    assert good == (fact.advice == "")


def test_a_question_runs_in_a_process_of_its_own() -> None:
    """What it changes stays there, and what it prints is dropped."""

    def question() -> int:
        print("noise")
        os.chdir("/")
        return os.getpid()

    before = Path.cwd()
    assert os.getpid() != in_child.ask(question)
    assert before == Path.cwd()


def test_a_question_s_error_comes_back() -> None:
    """A TcptraceError is raised again; any other death is told."""

    def fails() -> None:
        raise TcptraceError("what failed")

    def crashes() -> None:
        raise RuntimeError

    with pytest.raises(TcptraceError, match="what failed"):
        in_child.ask(fails)
    with pytest.raises(TcptraceError, match="ended with status 1"):
        in_child.ask(crashes)
