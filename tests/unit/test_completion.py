"""Completion: what a shell is told that a word may become."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tcptrace.cli import cli
from tcptrace.commands import completion
from tcptrace.model.identity import Identity
from tcptrace.probes.identities import IDENTITIES
from tcptrace.shell import complete

PROGRAM = (sys.executable, "-m", "tcptrace")


def completed(line: str, asked_by: str = "bash") -> list[str]:
    """Return what the last word of a command line may become, as the shell is told."""
    words = f"tcptrace {line}"
    environment = {
        **os.environ,
        "_TCPTRACE_COMPLETE": f"{asked_by}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    ended = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True, check=True)
    assert "" == ended.stderr
    return ended.stdout.splitlines()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ac", ["plain,accept"]),
        ("help tr", ["plain,tracer"]),
        ("accept --backl", ["plain,--backlog"]),
        ("accept --backend f", ["plain,fentry", "plain,ftrace"]),
        ("accept -o j", ["plain,json"]),
        ("accept --columns lad", ["plain,laddr"]),
        ("accept --columns pid,-lad", ["plain,pid,-laddr"]),
        ("accept --columns +lad", ["plain,+laddr"]),
        ("accept --cgroup /sy", ["dir,/sy"]),
        ("accept --cgroupmap /sy", ["file,/sy"]),
        ("completion z", ["plain,zsh"]),
        ("accept --help-all -o j", ["plain,json"]),
        ("prepare con", ["plain,connect"]),
        ("top --by program,na", ["plain,program,name", "plain,program,namespace"]),
        ("accept -r /tm", ["file,/tm"]),
        ("accept --write /tm", ["file,/tm"]),
        ("accept --to /tm", ["file,/tm"]),
        ("accept --as roo", ["plain,root"]),
        ("accept -- ", ["file,"]),
        ("accept -- /bin/ls -", ["file,-"]),
    ],
)
def test_words_are_completed(line: str, expected: list[str]) -> None:
    """Commands, options, and the values that are known."""
    assert expected == completed(line)


def test_what_is_on_this_host_is_completed() -> None:
    """Processes by id, and their names besides; users; lists and exclusions."""
    pid, user = os.getpid(), pwd.getpwuid(0).pw_name
    assert f"plain,{pid}" in completed(f"accept -p {pid}")
    assert f"plain,1,!{pid}" in completed(f"accept -p 1,!{pid}")
    assert f"plain,{user}" in completed(f"accept -u {user}")
    told = completed(f"accept -p {pid}", asked_by="zsh")
    name = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert name == told[told.index(str(pid)) + 1]


def test_network_namespaces_are_completed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the names that ip-netns(8) gives them; where there are none, nothing is offered."""
    (tmp_path / "blue").touch()
    for place, expected in ((tmp_path, [("blue", "")]), (tmp_path / "none", [])):
        monkeypatch.setattr(complete, "NAMED", place)
        assert expected == [*complete._netns()]


def test_units_containers_and_pods_are_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cgroups that there are; a container without a name by its id."""
    number = "0123456789ab" + "0" * 52
    known = [
        Identity("/system.slice/web.service", "web.service"),
        Identity("/a", container=number, container_name="nginx", runtime="docker"),
        Identity("/b", container=number[::-1]),
        Identity("/c", container="lx", container_name="lx", pod="web-1", pod_namespace="shop"),
    ]
    monkeypatch.setattr(IDENTITIES, "learn_all", lambda: enumerate(known))
    assert ["system.slice", "web.service"] == [word for word, _ in complete._units()]
    assert [("nginx", "docker 0123456789ab"), ("000000000000", ""), ("lx", "lx")] == [
        *complete._containers()
    ]
    assert [("shop/web-1", "")] == [*complete._pods()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_the_shells(shell: str) -> None:
    """Each asks the program in its own way; the shell itself, where it is here, can read it."""
    command = [*PROGRAM, "completion", shell]
    script = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"_TCPTRACE_COMPLETE={shell}_complete" in script
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, check=False)
        assert 0 == checked.returncode


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_program_of_another_name_is_completed(shell: str) -> None:
    """The Debian package calls it tcptrace-bpf."""
    text = completion.script(cli, shell, "tcptrace-bpf")
    assert complete.INSTRUCTION in text
    assert "tcptrace-bpf" in text
