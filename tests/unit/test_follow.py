"""Following without a kernel: whom a command runs as, in which environment, and its status."""

from __future__ import annotations

import os
import pwd
import select
import signal
from pathlib import Path

import pytest

from tcptrace.errors import TcptraceError
from tcptrace.kernel.processes import is_running
from tcptrace.shell import follow
from tcptrace.shell.follow import (
    NOBODY,
    Child,
    Following,
    FollowingStop,
    Tree,
    environment_of,
    user_of,
)
from tcptrace.shell.stop import Stop, Why

ME = pwd.struct_passwd(("me", "x", 1000, 1000, "", "/home/me", "/bin/zsh"))


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Be root on a host with one user."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwuid", {1000: ME}.__getitem__)
    monkeypatch.setattr(pwd, "getpwnam", {"me": ME}.__getitem__)
    return monkeypatch


def test_the_user_behind_sudo(root: pytest.MonkeyPatch) -> None:
    """Root's own commands are root's; sudo's are those of who called it, unless --as says."""
    assert user_of(None, {}) is None
    assert ME == user_of(None, {"SUDO_UID": "1000"})
    assert ME == user_of("me", {"SUDO_UID": "0"}) == user_of("1000", {})


def test_users_that_cannot_be(root: pytest.MonkeyPatch) -> None:
    """A name that nobody has is an error, and so is another user without root's rights."""
    with pytest.raises(TcptraceError, match="no user you"):
        user_of("you", {})
    root.setattr(os, "geteuid", lambda: 1001)
    with pytest.raises(TcptraceError, match="only root"):
        user_of("me", {})
    assert user_of(None, {"SUDO_UID": "1000"}) is None


def test_the_environment_is_the_user_s() -> None:
    """What sudo says of itself and of root's home is not the command's."""
    environ = {"PATH": "/bin", "HOME": "/root", "USER": "root", "SUDO_USER": "me", "LANG": "C"}
    assert environ == environment_of(None, environ)
    assert {
        "PATH": "/bin",
        "LANG": "C",
        "HOME": "/home/me",
        "USER": "me",
        "LOGNAME": "me",
        "SHELL": "/bin/zsh",
    } == environment_of(ME, environ)


class FakeSource:
    """A source that keeps a map."""

    def __init__(self) -> None:
        """Begin with an empty one."""
        self.map: dict[bytes, bytes] = {}

    def put(self, _name: str, entries: list[tuple[bytes, bytes]]) -> None:
        """Put entries."""
        self.map |= entries

    def table(self, _name: str, _key_size: int, _value_size: int) -> dict[bytes, bytes]:
        """Return the map."""
        return self.map


def test_a_tree_is_over_when_nobody_is_left() -> None:
    """An entry that the kernel has missed to remove is of nobody."""
    tree = Tree(FakeSource())  # type: ignore[arg-type]
    assert tree.is_over()
    tree.add([1 << 30])
    assert tree.is_over()
    tree.add([os.getpid()])
    assert not tree.is_over()


def test_a_tree_is_over_when_the_last_has_closed_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel's map is empty before; a process that takes over its number is not waited for."""
    monkeypatch.setattr(follow, "LOOK_S", 0)
    source = FakeSource()
    tree = Tree(source)  # type: ignore[arg-type]
    tree.add([os.getpid()])
    assert not tree.is_over()
    source.map.clear()
    assert not tree.is_over()
    monkeypatch.setattr(follow, "is_running", lambda _pid: False)
    assert tree.is_over()
    monkeypatch.setattr(follow, "is_running", lambda _pid: True)
    monkeypatch.setattr(follow, "ENDING_S", 0)
    assert tree.is_over()


def test_a_process_runs_until_its_last_thread_has_ended() -> None:
    """One that has ended and is not waited for does not run."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert (True, False) == (is_running(os.getpid()), is_running(pid))
    os.waitpid(pid, 0)
    assert not is_running(pid)


def test_descendants_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children, their children, and those that come while these are looked for."""
    rounds = [[(2, 1), (9, 8)], [(2, 1), (3, 2)], [(2, 1), (3, 2)]]
    monkeypatch.setattr(follow, "_parents", lambda: rounds.pop(0))
    source = FakeSource()
    Tree(source).add_with_descendants([1])  # type: ignore[arg-type]
    assert [1, 2, 3] == [int.from_bytes(key, "little") for key in source.map]


def test_a_stop_that_follows() -> None:
    """The run stops, and says why, when those who are followed have ended."""
    over: list[bool] = []
    stop = FollowingStop(lambda: bool(over))
    assert not stop.is_asked()
    over.append(True)
    assert stop.is_asked()
    assert Why.ENDED is stop.why
    assert (False, True) == (bool(NOBODY), bool(Following(command=("true",))))


def test_a_child_that_may_not_start_does_nothing(tmp_path: Path) -> None:
    """Where the parent ends before it says so, the command is not run."""
    child = Child(["touch", str(tmp_path / "file")], None)
    os.close(child._go)
    assert 0 == child.wait()
    assert not (tmp_path / "file").exists()


def test_a_signal_that_is_passed_on_at_once_is_not_lost() -> None:
    """The command has it, though it has not begun, and it is not for a handler of ours."""
    handlers = {number: signal.getsignal(number) for number in follow._TAKEN}
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = Child(["true"], None)
    try:
        os.kill(child.pid, signal.SIGTERM)
        assert select.select([child.descriptor], [], [], 20)[0]
        assert child.start(Stop())
        assert 128 + signal.SIGTERM == child.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def test_a_child_s_status(tmp_path: Path) -> None:
    """It ends when its command has, with that one's status."""
    child = Child(["sh", "-c", f"touch {tmp_path}/file; exit 4"], None)
    assert not child.has_ended()
    os.write(child._go, b"\1")
    os.close(child._go)
    assert 4 == child.wait() == child.wait()
    assert child.has_ended()
    assert (tmp_path / "file").exists()
    assert Stop().why is None
