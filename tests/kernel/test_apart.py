"""The process that traces has no rights: seen from outside, and tried by a plugin from inside."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import signal
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tests.kernel.harness import children_of, eventually, take_port
from tests.kernel.tracers import Tracer, import_path, run_tcptrace
from tests.kernel.traffic import accept_once

from tcptrace.kernel import landlock
from tcptrace.kernel.privileges import CAP_BPF, CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN, CAP_SYS_PTRACE
from tcptrace.kernel.processes import is_running

NOBODY = 65534
BEHIND = pwd.getpwnam("daemon")
"""Some user, as the one behind sudo."""
COMMANDS = (
    ("accept",),
    ("accept", "--json"),
    ("connect", "-d"),
    ("connect", "-c", "--interval", "1"),
    ("tracer", "--existing", "-d", "--failed", "--who"),
    ("connect", "--summary"),
    ("dns",),
    ("top", "-b", "--by", "user,container"),
    ("top", "--listen", "-b"),
)
# Each fails in another way, or does no harm, where it is permitted.
TRIES = '''
import ctypes, fcntl, json, os, pathlib, resource, socket, subprocess, sys
from tcptrace import command
from tcptrace.probes.accept.probe import ACCEPT

libc = ctypes.CDLL(None, use_errno=True)

def call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")

ACTS = {
    "read": lambda: open("/etc/passwd").close(),
    "read through /proc": lambda: open("/proc/self/root/etc/passwd").close(),
    "write": lambda: open(os.environ["TRIED"], "w").close(),
    "socket": lambda: socket.socket().close(),
    "exec": lambda: subprocess.run(["true"], check=True),
    "fork": lambda: os.fork() or os._exit(0),
    "bpf": lambda: call(BPF, 0, 0, 0),
    "ptrace": lambda: call(PTRACE, 2, 0, 0, 0),
    "mount": lambda: call(MOUNT, b"none", b"/nowhere", b"tmpfs", 0, None),
    "user": lambda: os.setgid(0),
    "kill": lambda: os.kill(int(os.environ["OTHER"]), 10),
    "keystroke": lambda: call(IOCTL, 0, 0x5412, b"x"),
    "signal of the kernel's": lambda: fcntl.fcntl(0, 8, int(os.environ["OTHER"])),
    "limits": lambda: resource.prlimit(int(os.environ["OTHER"]), resource.RLIMIT_CORE),
    "pair": lambda: [end.close() for end in socket.socketpair()],
    **{str(number): lambda number=number: call(number, 0, 0, 0, 0, 0, 0) for number in OTHERS},
}

def tried():
    told = {}
    for name, act in ACTS.items():
        try:
            act()
            told[name] = 0
        except OSError as error:
            told[name] = error.errno
    return told

@command(ACCEPT, api=2)
def attempt(trace):
    """Try what is forbidden."""
    before = open("/etc/passwd")
    for number, event in enumerate(trace.events):
        if not number:
            kept = len(before.read()) > 0 and trace.name_of_user(0) == "root"
            told = {**tried(), "kept": kept}
            sys.stderr.write(json.dumps(told) + "\\n")
            sys.stderr.flush()
        yield event
'''
NUMBERS = {"x86_64": {"BPF": 321, "PTRACE": 101, "IOCTL": 16, "MOUNT": 165}}
NUMBERS["aarch64"] = {"BPF": 280, "PTRACE": 117, "IOCTL": 29, "MOUNT": 40}
# io_uring_setup, open_tree, pidfd_open, openat2, pidfd_getfd, process_madvise, mount_setattr,
# memfd_secret; x32's getpid. On all machines.
OTHERS = (425, 428, 434, 437, 438, 440, 442, 447, 0x40000000 + 39)
# keyctl, perf_event_open, process_vm_readv, process_vm_writev, unshare, userfaultfd
OTHERS_OF = {"x86_64": (250, 298, 310, 311, 272, 323), "aarch64": (219, 241, 270, 271, 97, 282)}
# Says what is imported when the process has become another user.
WATCHING = """
import os, sys
def watch(event, arguments):
    if event == "import" and os.getuid():
        os.write(2, f"late import: {arguments[0]}\\n".encode())
sys.addaudithook(watch)
"""


def status(process: int, thread: int | None = None) -> dict[str, list[str]]:
    """Return what /proc says of a process, or of one of its threads."""
    text = Path(f"/proc/{process}/task/{thread or process}/status").read_text()
    return {
        name: value.split()
        for name, _, value in (line.partition(":") for line in text.splitlines())
    }


def is_apart(process: int) -> bool:
    """Tell whether a process has parted with its rights."""
    return status(process)["Seccomp"] == ["2"]


def wait_apart(tracer: Tracer) -> list[int]:
    """Wait until a tracer has no rights any more, and its helpers few; return these."""
    eventually(lambda: is_apart(tracer.pid), "the tracer has no rights")
    helpers = [*children_of(tracer.pid)]
    with contextlib.suppress(FileNotFoundError):  # one has done its work
        eventually(lambda: all(map(is_apart, helpers)), "its helpers have few rights")
    return helpers


def check_rights(process: int, uid: int, gid: int, most: int = 0) -> None:
    """Check that a process, in each of its threads, is nobody else and has `most` at the most."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        found = status(process, int(thread.name))
        assert ([str(uid)] * 4, [str(gid)] * 4) == (found["Uid"], found["Gid"])
        assert [] == found["Groups"]
        assert {"0" * 16} == {found[name][0] for name in ("CapInh", "CapAmb", "CapBnd")}
        assert 0 == (int(found["CapPrm"][0], 16) | int(found["CapEff"][0], 16)) & ~most
        assert (["1"], ["2"]) == (found["NoNewPrivs"], found["Seccomp"])


def mask(*capabilities: int) -> int:
    """Return capabilities as a bit mask."""
    return sum(1 << number for number in capabilities)


@pytest.fixture
def strange_name() -> Iterator[None]:
    """Have this process, and those that it starts, go by bytes that are no text."""
    name = Path("/proc/self/comm")
    before = name.read_bytes().removesuffix(b"\n")
    name.write_bytes(b"\xff\x1b\xe6\x97\xa5\xcc\x81")
    yield
    name.write_bytes(before)


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
@pytest.mark.usefixtures("strange_name")
def test_who_traces_is_nobody(arguments: Sequence[str], tmp_path: Path) -> None:
    """All ids are changed, and no capability is left; helpers have the few that they need.

    Nothing is imported from then on, whatever is shown: it could be in a home that is closed to
    others.
    """
    (tmp_path / "sitecustomize.py").write_text(WATCHING)
    command, *options = arguments
    env = {**import_path(tmp_path), "TERM": "xterm"}
    terminal = os.openpty()[::-1]
    with Tracer(*options, "-v", command=command, env=env, stdout=terminal) as tracer:
        helpers = wait_apart(tracer)
        check_rights(tracer.pid, NOBODY, NOBODY)
        most = mask(CAP_DAC_READ_SEARCH, CAP_BPF, CAP_SYS_ADMIN, CAP_SYS_PTRACE)
        for helper in helpers:
            with contextlib.suppress(FileNotFoundError):  # as above
                check_rights(helper, NOBODY, NOBODY, most)
        accept_once()
        ended = tracer.stop()
    assert (0, False) == (ended.status, "late import" in ended.stderr), ended.stderr
    assert "not known" not in ended.stderr


def test_the_keeper_has_what_it_needs_and_no_more() -> None:
    """Of all capabilities it has two, and it is dead when its tracer is."""
    with Tracer() as tracer:
        (keeper,) = wait_apart(tracer)
        found = status(keeper)
        expected = mask(CAP_DAC_READ_SEARCH, CAP_BPF)
        assert expected == int(found["CapPrm"][0], 16) == int(found["CapEff"][0], 16)
        opened = {str(path.readlink()) for path in Path(f"/proc/{keeper}/fd").iterdir()}
        assert not [name for name in opened if name.startswith("pipe:")]
        tracer.process.kill()
        eventually(lambda: not is_running(keeper), "the keeper has ended")


def test_who_traces_is_the_user_behind_sudo(tmp_path: Path) -> None:
    """The recording belongs to that user as well, and is nobody else's to read."""
    path = tmp_path / "x.jsonl"
    rows = tmp_path / "rows"
    env = {"SUDO_UID": str(BEHIND.pw_uid)}
    with Tracer("-v", "-w", str(path), "--print", "--to", str(rows), env=env) as tracer:
        wait_apart(tracer)
        check_rights(tracer.pid, BEHIND.pw_uid, BEHIND.pw_gid)
        accept_once()
        ended = tracer.stop()
    assert 0 == ended.status
    assert f"{BEHIND.pw_name} ({BEHIND.pw_uid}) traces, without capabilities" in ended.stderr
    assert (BEHIND.pw_uid, 0o600) == (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode))
    assert BEHIND.pw_uid == rows.stat().st_uid
    assert json.loads(path.read_text().splitlines()[-1])["type"] == "end"


def test_descriptors_that_it_was_started_with_are_closed(tmp_path: Path) -> None:
    """But for those that it is to write to, by their names."""
    given = ("sh", "-c", f'exec 8>{tmp_path}/rows 9>{tmp_path}/other; exec "$@"', "sh")
    with Tracer("--to", "/dev/fd/8", prefix=given) as tracer:
        wait_apart(tracer)
        accept_once()
        opened = {str(path.readlink()) for path in Path(f"/proc/{tracer.pid}/fd").iterdir()}
        assert f"{tmp_path}/rows" in opened
        assert f"{tmp_path}/other" not in opened
        ended = tracer.stop()
    assert (0, []) == (ended.status, ended.complaints)
    assert (tmp_path / "rows").read_text().count("\n") > 1


@pytest.mark.parametrize("name", ["root", "0", "1 or so", "4294967295", "99999999999999999999"])
def test_a_strange_user_behind_sudo_is_nobody(name: str) -> None:
    """What SUDO_UID says is used where it is the number of a user, and not root's."""
    with Tracer(env={"SUDO_UID": name}) as tracer:
        wait_apart(tracer)
        check_rights(tracer.pid, NOBODY, NOBODY)
        assert 0 == tracer.stop().status


def test_threads_of_a_recording_have_no_rights_either(tmp_path: Path) -> None:
    """Parquet is written by a library that has threads."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "x.parquet"
    with Tracer("-w", str(path)) as tracer:
        wait_apart(tracer)
        accept_once()
        check_rights(tracer.pid, NOBODY, NOBODY)
        assert 0 == tracer.stop().status
    assert 0 == run_tcptrace("accept", "-r", str(path)).status


def keep_in(place: Path, env: dict[str, str], uid: int) -> set[int]:
    """Keep an accept in a directory while tracing as `uid`; return who owns what is there."""
    with Tracer("-w", f"{place}/", env=env, prefix=("setpriv", "--groups", "4,6")) as tracer:
        wait_apart(tracer)
        found = status(tracer.pid)
        assert [] == found["Groups"]
        assert [[str(uid)] * 4, ["0" * 16], ["0" * 16]] == [
            found[name] for name in ("Uid", "CapPrm", "CapEff")
        ]
        accept_once()
        ended = tracer.stop()
    assert (0, []) == (ended.status, ended.complaints)
    assert 0 == run_tcptrace("accept", "-r", str(place)).status
    made = [path for path in place.rglob("*") if path.is_file()]
    assert made
    return {path.stat().st_uid for path in (place, *made)}


def test_a_directory_is_written_to_as_its_owner() -> None:
    """One that is made is the user's behind sudo; in root's, root without any right writes.

    Where neither could, it says so at once.
    """
    pytest.importorskip("pyarrow")
    behind = {"SUDO_UID": str(BEHIND.pw_uid)}
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        place.chmod(0o755)
        assert {BEHIND.pw_uid} == keep_in(place / "new", behind, BEHIND.pw_uid)
        (place / "root").mkdir()
        assert {0} == keep_in(place / "root", behind, 0)
        place.chmod(0o700)
        ended = run_tcptrace("accept", "-w", f"{place}/new/", env={**os.environ, **behind})
    assert 1 == ended.status
    assert f"{place}/new/ can be written to by no one user alone" in ended.stderr


@pytest.fixture
def plugin(tmp_path: Path) -> dict[str, str]:
    """An environment with a plugin that tries what is forbidden, at its first event."""
    numbers = NUMBERS.get(os.uname().machine)
    if not numbers:
        pytest.skip("this machine has no seccomp filter here")
    constants = "".join(f"{name} = {number}\n" for name, number in numbers.items())
    constants += f"OTHERS = {(*OTHERS, *OTHERS_OF[os.uname().machine])}\n"
    (tmp_path / "attempting.py").write_text(constants + TRIES)
    info = tmp_path / "attempting-1.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[tcptrace.commands]\nattempt = attempting:attempt\n")
    return {**import_path(tmp_path), "TRIED": str(tmp_path / "written"), "OTHER": str(os.getpid())}


def attempts(plugin: dict[str, str], *options: str) -> dict[str, object]:
    """Return what has become of the plugin's attempts: an errno of each, or 0."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        # Started so, Python would import from there, so from anywhere.
        with Tracer(*options, command="attempt", env=plugin, cwd=Path("/")) as tracer:
            accept_once()
            tracer.wait_until(lambda: '"kept"' in tracer.stderr, "what was tried")
            tracer.stop()
    finally:
        signal.signal(signal.SIGUSR1, before)
    line = next(line for line in tracer.stderr.splitlines() if '"kept"' in line)
    told: dict[str, object] = json.loads(line)
    return told


def test_what_is_forbidden_cannot_be_done(plugin: dict[str, str], tmp_path: Path) -> None:
    """No file is opened, no program started, no socket made; what was open before can be read."""
    tmp_path.chmod(0o777)
    told = attempts(plugin)
    assert told.pop("kept")
    if not landlock.version():
        told.pop("read")
        told.pop("read through /proc")
    refused = {errno.EPERM, errno.EACCES}
    assert not [name for name, number in told.items() if number not in refused], told
    assert not Path(plugin["TRIED"]).exists()


@pytest.mark.skipif(not landlock.version(), reason="not offered: the kernel has no Landlock")
def test_who_makes_files_for_root_reaches_no_others(plugin: dict[str, str], tmp_path: Path) -> None:
    """It is root by its id, makes files in the directory that it was given, and nothing else."""
    pytest.importorskip("pyarrow")
    place = tmp_path / "kept"
    place.mkdir()
    (place / "link").symlink_to(plugin["TRIED"])
    through = {**plugin, "TRIED": str(place / "link")}
    for env in (plugin, through):
        told = attempts(env, "-w", f"{place}/", "--print")
        assert told.pop("kept")
        refused = {errno.EPERM, errno.EACCES}
        assert not [name for name, number in told.items() if number not in refused], told
    assert not Path(plugin["TRIED"]).exists()
    assert [0, 0] == [path.stat().st_uid for path in place.rglob("*.parquet")]


def test_a_plugin_can_keep_the_rights(plugin: dict[str, str]) -> None:
    """With --keep-privileges, all is as root has it."""
    told = attempts(plugin, "--keep-privileges")
    done = {"read", "write", "socket", "exec", "fork", "user", "kill"}
    assert dict.fromkeys(done, 0) == {name: told[name] for name in done}
    assert not {told["ptrace"], told["mount"], told["bpf"]} & {0, errno.EPERM, errno.EACCES}


def test_the_end_of_the_keeper_is_said() -> None:
    """Tracing goes on, with what can be had, and ends well."""
    port = take_port()
    with Tracer("--json", "-P", str(port)) as tracer:
        (keeper,) = wait_apart(tracer)
        os.kill(keeper, signal.SIGKILL)
        accept_once(port=port)
        (event,) = tracer.wait_for(lport=port)
        tracer.wait_until(lambda: "the keeper has ended" in tracer.stderr, "that it has ended")
        assert "cgroup" not in event
        ended = tracer.stop()
    assert (0, 1) == (ended.status, ended.stderr.count("the keeper"))


def test_a_keeper_that_stands_still_is_given_up() -> None:
    """It is waited for as long as an answer may take, not for ever."""
    port = take_port()
    with Tracer("--json", "-P", str(port)) as tracer:
        (keeper,) = wait_apart(tracer)
        os.kill(keeper, signal.SIGSTOP)
        accept_once(port=port)
        tracer.wait_for(lport=port)
        tracer.wait_until(lambda: "the keeper has not answered" in tracer.stderr, "that it waits")
        ended = tracer.stop()
    assert 0 == ended.status
    eventually(lambda: not is_running(keeper), "the keeper has ended")


def test_a_command_of_another_user_gets_its_signals(tmp_path: Path) -> None:
    """Who traces has no right to send it one; the keeper has."""
    script = "trap 'echo heard; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    arguments = ["--as", "root", "--to", str(tmp_path / "rows"), "--", "sh", "-c", script]
    env = {"SUDO_UID": str(BEHIND.pw_uid)}
    with Tracer(*arguments, env=env) as tracer:
        tracer.wait_until(lambda: "ready" in tracer.stdout, "the command")
        eventually(lambda: is_apart(tracer.pid), "the tracer has no rights")
        ended = tracer.stop(signal.SIGTERM)
    assert (7, "ready\nheard\n") == (ended.status, ended.stdout)
