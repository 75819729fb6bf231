"""The backend ftrace without a kernel: threads, attempts, names, falling back to it."""

from __future__ import annotations

import dataclasses
import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.test_trace_buffer import HEADER_PAGE

from tcptrace.errors import RefusedError, RightsError, TcptraceError
from tcptrace.kernel import processes, tracefs
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.model.systems import Recorded
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.probe import Probe
from tcptrace.probes.trace_points import Follow, Sample
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.shell.host import Host
from tcptrace.sources import attach
from tcptrace.sources.plan import Plan
from tcptrace.sources.tracefs import session as ftrace


def test_more_than_a_page_of_filters_is_refused() -> None:
    """The kernel would refuse it without saying why."""
    ports = BY_NAME["port"].parse([",".join(map(str, range(1, 999, 2)))], Host())
    with pytest.raises(RefusedError, match="so many filters"):
        ftrace.check(Plan(ACCEPT, Filters({"port": ports})))


def asked(probe: Probe) -> Plan:
    """Return a plan with filters by process, user, port and family."""
    typed = {"pid": ["181"], "uid": ["1000"], "port": ["80"], "family": "6"}
    values = {name: BY_NAME[name].parse(texts, Recorded()) for name, texts in typed.items()}
    return Plan(probe, Filters(values, probe.port_fields))


def test_the_kernel_compares_what_an_event_has() -> None:
    """Users, families and ports are compared in the kernel; it knows threads, not processes."""
    variant = ACCEPT.trace_variants[0]
    text = ftrace.condition(asked(ACCEPT), variant, variant.events[0])
    assert "(uid == 1000)" in text
    assert "(lport_0 == 0 && lport_1 == 80)" in text
    assert "rport" not in text
    assert "family ==" in text
    assert "181" not in text


def test_in_softirq_the_kernel_compares_no_task() -> None:
    """There the current task is any; and a port may not be known yet."""
    variant = TRACER.trace_variants[0]
    texts = {
        event.name: ftrace.condition(asked(TRACER), variant, event) for event in variant.events
    }
    assert not any("uid ==" in text for text in texts.values())
    assert "from == 2 || to == 2 || " in texts["state"]
    assert "rport_1 == 80" in texts["state"]
    assert "to == 2 || " not in texts["accept"]


def test_what_the_kernel_has_not_compared_is_compared_here() -> None:
    """A sample passes the filters by task, and by either port, as a record would."""
    session = ftrace.FtraceSession.__new__(ftrace.FtraceSession)
    session._take_filters(asked(TRACER).filters)
    session._ports = ("lport", "rport")
    fields = {"uid": 1000, "comm": "curl", "lport": b"\x9c\x40", "rport": b"\0\x50"}
    sample = Sample("state", 0, 181, 182, fields)
    assert session._wants(sample)
    assert session._wants_ports(sample)
    assert not session._wants(dataclasses.replace(sample, pid=7))
    assert not session._wants(dataclasses.replace(sample, fields={**fields, "uid": 0}))
    assert not session._wants_ports(
        dataclasses.replace(sample, fields={**fields, "rport": b"\0\1"})
    )


def test_threads_belong_to_their_creator_s_process() -> None:
    """A thread of a thread is of the same process; a new process takes a used id for its own."""
    threads = ftrace.Threads()
    threads.born(100, 101, is_thread=True)
    threads.born(101, 102, is_thread=True)
    threads.born(102, 200, is_thread=False)
    assert [100, 100, 100, 200] == [threads.group(tid) for tid in (100, 101, 102, 200)]
    threads.born(1, 102, is_thread=False)
    assert 102 == threads.group(102)


def test_an_id_that_was_given_again_is_known() -> None:
    """A process that was asked for has ended when another begins under its id."""
    threads = ftrace.Threads({181})
    threads.born(7, 182, is_thread=False)
    assert set() == threads.reused
    threads.born(7, 181, is_thread=False)
    assert {181} == threads.reused


def test_threads_that_were_there_are_known() -> None:
    """A scan finds the threads of all processes, as of this one."""
    threads = ftrace.Threads()
    threads.scan()
    assert {os.getpid()} == {threads.group(tid) for tid in processes.threads_of(os.getpid())}


def sample(
    name: str, *, tid: int = 7, result: int | None = None, lport: int = 0, added_to: int = 0
) -> Sample:
    """Return a sample of an attempt, from a point of its way or at a return."""
    fields: dict[str, Any] = {"result": result}
    if result is None:
        fields = {
            "sk": 0xFFFF,
            "family": socket.AF_INET,
            "netns": 1,
            "uid": 0,
            "comm": "curl",
            "laddr": 1,
            "raddr": 2,
            "laddr6": bytes(16),
            "raddr6": bytes(16),
            "lport": lport.to_bytes(2, "big"),
            "rport": (443).to_bytes(2, "big"),
            "is_mptcp": int(bool(added_to)),
            "mptcp_sk": added_to,
            "path_sk": 0xEEEE,
        }
    return Sample(name, 1, 7, tid, fields)


def rows(samples: Iterable[Sample]) -> list[tuple[int | None, str | None]]:
    """Return local port and error of the attempts that samples make."""
    follow: Follow = CONNECT.trace_variants[0].follow(lambda _: True, lambda _: True)
    events: list[Any] = [event for sample in samples for event in follow(sample)]
    return [(event.lport, event.error) for event in events]


REQUEST, ATTEMPT = sample("request"), sample("attempt")
LAUNCHED = sample("syn", lport=40000)
BOUND, SENT = sample("attempt", lport=40000), sample("result", result=0)
ALLOWED, DENIED = sample("answer", result=0), sample("answer", result=-13)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([REQUEST, ALLOWED, ATTEMPT, LAUNCHED, sample("result", result=0)], [(40000, None)]),
        ([ATTEMPT, sample("result", result=-101)], [(None, "ENETUNREACH")]),
        ([REQUEST, DENIED], [(None, "EACCES")]),
        ([ATTEMPT, sample("denied", result=-1)], [(None, "EPERM")]),
        ([LAUNCHED, sample("result", result=0), sample("result", result=0)], [(40000, None)]),
        ([REQUEST, ALLOWED, sample("result", result=-101)], []),
        ([REQUEST, ALLOWED, DENIED], []),
        ([LAUNCHED, sample("result", result=0, tid=8)], []),
        ([ATTEMPT, sample("result", result=0)], []),
        ([ATTEMPT, sample("result", result=0), LAUNCHED], [(40000, None)]),
        ([BOUND, SENT], []),
        ([BOUND, SENT, BOUND, LAUNCHED, SENT], [(40000, None)]),
        ([sample("attempt", added_to=0xF000), sample("result", result=-101)], []),
        ([sample("syn", added_to=0xF000), SENT], []),
    ],
    ids=[
        "launched",
        "failed in the host",
        "denied by a security module",
        "denied by a cgroup's program",
        "IPv4-mapped, which returns twice",
        "a result without an attempt",
        "an answer without a request",
        "another thread's result",
        "deferred until there are data",
        "deferred, then sent",
        "deferred at a port that was bound",
        "deferred, closed, and its socket's place used again",
        "a path that the kernel adds to MPTCP, and fails",
        "a path that the kernel adds to MPTCP",
    ],
)
def test_one_row_for_each_attempt(
    samples: list[Sample], expected: list[tuple[int | None, str | None]]
) -> None:
    """The points of a call make one row, when the call returns."""
    assert expected == rows(samples)


def test_own_name_is_of_this_process() -> None:
    """A process's own things are not stale; those of another start of its id are."""
    name = tracefs.own_name()
    assert re.fullmatch(rf"tcptrace_{os.getpid()}_\d+", name)
    assert not tracefs.is_stale(name)
    assert tracefs.is_stale(f"tcptrace_{os.getpid()}_1")


@pytest.mark.parametrize("name", ["tcptrace", "tcptrace_1_2_3", "my_tcptrace_1_2", "tcptrace_x_1"])
def test_other_names_are_never_stale(name: str) -> None:
    """What was not made by tcptrace is left alone."""
    assert not tracefs.is_stale(name)


PROFILE = """\
  accept_{name}                          5               2
  accept_{name}                          5               3
  accept_tcptrace_1_2                    9               7
"""
STATS = """\
entries: 0
overrun: 10
commit overrun: 0
bytes: 0
oldest event ts:     0.000000
now ts:    19.036542
dropped events: 100
read events: 9
"""


def test_losses_are_the_kernel_s_own_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records without room, of all CPUs, and missed hits of the process's own probes."""
    monkeypatch.setattr(tracefs, "find_or_mount", lambda: tmp_path)
    name = tracefs.own_name()
    (tmp_path / "events").mkdir()
    (tmp_path / "events/header_page").write_text(HEADER_PAGE)
    (tmp_path / "kprobe_events").touch()
    (tmp_path / "kprobe_profile").write_text(PROFILE.format(name=name))
    (tmp_path / "instances").mkdir()
    instance = tracefs.Instance(64)
    instance.define("accept", "p", "inet_accept", ["sk=$arg1:u64"])
    defined = (tmp_path / "kprobe_events").read_text()
    assert f"p:{name}/accept_{name} inet_accept sk=$arg1:u64" == defined
    stats = [tmp_path / f"stats{cpu}" for cpu in range(2)]
    for path in stats:
        path.write_text(STATS)
    with stats[0].open() as one, stats[1].open() as two:
        instance._stats[:] = [one.fileno(), two.fileno()]
        assert (2 * 110, 2 + 3) == (instance.dropped(), instance.missed())


class FakeSession:
    """Stands for a session on tracefs."""

    warning = ""

    def __init__(self, plan: Plan) -> None:
        """Refuse what the real one refuses."""
        ftrace.check(plan)
        self.notes = ["accept: ftrace"]


class FakeLoader:
    """Stands for a loader without bcc."""

    def __init__(self, plan: Plan) -> None:
        """Fail."""
        raise TcptraceError("bcc is not installed.\nInstall it", details="refused: all")

    def close(self) -> None:
        """Close nothing."""


@pytest.fixture
def without_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without bcc, with tracefs."""
    monkeypatch.setattr(attach, "require_tracing", lambda: None)
    monkeypatch.setattr(attach, "Loader", FakeLoader)
    monkeypatch.setattr("tcptrace.sources.tracefs.session.FtraceSession", FakeSession)
    monkeypatch.setitem(processes.INITIAL, "pid", Path("/proc/self/ns/pid").stat().st_ino)


def attached(plan: Plan) -> Any:
    """Attach as planned."""
    return attach.Attaching(plan).session(lambda: False)


def test_auto_falls_back_and_says_so(without_bcc: None) -> None:
    """Without bcc, auto takes ftrace; the warning says why, the notes all of it."""
    session = attached(Plan(ACCEPT, Filters()))
    assert session.warning.startswith("bcc is not installed; ")
    assert ["refused: all", "accept: ftrace"] == session.notes


def test_a_named_backend_does_not_fall_back(without_bcc: None) -> None:
    """Who asks for kprobe gets kprobe, or the reason."""
    with pytest.raises(TcptraceError, match=r"^bcc is not installed"):
        attached(Plan(ACCEPT, Filters(), backend="kprobe"))


def test_auto_does_not_fall_back_to_less_than_was_asked(without_bcc: None) -> None:
    """An option that ftrace cannot honour is named beside the reason."""
    with pytest.raises(TcptraceError) as caught:
        attached(Plan(ACCEPT, Filters(), not_in_ftrace=("--cgroup",)))
    message = "bcc is not installed; and the backend ftrace cannot honour --cgroup.\nInstall it"
    assert (1, message) == (caught.value.exit_status, str(caught.value))


def test_without_rights_no_backend_is_to_blame(monkeypatch: pytest.MonkeyPatch) -> None:
    """What ftrace cannot do is of no interest to who has to be root first."""

    def refuse() -> None:
        raise RightsError("tracing needs root.\nTry it with sudo")

    monkeypatch.setattr(attach, "require_tracing", refuse)
    with pytest.raises(RightsError, match=r"^tracing needs root\.\nTry it with sudo$"):
        attached(Plan(ACCEPT, Filters(), not_in_ftrace=("--cgroup",)))


def test_outside_of_the_initial_pid_namespace(
    without_bcc: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the kernel's process ids would be taken for others."""
    monkeypatch.setitem(processes.INITIAL, "pid", 1)
    with pytest.raises(TcptraceError, match="initial PID namespace"):
        attached(Plan(ACCEPT, Filters(), backend="ftrace"))
