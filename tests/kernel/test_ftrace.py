"""The backend ftrace beside other users of tracefs: what it leaves, and what it can do without."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.kernel.backends import need_backend
from tests.kernel.conftest import mounted
from tests.kernel.harness import Worker, children_of, eventually, limit, take_port
from tests.kernel.test_faults import WITHOUT_BCC, changed, check_refusal
from tests.kernel.tracers import Tracer, check_losses, plain, run_in_fork
from tests.kernel.traffic import (
    Actor,
    Sleepers,
    accept_once,
    burst,
    known,
)

from tcptrace.kernel import apart, tracefs
from tcptrace.kernel.keeper import Holdings, Keeper
from tcptrace.sources.tracefs import session as ftrace

FTRACE = ("--json", "--backend", "ftrace")
BLOCKED = 500
WITHOUT_MEMBERS = """
from tcptrace.kernel.btf import Btf
id_of, member = Btf.id_of, Btf.member
Btf.id_of = lambda types, name, kind: id_of(types, name.replace("mptcp_sock", "?"), kind)
Btf.member = lambda types, type_id, name: member(types, type_id, name.replace("skc_v6", "?"))
"""
LIBRARIES = "ldconfig -p | sed -n 's/.*libbcc[^ ]* .*=> //p'"
# Refuses bpf(2) with EPERM: prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, a filter of its number).
WITHOUT_BPF = """
import ctypes, struct
from tcptrace.kernel import syscalls
number = syscalls._number(0)
code = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50001), (0x06, 0, 0, 0x7FFF0000)]
program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in code))
header = struct.pack("@HP", len(code), ctypes.addressof(program))
assert not syscalls.libc.prctl(22, 2, header)
assert syscalls.libc.syscall(number, 0, 0, 0) == -1
"""
HIDDEN = f'for library in $({LIBRARIES}); do mount --bind /dev/null $library; done; exec "$@"'
WITHOUT_LIBBCC = ("unshare", "--mount", "sh", "-ec", HIDDEN, "sh")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    """The root of tracefs, on a kernel that has the backend; mounted where the program looks."""
    need_backend("ftrace")
    with contextlib.ExitStack() as stack:
        yield tracefs.find() or stack.enter_context(mounted("tracefs", tracefs.USUAL_PLACES[0]))


def make_a_thread_late() -> None:
    """Make a thread once somebody sleeps."""
    time.sleep(0.1)
    thread = threading.Thread(target=os.getpid)
    thread.start()
    thread.join()


def test_a_record_wakes_who_sleeps_on_the_buffer() -> None:
    """Nothing can be read until there is one; then at once; and nothing more when it was read."""
    with contextlib.closing(tracefs.Instance(buffer_kb=256)) as instance:
        instance.open()
        poller = select.poll()
        for pipe in instance.pipes:
            poller.register(pipe, select.POLLIN)
        workers = [Worker(make_a_thread_late) for _ in range(2)]
        pids = " || ".join(f"common_pid == {worker.pid}" for worker in workers)
        instance.enable(ftrace.NEW_TASK, pids)
        for taken, worker in enumerate(workers, 1):
            assert not poller.poll(0)
            worker.start()
            assert poller.poll(limit(10) * 1000)
            worker.result()
            assert (1, taken) == (len([*instance.records()]), instance.taken)
        assert not poller.poll(0)


def test_instance_gives_what_the_kernel_records() -> None:
    """Records of all CPUs come whole, in order, on CLOCK_MONOTONIC; nothing of it remains."""
    with contextlib.closing(tracefs.Instance(buffer_kb=256)) as instance:
        instance.open()
        layout = ftrace.Layout(ftrace.NEW_TASK, instance.format(ftrace.NEW_TASK))
        instance.enable(ftrace.NEW_TASK)
        before = time.monotonic_ns()
        children = [Worker(os.getpid) for _ in range(100)]
        after = time.monotonic_ns()
        assert [child.pid for child in children] == [child.run() for child in children]
        records = list(instance.records(after, most=1))  # so that more is left than is read
        records += instance.records()
        mine = [
            (record.ts_ns, fields["pid"])
            for record in records
            if (fields := layout.fields(record.data))["common_pid"] == os.getpid()
        ]
        assert [child.pid for child in children] == [pid for _, pid in mine]
        assert all(before < ts_ns < after for ts_ns, _ in mine)
        assert (0, 0) == (instance.dropped(), instance.missed())
    assert not (tracefs.find_or_mount() / "instances" / tracefs.own_name()).exists()


def test_instance_of_a_killed_process_is_removed() -> None:
    """What a killed process has left is removed; what this one has stays."""
    reading, writing = os.pipe()

    def hold() -> None:
        tracefs.Instance(buffer_kb=64).open()
        os.write(writing, tracefs.own_name().encode())
        signal.pause()

    instances = tracefs.find_or_mount() / "instances"
    worker = Worker(hold)
    worker.start()
    name = os.read(reading, 100).decode()
    with contextlib.closing(tracefs.Instance(buffer_kb=64)) as instance:
        instance.open()
        assert (instances / name).exists()
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(AssertionError, match="died"):
            worker.result()
        tracefs.remove_stale(instances.parent)
        assert not (instances / name).exists()
        assert (instances / tracefs.own_name()).exists()
    os.close(reading)
    os.close(writing)


def test_the_keeper_sees_to_tracefs() -> None:
    """With few rights, and held to tracefs, also where that is mounted for the tracer alone."""
    reading, writing = os.pipe()

    def hold() -> None:
        apart.set_person(apart.person_for({}))
        instance = tracefs.Instance(buffer_kb=64)
        instance.open()
        keeper = Keeper(Holdings(instance=instance))
        keeper.stop()
        keeper.follow(os.getpid())
        os.write(writing, tracefs.own_name().encode())
        signal.pause()

    worker = Worker(hold)
    worker.start()
    place = tracefs.find_or_mount() / "instances" / os.read(reading, 100).decode()
    assert "0" == (place / "tracing_on").read_text().strip()
    assert str(worker.pid) in (place / "set_event_pid").read_text().split()
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(AssertionError, match="died"):
        worker.result()
    eventually(lambda: not place.exists(), "the keeper has removed it")
    os.close(reading)
    os.close(writing)


def owned(root: Path) -> set[str]:
    """Return what there is of tcptrace: instances, and groups of probes."""
    groups = {line.partition(":")[2].partition("/")[0] for line in probes(root)}
    names = {path.name for path in (root / "instances").iterdir()} | groups
    return {name for name in names if name.startswith("tcptrace")}


def probes(root: Path) -> list[str]:
    """Return the definitions of all probes."""
    return (root / "kprobe_events").read_text().splitlines()


@pytest.fixture
def other_user(root: Path) -> Iterator[list[str]]:
    """Somebody else with a probe, enabled in an instance; returns what is to stay."""
    instance = root / "instances" / "tcptrace-of-another"
    group = "tcptrace_of_another"
    tracefs.append(root / "kprobe_events", f"p:{group}/accept inet_csk_accept")
    instance.mkdir()
    enable = instance / "events" / group / "enable"
    enable.write_text("1")
    yield [line for line in probes(root) if group in line]
    assert "1" == enable.read_text().strip()
    instance.rmdir()
    tracefs.append(root / "kprobe_events", f"-:{group}/accept")


def test_two_tracers_do_not_see_each_other(root: Path, other_user: list[str]) -> None:
    """Each has an instance and probes of its own, with its own filters, and removes only those."""
    ports = take_port(), take_port()
    before = owned(root)
    with Tracer(*FTRACE, "-P", str(ports[0])) as one, Tracer(*FTRACE, "-P", str(ports[1])) as two:
        names = owned(root) - before
        assert {one.pid, two.pid} == {int(name.split("_")[1]) for name in names}
        for port, tracer in zip(ports, (one, two), strict=True):
            accept_once(port=port)
            tracer.wait_for(lport=port)
        assert 0 == one.stop().status
        accept_once(port=ports[1])
        two.wait_for(2, lport=ports[1])
        ended = two.stop(signal.SIGTERM)
        assert (0, (2, 0)) == (ended.status, ended.summary)
    assert before == owned(root)
    assert other_user == [line for line in probes(root) if "tcptrace" in line]


def test_an_error_leaves_nothing(root: Path) -> None:
    """Output that cannot be written ends the trace, and removes all that was made."""
    before = owned(root)
    full = os.open("/dev/full", os.O_RDWR)
    with Tracer(*FTRACE, stdout=(full, os.open(os.devnull, os.O_RDONLY)), armed=False) as tracer:
        tracer.wait_until(lambda: "Tracing " in tracer.stderr, "the banner")
        accept_once()
        assert 1 == tracer.ended().status
    assert before == owned(root)


def keeper_of(tracer: Tracer) -> int:
    """Return the process that keeps a tracer's rights, when it has come."""
    eventually(lambda: any(children_of(tracer.pid)), "the keeper")
    (keeper,) = children_of(tracer.pid)
    return keeper


def test_the_keeper_removes_what_a_kill_left(root: Path, other_user: list[str]) -> None:
    """After SIGKILL of the process that traces, its keeper removes the probes and the buffer."""
    before = owned(root)
    with Tracer(*FTRACE) as killed:
        keeper_of(killed)
        killed.process.kill()
        killed.process.wait(limit(10))
        eventually(lambda: before == owned(root), "nothing is left in tracefs")
    assert other_user == [line for line in probes(root) if "tcptrace" in line]


def test_the_next_start_removes_what_a_kill_left(root: Path, other_user: list[str]) -> None:
    """What SIGKILL leaves goes with the next start, of any backend; what lives or is others' stays.

    A process id that another process has by now does not count as living.
    """
    reused = f"tcptrace_{os.getpid()}_1"
    (root / "instances" / reused).mkdir()
    with Tracer(*FTRACE) as living, Tracer(*FTRACE) as killed:
        left = {name for name in owned(root) if f"_{killed.pid}_" in name}
        assert left
        os.kill(keeper_of(killed), signal.SIGKILL)
        killed.process.kill()
        killed.process.wait(limit(10))
        assert left < owned(root)
        with Tracer("--backend", "tracepoint") as following:
            now = owned(root)
            assert not left & now
            assert reused not in now
            assert 0 == following.stop().status
        port = accept_once()["lport"]
        living.wait_for(lport=port)
        assert 0 == living.stop().status
    assert other_user == [line for line in probes(root) if "tcptrace" in line]


def test_many_blocked_acceptors(root: Path) -> None:
    """500 threads that slept in accept before the trace began are all seen, with their process."""
    sleepers = Sleepers(BLOCKED)
    with Tracer(*FTRACE, "-p", str(sleepers.pid)) as tracer:
        tids = sleepers.wake()
        events = tracer.wait_for(BLOCKED, lport=sleepers.port)
        assert sorted(tids) == sorted(event["tid"] for event in events)
        assert {sleepers.pid} == {event["pid"] for event in events}
        assert (BLOCKED, 0) == tracer.stop().summary


def accept_in_threads(ports: list[int]) -> list[int]:
    """Accept in new threads, one after the other, each made by the one before."""
    tids: list[int] = []

    def accept(rest: list[int]) -> None:
        tids.append(threading.get_native_id())
        accept_once(port=rest[0])
        if rest[1:]:
            thread = threading.Thread(target=accept, args=(rest[1:],))
            thread.start()
            thread.join(limit(10))

    accept(ports)
    return tids


def test_new_threads_of_a_filtered_process(root: Path) -> None:
    """With -p, threads made while tracing are seen at once, children of the process are not."""
    ports = [take_port() for _ in range(5)]
    other = take_port()

    def work() -> list[int]:
        Worker(Actor(port=other).accept).run()
        return accept_in_threads(ports)

    worker = Worker(work)
    with Tracer(*FTRACE, "-p", str(worker.pid)) as tracer:
        tids = worker.run()
        events = tracer.wait_for(len(ports), pid=worker.pid)
        assert [*zip(ports, tids, strict=True)] == [
            (event["lport"], event["tid"]) for event in events
        ]
        assert (len(ports), 0) == tracer.stop().summary


def test_losses_are_counted(root: Path) -> None:
    """What the buffer had no room for is counted: shown and lost make all that happened."""
    port, made = take_port(), 6000

    def accept_on_one_cpu() -> None:
        os.sched_setaffinity(0, {0})
        burst(port, made)

    with Tracer(*FTRACE, "--buffer-mb", "1", "--fail-on-loss", "-P", str(port)) as tracer:
        check_losses(tracer, accept_on_one_cpu, made)


def test_without_bcc_and_bpf(root: Path) -> None:
    """Where bcc is not installed and bpf(2) is refused, auto falls back to ftrace and says so."""
    port = take_port()
    program = changed(WITHOUT_BCC + WITHOUT_BPF)
    arguments = ("--json", "--no-cache", "-P", str(port))
    with Tracer(*arguments, prefix=WITHOUT_LIBBCC, program=program) as tracer:
        accept_once(port=port)
        (event,) = tracer.wait_for(lport=port)
        assert "ftrace" == event["backend"]
        (warning,) = tracer.stop().complaints
        assert "bcc is not installed" in warning
        assert "ftrace" in warning


def test_tracefs_is_mounted_for_nobody_else(root: Path) -> None:
    """Where tracefs is not mounted, tracing works, it stays so, and nothing is left."""
    without = ("unshare", "--mount", "sh", "-c", 'umount -lat tracefs,debugfs; exec "$@"', "sh")
    port = take_port()
    with Tracer(*FTRACE, prefix=without) as tracer:
        mounts = Path(f"/proc/{tracer.pid}/mounts").read_text()
        assert [] == [line for line in mounts.splitlines() if line.split()[2] == "tracefs"]
        accept_once(port=port)
        tracer.wait_for(lport=port)
        assert 0 == tracer.stop().status


def test_kernel_without_ipv6_and_mptcp(root: Path) -> None:
    """Members that a kernel lacks are fetched as zeros; what it has is right."""
    port = take_port()
    program = changed(WITHOUT_MEMBERS)
    with Tracer(*FTRACE, "-P", str(port), "-4", program=program) as tracer:
        expected = accept_once(port=port)
        (event,) = tracer.wait_for(lport=port)
        assert {**known(expected, "ftrace"), "backend": "ftrace"} == plain(event)
        assert 0 == tracer.stop().status


REFUSED = {
    "accept --failed": "--failed",
    "connect --outcome": "--outcome",
    "connect --slower 5": "--slower",
    "connect -c": "-c",
    "connect -d": "-d",
    "tracer --existing": "--existing",
    "tracer --failed -d": "--failed, -d",
    "tracer --max-connections 5": "--max-connections",
}


@pytest.mark.parametrize("arguments", REFUSED)
@pytest.mark.anywhere
def test_what_it_cannot_honour_is_refused(arguments: str) -> None:
    """An option that tracefs cannot serve is named, with exit status 2."""
    check_refusal(run_in_fork(*arguments.split(), "--backend", "ftrace"), 2, REFUSED[arguments])


@pytest.mark.anywhere
def test_containers_are_refused(cgroup: Path) -> None:
    """It knows no cgroups and mount namespaces."""
    options = ("--cgroup", str(cgroup), "--cgroupmap", "/x", "--mntnsmap", "/y")
    places = ("--unit", "a", "--container", "b", "--pod", "c")
    ended = run_in_fork("accept", "--backend", "ftrace", *options, *places)
    known = ("--unit", "--container", "--pod")
    check_refusal(ended, 2, "--cgroup,", "--cgroupmap", "--mntnsmap", *known)
