"""What a process lacks to trace is named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tcptrace import program
from tcptrace.errors import TcptraceError
from tcptrace.kernel import apart, landlock, lookups, privileges, tracefs
from tcptrace.kernel.apart import ROOT, Person
from tcptrace.kernel.privileges import (
    CAP_BPF,
    CAP_PERFMON,
    CAP_SYS_ADMIN,
    CAP_SYS_PTRACE,
    require_tracing,
)
from tcptrace.shell import parting


@pytest.mark.parametrize(
    ("capabilities", "missing"),
    [
        ((), "CAP_BPF and CAP_PERFMON."),
        ((CAP_BPF,), "CAP_PERFMON is missing"),
        ((CAP_PERFMON,), "CAP_BPF is missing"),
    ],
)
def test_a_missing_capability_is_named(
    monkeypatch: pytest.MonkeyPatch, capabilities: tuple[int, ...], missing: str
) -> None:
    """Where one of two is there, the other one is what to ask for."""
    mask = sum(1 << number for number in capabilities)
    monkeypatch.setattr(privileges, "effective_capabilities", lambda: mask)
    with pytest.raises(TcptraceError, match=missing):
        require_tracing()


@pytest.mark.parametrize("capabilities", [(CAP_SYS_ADMIN,), (CAP_BPF, CAP_PERFMON)])
def test_enough_capabilities(
    monkeypatch: pytest.MonkeyPatch, capabilities: tuple[int, ...]
) -> None:
    """One old one, or two new ones."""
    mask = sum(1 << number for number in capabilities)
    monkeypatch.setattr(privileges, "effective_capabilities", lambda: mask)
    require_tracing()


def test_what_is_missed_for_want_of_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each right that tracing can do without is named with what it would give."""
    held = [CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE]
    mask = sum(1 << number for number in held)
    monkeypatch.setattr(privileges, "permitted_capabilities", lambda: mask)
    search, admin = privileges.missed()
    assert "without CAP_DAC_READ_SEARCH: no cgroups" in search
    assert "without CAP_SYS_ADMIN: no sockets of other network namespaces" in admin


def test_a_tracefs_that_is_closed_is_a_matter_of_rights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where it is mounted with mode 0700, to mount it is not what helps."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tracefs, "USUAL_PLACES", (tmp_path,))
    monkeypatch.setattr(tracefs, "detached_mount", refused)
    tracefs._mounted.cache_clear()
    with pytest.raises(TcptraceError, match="mount -t tracefs"):
        tracefs.find_or_mount()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", refused)
        with pytest.raises(TcptraceError, match=rf"is mounted on {tmp_path}.*\n.*CAP_DAC_READ"):
            tracefs.find_or_mount()


@pytest.mark.parametrize(
    ("who", "version", "told"),
    [(ROOT, 0, 1), (ROOT, 1, 0), (Person(1, 1, "daemon"), 0, 0)],
)
def test_what_holds_nothing_back_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, who: Person, version: int, told: int
) -> None:
    """A process that stays root by its id, without Landlock, has what root owns."""
    said: list[str] = []
    source: Any = None
    monkeypatch.setattr(apart, "person_of", lambda *_: who)
    monkeypatch.setattr(apart, "set_person", lambda _: None)
    monkeypatch.setattr(landlock, "version", lambda: version)
    monkeypatch.setattr(parting, "say", said.append)
    parting.Parting(source, who, None, str(tmp_path), (), verbose=True).settle()
    assert told == len(said)


def test_a_fault_is_told_where_its_words_are_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without -v, what would tell them was not imported while it could be."""
    monkeypatch.setitem(sys.modules, "traceback", None)
    told = program._unexpected(ValueError("too large"))
    assert ("ValueError: too large" in str(told), "") == (True, told.details)


def test_what_is_large_is_imported_behind_the_keeper(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper, which is a fork, stays small; files can still be read then."""
    done: list[str] = []
    keeper: Any = SimpleNamespace(problem="")

    def keep(_self: parting.Parting) -> Any:
        done.append("keeper")
        return keeper

    monkeypatch.setattr(parting.Parting, "_keeper", keep)
    monkeypatch.setattr(lookups, "ask", lambda _: None)
    monkeypatch.setattr(apart, "confine", lambda *_: done.append("confined"))
    source: Any = SimpleNamespace(part=lambda _: None)
    own = parting.Parting(source, ROOT, None, None, (), verbose=False)
    own.settle([lambda: done.append("prepared")])
    assert [] == list(own.then(iter(())))
    assert ["keeper", "prepared", "confined"] == done
