"""Bad input and faults: one or two lines that say what failed and what to do, never a traceback."""

from __future__ import annotations

import functools
import os
import signal
import stat
import statistics
import time
from pathlib import Path

import pytest
from tests.kernel.backends import available, need_backend, not_offered
from tests.kernel.bpfmaps import ARRAY, HASH, map_exists, maps_of, pinned
from tests.kernel.harness import Worker, children_of, eventually, limit, take_port
from tests.kernel.tracers import (
    SKIPPED,
    TCPTRACE,
    Ended,
    Tracer,
    check_losses,
    import_path,
    run_in_fork,
    run_tcptrace,
)
from tests.kernel.traffic import NOBODY, accept_once, burst, cgroup_id

from tcptrace.kernel.headers import SYMBOLS
from tcptrace.kernel.tracefs import USUAL_PLACES
from tcptrace.probes.probe import BACKENDS, BPF_BACKENDS, Backend

# Runs the program after something was changed in its process. All code is read before that: a
# user without rights may not be able to enter the directory it is in.
CHANGED = """
import os, sys
from pathlib import Path
import tcptrace.__main__, tcptrace.sources.bpf.child
from tcptrace.sources.bpf import find_bcc
from tcptrace.cli import cli
for name in cli.list_commands(None):
    cli.get_command(None, name)
{change}
tcptrace.__main__.main()
"""
# All is imported before: nobody may be kept out of the directory that it is in.
AS_NOBODY = f"""
import contextlib, pkgutil, tcptrace
for module in pkgutil.walk_packages(tcptrace.__path__, "tcptrace."):
    with contextlib.suppress(ImportError):  # an extra that is not there
        __import__(module.name)
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
"""
WITHOUT_BCC = """
find_bcc._system_site_directories = list
sys.path[:] = [one for one in sys.path if not Path(one, "bcc/libbcc.py").exists()]
"""

WITHOUT_IPV6 = """
from tcptrace.kernel.btf import Btf
c_types = Btf.c_types
Btf.c_types = lambda *arguments: c_types(*arguments).replace(b" skc_v6_", b" other_")
"""

MOST_PARANOID = 2
"""Upstream's highest; Debian's and Ubuntu's kernels have more."""


def changed(change: str) -> list[str]:
    """Return a command that runs tcptrace after a change in its process."""
    return [TCPTRACE[0], "-c", CHANGED.format(change=change)]


def check_refusal(ended: Ended, status: int, *words: str) -> None:
    """Check for an error of one or two lines that has these words, and nothing on stdout."""
    assert (status, "") == (ended.status, ended.stdout), ended
    assert 1 <= len(ended.stderr.splitlines()) <= 2, ended.stderr
    assert ended.stderr.startswith("tcptrace: ")
    assert "Traceback" not in ended.stderr
    for word in words:
        assert word in ended.stderr


MALFORMED = [
    ("-P 70000", "70000"),
    ("-P 90-80", "90-80"),
    ("-P http", "http"),
    ("-P 80,,81", "port"),
    ("-P=", "port"),
    ("-P !", "port"),
    ("-p abc", "abc"),
    ("-p -1", "-1"),
    ("-p 4294967296", "4294967296"),
    ("-u no-such-user", "no-such-user"),
    ("-u 0x0", "0x0"),
    ("-N no-such-namespace", "no-such-namespace"),
    ("-N /etc/passwd", "/etc/passwd"),
    ("-N /nowhere/net", "/nowhere/net"),
    ("-N /proc/self/ns/mnt", "/proc/self/ns/mnt"),
    ("--cgroup /etc", "/etc"),
    ("--cgroup /nowhere", "/nowhere"),
    ("--comm=", "name"),
    ("-4 -6", "-6"),
    ("--json -o csv", "csv"),
    ("--columns nothing", "nothing"),
    ("--columns -", "column"),
    ("--backend perf", "perf"),
    ("--duration soon", "soon"),
    ("--count-events 0", "0"),
    ("--buffer-mb 3", "3"),
    ("--to=", "file"),
    ("--write=", "file"),
    ("--read=", "file"),
    ("--nonsense", "nonsense"),
    ("extra", "extra"),
]


@pytest.mark.parametrize(("arguments", "word"), MALFORMED)
@pytest.mark.anywhere
def test_malformed_arguments_are_usage_errors(arguments: str, word: str) -> None:
    """What cannot be meant is named, with exit status 2, before anything is loaded."""
    check_refusal(run_in_fork("accept", *arguments.split()), 2, word)


@pytest.mark.anywhere
def test_unknown_command_is_a_usage_error() -> None:
    """A command that does not exist is named, and those that do."""
    check_refusal(run_tcptrace("acept"), 2, "acept", "accept")


@pytest.mark.anywhere
def test_not_root() -> None:
    """Without rights the error says which are needed."""
    check_refusal(
        run_tcptrace("accept", program=changed(AS_NOBODY)), 1, "root", "CAP_BPF", "CAP_PERFMON"
    )


@pytest.mark.parametrize("option", ["--cgroupmap", "--mntnsmap"])
def test_missing_map_is_not_made(option: str, bpffs: Path) -> None:
    """A path without a map is an error, and stays without one."""
    path = bpffs / "missing"
    check_refusal(run_in_fork("accept", option, str(path)), 2, str(path), "bpftool map create")
    assert not path.exists()


def test_file_is_no_map(tmp_path: Path) -> None:
    """An ordinary file is not taken for a pinned map."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    check_refusal(run_in_fork("accept", "--cgroupmap", str(path)), 2, str(path), "BPF file system")
    assert b"" == path.read_bytes()


@pytest.mark.parametrize(
    ("option", "kind", "key_size", "value_size"),
    [
        ("--cgroupmap", ARRAY, 4, 8),
        ("--cgroupmap", HASH, 4, 8),
        ("--cgroupmap", HASH, 8, 4),
        ("--mntnsmap", HASH, 8, 8),
    ],
)
def test_map_of_another_kind(
    option: str, kind: int, key_size: int, value_size: int, bpffs: Path
) -> None:
    """A map of another type, or of other sizes, is refused with what it has to be."""
    with pinned(bpffs / "other", key_size, value_size, kind) as other:
        ended = run_in_fork("accept", option, str(other.path))
    check_refusal(ended, 2, str(other.path), "hash map with 8-byte keys")


@pytest.mark.anywhere
def test_mount_namespaces_need_btf(bpffs: Path) -> None:
    """Kernel headers do not describe mount namespaces: to filter by them is refused there."""
    with pinned(bpffs / "mntns-by-headers", 8, 4) as mntns:
        arguments = ("--headers", "system", "--mntnsmap", str(mntns.path))
        check_refusal(run_in_fork("accept", *arguments), 2, "--mntnsmap", "BTF")


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_that_is_not_available(backend: str) -> None:
    """A backend that this kernel lacks is an error that names those it has."""
    if backend in available():
        pytest.skip(f"this kernel has the backend {backend}")
    check_refusal(run_tcptrace("accept", "--backend", backend), 1, backend, *available())


@pytest.mark.anywhere
def test_without_bcc() -> None:
    """Without bcc the error names the package to install."""
    ended = run_tcptrace("accept", "--no-cache", program=changed(WITHOUT_BCC))
    check_refusal(ended, 1, "bcc is not installed", "nstall")


@pytest.mark.anywhere
def test_namesake_of_bcc(tmp_path: Path) -> None:
    """PyPI's bcc is told from the real one."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text('raise RuntimeError("imported")')
    program = changed(f"{WITHOUT_BCC}\nsys.path.insert(0, {str(tmp_path)!r})")
    ended = run_tcptrace("accept", "--no-cache", program=program)
    check_refusal(ended, 1, str(tmp_path), "pip uninstall bcc")


@pytest.mark.parametrize("command", ["accept", "connect", "dns"])
@pytest.mark.anywhere
def test_kernel_without_ipv6(command: str) -> None:
    """The C does without the members that a kernel has for IPv6 only."""
    with Tracer("--no-cache", command=command, program=changed(WITHOUT_IPV6)) as tracer:
        check_clean_end(tracer.stop())


@pytest.mark.anywhere
def test_namesake_of_bcc_is_passed_over(tmp_path: Path) -> None:
    """The system's bcc is found behind its namesake."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc" / "__init__.py").write_text('raise RuntimeError("imported")')
    with Tracer("--no-cache", env=import_path(tmp_path)) as tracer:
        assert 0 == tracer.stop().status


@pytest.fixture
def broken_plugin(tmp_path: Path) -> dict[str, str]:
    """The environment of an installed plugin whose C does not compile."""
    (tmp_path / "wrong.py").write_text(
        "import dataclasses, pathlib, tcptrace\n"
        "from tcptrace.probes.accept.probe import ACCEPT\n"
        "SOURCE = pathlib.Path(__file__).with_name('wrong.bpf.c')\n"
        "@tcptrace.command(dataclasses.replace(ACCEPT, source=SOURCE))\n"
        "def wrong(events):\n"
        "    'Fail to compile.'\n"
        "    return events\n"
    )
    (tmp_path / "wrong.bpf.c").write_text("int wrong(void)\n{\n\treturn no_such_name;\n}\n")
    metadata = tmp_path / "wrong-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[tcptrace.commands]\nwrong = wrong:wrong\n")
    return import_path(tmp_path)


@pytest.mark.anywhere
def test_c_that_does_not_compile(broken_plugin: dict[str, str]) -> None:
    """The compiler's words are kept back."""
    check_refusal(run_tcptrace("wrong", env=broken_plugin), 1, "cannot compile", "-v")


@pytest.mark.anywhere
def test_c_that_does_not_compile_verbosely(broken_plugin: dict[str, str]) -> None:
    """With -v the compiler's words are shown, with the right file and line."""
    ended = run_tcptrace("wrong", "-v", env=broken_plugin)
    assert (1, "") == (ended.status, ended.stdout)
    assert "wrong.bpf.c:3:" in ended.stderr
    assert "no_such_name" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.anywhere
def test_loader_is_killed() -> None:
    """The death of the loader process is reported with its signal."""
    with Tracer("--no-cache", armed=False) as tracer:
        eventually(lambda: any(children_of(tracer.pid)), "the loader process")
        for child in children_of(tracer.pid):
            os.kill(child, signal.SIGKILL)
        check_refusal(tracer.ended(), 1, "killed by SIGKILL")


IMPATIENT = """
from tcptrace.kernel import child
child.IDLE_S = {seconds}
"""


@pytest.mark.anywhere
def test_loader_hangs() -> None:
    """A loader that stands still is ended; the error says so, and no other way is tried."""
    program = changed(IMPATIENT.format(seconds=limit(1)))
    with Tracer("--no-cache", armed=False, program=program) as tracer:
        eventually(lambda: any(children_of(tracer.pid)), "the loader process")
        (loader,) = children_of(tracer.pid)
        os.kill(loader, signal.SIGSTOP)
        check_refusal(tracer.ended(), 1, "compiles the probes hangs")
        assert not Path(f"/proc/{loader}").exists()


# Stands still before it begins, so that the test can find it.
SLOW_SURVEY = """
import time
from tcptrace.kernel import sockets
survey = sockets._survey
sockets._survey = lambda wanted: time.sleep(600) or survey(wanted)
"""


@pytest.mark.anywhere
def test_survey_hangs() -> None:
    """A list of open connections that never comes ends the run, with an error that says so."""
    program = changed(SLOW_SURVEY + IMPATIENT.format(seconds=limit(1)))
    with Tracer("--existing", command="tracer", program=program) as tracer:
        ended = tracer.ended()
    assert 1 == ended.status
    assert "lists the open connections hangs" in ended.complaints[0]


@pytest.mark.anywhere
def test_stop_while_the_survey_hangs() -> None:
    """It is not waited for when the run is to end, and it does not stay."""
    port = take_port()
    arguments = ("--existing", "--json", "-P", str(port))
    with Tracer(*arguments, command="tracer", program=changed(SLOW_SURVEY)) as tracer:
        eventually(
            lambda: len(list(children_of(tracer.pid))) > 1, "the keeper, and what lists connections"
        )
        children = list(children_of(tracer.pid))
        accept_once(port=port)
        ended = tracer.stop()
        assert 0 == ended.status
        assert tracer.where(lport=port)
        assert [] == [child for child in children if Path(f"/proc/{child}").exists()]


def check_clean_end(ended: Ended, *words: str) -> None:
    """Check for exit status 0, or 1 with one line that has these words."""
    assert bool(words) == ended.status, ended
    assert bool(words) == len(ended.complaints), ended
    for word in words:
        assert word in ended.complaints[0]


@pytest.mark.anywhere
def test_output_device_is_full() -> None:
    """A write that fails ends the trace, with one line."""
    full = os.open("/dev/full", os.O_RDWR)
    stdout = full, os.open(os.devnull, os.O_RDONLY)
    with Tracer("-P", str(take_port()), stdout=stdout, armed=False) as tracer:
        check_clean_end(tracer.ended(), "No space left on device")


@pytest.mark.anywhere
def test_reader_goes_away() -> None:
    """`| head -1` ends the trace at once, quietly, though no event comes."""
    with Tracer() as tracer:
        tracer.wait_until(lambda: "\n" in tracer.stdout, "a line")
        tracer.hang_up()
        check_clean_end(tracer.ended())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.anywhere
def test_signals_end_with_a_summary(number: signal.Signals) -> None:
    """A signal that asks to stop is a normal end, with a summary on stderr; SIGINT as elsewhere."""
    port = take_port()
    with Tracer("--json", "-P", str(port)) as tracer:
        accept_once(port=port)
        tracer.wait_for(lport=port)
        ended = tracer.stop(number)
        check_clean_end(ended)
        assert (1, 0) == ended.summary


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.anywhere
def test_signals_before_attaching(number: signal.Signals) -> None:
    """A signal while the loader still works ends the run, which says so."""
    with Tracer("--no-cache", armed=False) as tracer:
        eventually(lambda: any(children_of(tracer.pid)), "the loader process")
        ended = tracer.stop(number)
        said = "tcptrace: stopped before the probes were attached\n"
        assert (0, "", said) == (ended.status, ended.stdout, ended.stderr)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.anywhere
def test_reader_stands_still(number: signal.Signals) -> None:
    """A full pipe makes no run deaf; what is in it and what was lost are all that happened."""
    port, made = take_port(), 6_000
    reading, writing = os.pipe()
    stdout = writing, os.open(os.devnull, os.O_RDONLY)
    with Tracer("--json", "--buffer-mb", "1", "-P", str(port), stdout=stdout) as tracer:
        Worker(lambda: burst(port, made)).run()
        before = time.monotonic()
        ended = tracer.stop(number)
        assert time.monotonic() - before < limit(10)
    with os.fdopen(reading, "rb") as pipe:
        rows = pipe.read().splitlines(keepends=True)
    shown, lost = ended.summary
    assert (0, shown) == (ended.status, len(rows))
    assert rows[-1].endswith(b"\n")
    if SKIPPED in ended.stderr:  # each time may have been an event, or none
        not_offered("a machine whose kernel runs each probe each time; this one skipped some")
    assert made == shown + lost


@pytest.mark.anywhere
def test_reader_stands_still_until_the_time_is_over() -> None:
    """--duration holds whatever the reader does."""
    port = take_port()
    reading, writing = os.pipe()
    stdout = writing, os.open(os.devnull, os.O_RDONLY)
    with Tracer("--json", "--duration", "3", "-P", str(port), stdout=stdout) as tracer:
        Worker(lambda: burst(port, 3_000)).run()
        assert 0 == tracer.ended().status
    os.close(reading)


@pytest.mark.anywhere
def test_ignored_signals_stay_ignored() -> None:
    """Under nohup, and behind a script, a run goes on after a hang-up and Ctrl-C."""
    ignoring = ("sh", "-c", 'trap "" INT HUP; exec "$@"', "sh")
    with Tracer("--json", prefix=ignoring) as tracer:
        for number in (signal.SIGINT, signal.SIGHUP):
            tracer.process.send_signal(number)
        port = accept_once()["lport"]
        tracer.wait_for(lport=port)
        check_clean_end(tracer.stop(signal.SIGTERM))


MANY = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
for _ in range(1100): os.dup(0)
"""


@pytest.mark.anywhere
def test_many_descriptors_are_inherited(bpffs: Path) -> None:
    """Descriptors beyond 1024 are descriptors; those of the pinned maps are not in their way."""
    arguments = ("--json", "--cgroupmap", str(bpffs / "many"))
    with (
        pinned(bpffs / "many", 8, 8) as cgroups,
        Tracer(*arguments, program=changed(MANY)) as tracer,
    ):
        cgroups.add(cgroup_id())
        port = accept_once()["lport"]
        tracer.wait_for(lport=port)
        check_clean_end(tracer.stop())


LIMITED = """
import resource
resource.setrlimit(resource.{limit}, ({value}, {value}))
"""


@pytest.mark.parametrize(
    ("limit_", "value", "word"),
    [
        ("RLIMIT_NOFILE", 16, "ulimit -n"),
        ("RLIMIT_FSIZE", 1000, "ulimit -f"),
        ("RLIMIT_AS", 120 << 20, "ulimit -v"),
    ],
)
@pytest.mark.anywhere
def test_what_is_short_is_named(limit_: str, value: int, word: str) -> None:
    """A limit that is too low is not taken for what the kernel permits."""
    program = changed(LIMITED.format(limit=limit_, value=value))
    check_refusal(run_tcptrace("accept", "--no-cache", program=program), 1, word)


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full", "2>&- <&-"])
@pytest.mark.anywhere
def test_stderr_is_not_needed(redirection: str) -> None:
    """Where nothing can be told, rows go on, and the exit status is the same."""
    port = take_port()
    without = ("sh", "-c", f'exec "$@" {redirection}', "sh")
    with Tracer("--json", "-P", str(port), prefix=without, armed=False) as tracer:

        def is_shown() -> bool:
            accept_once(port=port)
            tracer.look()
            return bool(tracer.where(lport=port))

        eventually(is_shown, "a row")
        ended = tracer.stop(signal.SIGTERM)
    assert (0, "") == (ended.status, ended.stderr)


@pytest.mark.anywhere
def test_the_reader_of_stderr_goes_away() -> None:
    """A trace goes on when what it has to say finds nobody; losses are still counted."""
    port, made = take_port(), 10_000
    with Tracer("--json", "--buffer-mb", "1", "-P", str(port)) as tracer:
        tracer.hang_up_stderr()
        tracer.process.send_signal(signal.SIGSTOP)
        Worker(lambda: burst(port, made)).run()
        tracer.process.send_signal(signal.SIGCONT)
        later = set()

        def shows_a_later_one() -> bool:
            """Accept once more, as one may find the buffer full, and see whether any is shown."""
            later.add(accept_once(port=port)["rport"])
            tracer.look()
            return any(event["rport"] in later for event in tracer.where(lport=port))

        eventually(shows_a_later_one, "an accept behind the burst")
        ended = tracer.stop()
    assert 0 == ended.status
    assert len(tracer.where(lport=port)) < made


def kprobe_events() -> str:
    """Return the probes in tracefs, which outlive their processes; "" where it is not mounted."""
    path = Path("/sys/kernel/tracing/kprobe_events")
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("backend", BPF_BACKENDS)
def test_killed_tracer_leaves_nothing(backend: str, tmp_path: Path) -> None:
    """After SIGKILL, nothing stays attached: the maps that the programs use are gone."""
    need_backend(backend)
    probes = kprobe_events()
    with Tracer("--backend", backend, env={"TMPDIR": str(tmp_path)}) as tracer:
        maps = maps_of(tracer.pid)
        assert maps
        assert all(map(map_exists, maps))
        tracer.process.kill()
        tracer.process.wait(limit(10))
        eventually(lambda: not any(map(map_exists, maps)), "the maps are gone")
    assert probes == kprobe_events()
    assert [] == list(tmp_path.iterdir())


def test_rows_leave_at_once() -> None:
    """A row is written within 100 ms of its event, also into a pipe."""
    port = take_port()
    delays = []
    with Tracer("--json", "-P", str(port)) as tracer:
        for count in range(1, 10):
            accept_once(port=port)
            before = time.monotonic()
            tracer.wait_for(count, lport=port)
            delays.append(time.monotonic() - before)
    assert statistics.median(delays) < limit(0.1)


@pytest.mark.parametrize("command", ["accept", "tracer", "connect"])
def test_the_first_event_after_a_quiet_while_wakes_the_reader(command: str) -> None:
    """A tracer that would sleep for ever is woken by an event, and by a signal."""
    change = "from tcptrace.sources import rest; rest.LONG_REST_S = 10_000"
    port = take_port()
    with Tracer("--json", "-P", str(port), command=command, program=changed(change)) as tracer:
        for count in range(1, 4):
            time.sleep(0.5)  # it sleeps after a third of that
            accept_once(port=port)
            tracer.wait_for(count, rport=port) if command == "connect" else tracer.wait_for(
                count, type="accept", lport=port
            )
        time.sleep(0.5)
        assert tracer.stop().status == 0


@pytest.mark.anywhere
def test_nothing_is_lost_however_often_the_buffer_goes_round(tmp_path: Path) -> None:
    """Seven times what the buffer holds is shown whole when it is read meanwhile."""
    port, part, parts = take_port(), 6_000, 10  # there is room for one part
    path = tmp_path / "rows"
    stdout = os.open(path, os.O_WRONLY | os.O_CREAT), os.open(os.devnull, os.O_RDONLY)
    with Tracer("--json", "--buffer-mb", "1", "-P", str(port), stdout=stdout) as tracer:
        for number in range(1, parts + 1):
            Worker(lambda: burst(port, part)).run()
            eventually(functools.partial(has_rows, path, number * part), "all rows")
        assert (parts * part, 0) == tracer.stop().summary


def has_rows(path: Path, count: int) -> bool:
    """Tell whether a file has so many lines."""
    return path.read_bytes().count(b"\n") >= count


def test_losses_are_counted_and_fatal_if_asked() -> None:
    """With --fail-on-loss a loss is exit status 1; shown and lost make all that happened."""
    port, made = take_port(), 10_000
    arguments = ("--json", "--buffer-mb", "1", "--fail-on-loss", "-P", str(port))
    with Tracer(*arguments) as tracer:
        ended = check_losses(tracer, lambda: burst(port, made), made)
        assert "were lost" in ended.complaints[-1]


@pytest.mark.anywhere
def test_hostile_working_directory(tmp_path: Path) -> None:
    """Headers in the current directory are not compiled."""
    for header in ("linux/types.h", "linux/kconfig.h", "linux/sched.h", "uapi/linux/bpf.h"):
        path = tmp_path / header
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#error "compiled"\n')
    with Tracer("--no-cache", cwd=tmp_path) as tracer:
        check_clean_end(tracer.stop())


def test_tracefs_is_mounted_for_nobody_else() -> None:
    """Where tracefs is not mounted, tracing works and it stays so."""
    need_backend("tracepoint")
    without = ("unshare", "--mount", "sh", "-c", 'umount -lat tracefs,debugfs; exec "$@"', "sh")
    with Tracer("--backend", "tracepoint", prefix=without) as tracer:
        mounts = Path(f"/proc/{tracer.pid}/mounts").read_text()
        assert [] == [line for line in mounts.splitlines() if line.split()[2] == "tracefs"]
        check_clean_end(tracer.stop())


def reachable_tree() -> str:
    """Return shell commands that open the way to this work tree, in a mount namespace of their own.

    Root without its capabilities cannot pass a home of mode 0700.
    """
    tree = Path(__file__).resolve().parents[2]
    ways = reversed(tree.parents)
    closed = next((way for way in ways if not way.stat().st_mode & stat.S_IXOTH), None)
    if closed is None:
        return "true"
    cover = f"mount -t tmpfs -o mode=755 none {closed} && mkdir -p {tree}"
    return f"cd {tree} && {cover} && mount --no-canonicalize --bind . {tree}"


def test_two_capabilities_are_enough(backend: Backend) -> None:
    """CAP_BPF and CAP_PERFMON suffice, with tracefs mounted for those who may read it."""
    paranoid = int(Path("/proc/sys/kernel/perf_event_paranoid").read_text())
    if backend in {"kprobe", "tracepoint"} and paranoid > MOST_PARANOID:
        not_offered("perf events are for CAP_SYS_ADMIN alone")
    # Before 5.11, maps count as locked memory.
    mount = f"{reachable_tree()}; mount -t tracefs none {USUAL_PLACES[0]}"
    script = f'ulimit -l unlimited; {mount}; exec "$@"'
    mounted = ("unshare", "--mount", "sh", "-c", script, "sh")
    only = ("setpriv", "--bounding-set", "-all,+bpf,+perfmon", "--inh-caps", "-all")
    with Tracer("--json", "--backend", backend, prefix=(*mounted, *only)) as tracer:
        expected = accept_once()
        assert backend == tracer.wait_for(lport=expected["lport"])[0]["backend"]


def test_symbols_are_the_kernel_s() -> None:
    """What bcc is told that the kernel has, it has."""
    kernel = {tuple(line.split()[1:3]) for line in Path("/proc/kallsyms").read_text().splitlines()}
    told = [tuple(line.split()[1:]) for line in SYMBOLS.read_text().splitlines()]
    assert told
    assert {("T", name) for _, name in told} <= kernel
