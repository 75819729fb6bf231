"""The screen of `tcptrace top` on a terminal of its own, with a recording to show."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import shlex
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.test_played import at, events, kept
from tests.unit.test_top import failed

pytest.importorskip("textual", reason="`./setup.sh test` brings it")

PATIENCE_S = 60
"""A machine may be slow; nothing here takes long."""
CHUNK = 1 << 16
TOP = (sys.executable, "-m", "tcptrace", "top")


class Terminal:
    """A program on a terminal of 80 columns and 24 lines."""

    def __init__(self, *command: str) -> None:
        """Start it."""
        self._pid, self._descriptor = pty.fork()
        if self._pid == 0:
            os.environ["TERM"] = "xterm-256color"
            os.execv(command[0], command)  # noqa: S606
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        os.set_blocking(self._descriptor, False)
        self.text = ""

    def has_shown(self, text: str) -> bool:
        """Read; tell whether this has been shown."""
        with contextlib.suppress(OSError):  # there is nothing, or it has ended
            self.text += os.read(self._descriptor, CHUNK).decode("utf-8", "replace")
        return text in self.text

    def flow(self, action: int) -> None:
        """Have the terminal stand still, or go on."""
        slave = os.open(Path(f"/proc/{self._pid}/fd/0").readlink(), os.O_RDWR | os.O_NOCTTY)
        termios.tcflow(slave, action)
        os.close(slave)

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._descriptor, keys.encode())

    def signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._pid, number)

    def is_stopped(self) -> bool:
        """Tell whether it is suspended."""
        stat = Path(f"/proc/{self._pid}/stat").read_text(encoding="ascii", errors="replace")
        return stat.rpartition(") ")[2].startswith("T")

    def has_ended(self) -> bool:
        """Tell whether it has ended, with status 0."""
        pid, status = os.waitpid(self._pid, os.WNOHANG)
        if pid:
            self._pid = 0
            assert 0 == os.waitstatus_to_exitcode(status), self.text
        return bool(pid)

    def close(self) -> None:
        """Kill it, if it still runs."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        os.close(self._descriptor)


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A screen that shows a recording of ten minutes, which changes ten times a second."""
    rows = [*events(), *(at(failed(rport=1000 + n), 5 + n / 10) for n in range(6000))]
    path = kept(tmp_path / "r.jsonl", rows)
    with contextlib.closing(Terminal(*TOP, "-r", str(path), "--interval", "100ms")) as started:
        wait_for(lambda: started.has_shown("up 0:00"), "the first interval")
        yield started


def test_a_key_ends_it_though_the_terminal_stands_still(terminal: Terminal) -> None:
    """Keys are read on."""
    terminal.flow(termios.TCOOFF)
    time.sleep(1)
    terminal.press("q")
    wait_for(terminal.has_ended, "the end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_though_the_terminal_stands_still(terminal: Terminal, number: int) -> None:
    """Nothing waits for the terminal to take what is written."""
    terminal.flow(termios.TCOOFF)
    time.sleep(1)  # so long that there is much to be written
    terminal.signal(number)
    wait_for(terminal.has_ended, "the end")


def test_a_terminal_that_goes_on_has_the_newest_picture(terminal: Terminal) -> None:
    """What it has missed is not written afterwards."""
    terminal.flow(termios.TCOOFF)
    time.sleep(1)
    terminal.flow(termios.TCOON)
    terminal.text = ""
    wait_for(lambda: terminal.has_shown("0:00:0"), "a new time")
    terminal.signal(signal.SIGTERM)
    wait_for(lambda: terminal.has_shown("lost") or terminal.has_ended(), "the last picture")
    assert "\x1b[?1049l" in terminal.text


def test_a_suspended_screen_comes_back_whole(terminal: Terminal) -> None:
    """Ctrl-Z gives the terminal back; when it goes on, also what has not changed is drawn."""
    terminal.press(" \x1a")  # it stands still, so that nothing has changed
    wait_for(terminal.is_stopped, "the suspension")
    terminal.has_shown("")
    terminal.text = ""
    terminal.signal(signal.SIGCONT)
    for text in ("PAUSED", "PROGRAM", "qQuit"):
        wait_for(lambda text=text: terminal.has_shown(text), text)  # type: ignore[misc]
    terminal.press("q")
    wait_for(terminal.has_ended, "the end")


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGTSTP])
def test_it_goes_on_after_it_was_stopped_by_a_signal(terminal: Terminal, number: int) -> None:
    """Whenever that comes: it has the terminal, and draws all of the screen."""
    terminal.press(" ")
    wait_for(lambda: terminal.has_shown("PAUSED"), "the pause")
    for _ in range(3):
        terminal.signal(number)
        wait_for(terminal.is_stopped, "the stop")
        terminal.has_shown("")
        terminal.text = ""
        terminal.signal(signal.SIGCONT)
        wait_for(lambda: terminal.has_shown("PROGRAM"), "the headings")
    terminal.press("q")
    wait_for(terminal.has_ended, "the end")


def test_a_recording_in_a_pipe_has_a_screen(tmp_path: Path) -> None:
    """Keys come from the terminal; there is no way back, but on."""
    path = kept(tmp_path / "r.jsonl", [at(failed(), second) for second in range(100)])
    words = shlex.join([*TOP, "-r", "-"])
    piped = f"cat {shlex.quote(str(path))} | {words}"
    with contextlib.closing(Terminal("/bin/sh", "-c", piped)) as started:
        wait_for(lambda: started.has_shown("top -r -"), "the screen")
        started.press("[]]")
        wait_for(lambda: started.has_shown("up 0:00:2"), "what comes later")
        started.press("q")
        wait_for(started.has_ended, "the end")


def test_keys_are_heard_though_nothing_happens(terminal: Terminal) -> None:
    """The screen sleeps between its pictures, not through a key."""
    terminal.press(" ")
    wait_for(lambda: terminal.has_shown("PAUSED"), "that it stands still")
    terminal.press("?")
    wait_for(lambda: terminal.has_shown("play faster, slower"), "the keys")
    terminal.text = ""
    terminal.press("xx")
    wait_for(lambda: terminal.has_shown("CONN/s"), "the table")
    terminal.press("q")
    wait_for(terminal.has_ended, "the end")


def test_a_terminal_that_is_closed_ends_it(terminal: Terminal) -> None:
    """As a window that is closed does."""
    pid = terminal._pid
    os.close(terminal._descriptor)
    terminal._descriptor = os.open(os.devnull, os.O_RDWR)
    wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, "the end")
    terminal._pid = 0
