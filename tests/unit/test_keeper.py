"""The keeper: what it answers, what it does not, and how both sides bear the other's end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tcptrace.kernel import apart, keeper, landlock, seccomp
from tcptrace.kernel.keeper import Holdings, Keeper
from tcptrace.kernel.privileges import CAP_DAC_OVERRIDE, NAMES


@pytest.fixture
def kept() -> Iterator[Keeper]:
    """A keeper that holds nothing, with the rights of this process."""
    with closing(Keeper(Holdings())) as started:
        yield started


def test_it_names_users(kept: Keeper) -> None:
    """A user without a name has none."""
    assert "root" == kept.user(0)
    assert kept.user((1 << 32) - 7) is None
    assert not kept.problem


def test_it_goes_on_when_there_is_no_such_cgroup(kept: Keeper) -> None:
    """Nothing is known of it."""
    assert kept.path_of((1 << 64) - 3) is None
    assert "root" == kept.user(0)


def test_it_names_containers(kept: Keeper) -> None:
    """By the path alone: of one that is in no file, what the path tells."""
    path = f"/system.slice/docker-{'0' * 64}.scope"
    assert ("docker", None, None, None, None) == kept.names(path)
    assert ("lxc", "\xe4" * 1000) == kept.names("/lxc.payload." + "\xe4" * 1000)[:2]
    assert not kept.problem


def test_it_counts_nothing_where_it_holds_nothing(kept: Keeper) -> None:
    """No program was skipped."""
    assert 0 == kept.skipped()


@pytest.mark.parametrize(
    "question",
    [
        ["path_of", -1],
        ["path_of", 1 << 64],
        ["path_of", True],
        ["path_of", "1"],
        ["path_of"],
        ["user", 1.5],
        ["user", 1, 2],
        ["table", "counts", 4, 4],
        ["table", ["counts"], 4, 4],
        ["put", "events", "00", "00"],
        ["signal", 15],
        ["stop"],
        ["missed"],
        ["follow", 1],
        ["answer", "x"],
        ["_instance"],
        ["__class__"],
        [],
        {},
        "path_of",
        ["names", 1],
        ["names", None],
        ["names", "/" + ":" * 30_000],
        7,
    ],
)
def test_a_question_that_is_none_ends_it(kept: Keeper, question: Any) -> None:
    """Who asks so is not the program that started it; that one goes on without."""
    kept._channel.sendall(_framed(json.dumps(question).encode()))
    assert b"" == kept._channel.recv(1)
    assert kept.user(0) is None
    assert "has ended" == kept.problem
    assert kept.user(0) is None


@pytest.mark.parametrize("data", [b"\xff" * 4, struct.pack("=I", keeper.QUESTION_BYTES + 1)])
def test_a_question_that_is_too_long_ends_it(kept: Keeper, data: bytes) -> None:
    """It reads no more than a question can have."""
    kept._channel.sendall(data)
    assert b"" == kept._channel.recv(1)


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 4000, b"cgroup"])
def test_what_is_no_json_ends_it(kept: Keeper, text: bytes) -> None:
    """Nothing is guessed."""
    kept._channel.sendall(_framed(text))
    assert b"" == kept._channel.recv(1)


def _framed(text: bytes) -> bytes:
    return struct.pack("=I", len(text)) + text


def test_one_that_stands_still_is_not_waited_for(
    kept: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it knew is not known from then on."""
    monkeypatch.setattr(kept, "_end_s", 0.1)
    os.kill(kept.pid, signal.SIGSTOP)
    assert kept._ask("user", 0, seconds=0.1) is None
    assert "has not answered" in kept.problem


def test_an_answer_that_is_too_long_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that traces believes its keeper no more than it must."""
    ours, theirs = socket.socketpair()
    with closing(Keeper(Holdings())) as kept, ours, theirs:
        kept._channel.close()
        kept._channel = ours
        theirs.sendall(struct.pack("=IQ", 0, 1 << 40))
        assert kept.user(0) is None
        assert "cannot be asked" in kept.problem


def test_it_ends_with_its_process(kept: Keeper) -> None:
    """To close it is to end it."""
    pid = kept.pid
    kept.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_it_passes_signals_on_when_nothing_is_traced_any_more() -> None:
    """It lets go of what is attached, and keeps the command alone."""
    with subprocess.Popen(["sleep", "20"]) as command:
        reading, link = os.pipe()
        descriptor = os.pidfd_open(command.pid)
        kept = Keeper(Holdings(links=(link,), command=descriptor))
        os.close(link)
        kept.leave()
        assert select.select([reading], [], [], 20)[0]
        assert b"" == os.read(reading, 1), "the last that could write has let go"
        kept.signal(signal.SIGTERM)
        assert -signal.SIGTERM == command.wait(10)
    kept._channel.close()
    assert kept._child.ends_within(20)
    os.close(reading)
    os.close(descriptor)


class Made:
    """Stands for what was made in tracefs; leaves a mark where it is removed."""

    def __init__(self, mark: Path) -> None:
        """Leave the mark there."""
        self._mark = mark

    def places(self) -> list[int]:
        """Return no descriptor."""
        return []

    def written(self) -> list[str]:
        """Return where the mark is left."""
        return [str(self._mark.parent)]

    def close_buffer(self) -> None:
        """Have no buffer."""

    def remove(self) -> None:
        """Leave the mark, a while after the process has ended."""
        time.sleep(0.5)
        self._mark.write_text("removed")


def forked(main: Callable[[], object]) -> int:
    """Have another process do something; return its id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            apart.set_person(apart.person_for({}))
            main()
            status = 0
        finally:
            os._exit(status)
    return pid


@pytest.mark.parametrize("users", [[0], []], ids=["late", "early"])
def test_it_removes_what_was_made_when_its_process_is_killed(
    tmp_path: Path, users: list[int]
) -> None:
    """The kernel does not end it with that process, however early: it has something to do."""
    mark = tmp_path / "mark"

    def trace() -> None:
        kept = Keeper(Holdings(instance=Made(mark)))  # type: ignore[arg-type]
        for user in users:
            kept.user(user)
        os.kill(os.getpid(), signal.SIGKILL)

    os.waitpid(forked(trace), 0)
    deadline = time.monotonic() + 20
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mark.exists()


@pytest.mark.skipif(not landlock.version(), reason="not offered: the kernel has no Landlock")
def test_it_can_write_nowhere_but_where_it_must(tmp_path: Path) -> None:
    """Whatever rights it has, and whoever owns the place; it can read everywhere."""
    own, others = tmp_path / "own", tmp_path / "others"
    own.mkdir()
    others.mkdir()

    def help_() -> None:
        apart.confine_helper(
            (CAP_DAC_OVERRIDE,), seccomp.files(), (), writes=[str(own)], outlives=True
        )
        (own / "mark").touch()
        with contextlib.suppress(PermissionError):
            (others / "mark").touch()
        assert [own / "mark"] == [*tmp_path.glob("*/*")]

    _, status = os.waitpid(forked(help_), 0)
    assert (0, [own / "mark"]) == (status, [*tmp_path.glob("*/*")])


def test_rights_follow_from_what_is_held() -> None:
    """Nothing is kept that a run does not need."""
    assert {"CAP_DAC_READ_SEARCH"} == _names(Holdings())
    assert {"CAP_DAC_READ_SEARCH", "CAP_BPF"} == _names(Holdings(programs=[7]))
    assert {"CAP_DAC_READ_SEARCH", "CAP_KILL"} == _names(Holdings(command=7))


def _names(held: Holdings) -> set[str]:
    return {NAMES[number] for number in held.rights()}
