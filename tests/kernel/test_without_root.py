"""Another user with two capabilities traces, and is told what is missing for want of others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.kernel.backends import need_backend, not_offered
from tests.kernel.harness import eventually
from tests.kernel.test_faults import MOST_PARANOID, reachable_tree
from tests.kernel.tracers import TCPTRACE, Tracer, run_tcptrace
from tests.kernel.traffic import accept_once

from tcptrace.kernel.tracefs import USUAL_PLACES

UID = "65534"
ONLY = "-all,+bpf,+perfmon"
COMMANDS = (
    ("accept",),
    ("connect", "-c"),
    ("tracer", "--existing"),
    ("top", "-b", "--by", "user"),
)


@pytest.fixture(scope="module")
def as_another() -> Sequence[str]:
    """A command that runs what follows as another user, who may read tracefs."""
    need_backend("tracepoint")
    if int(Path("/proc/sys/kernel/perf_event_paranoid").read_text()) > MOST_PARANOID:
        not_offered("perf events are for CAP_SYS_ADMIN alone")
    mount = f"{reachable_tree()}; mount -t tracefs -o gid={UID},mode=750 none {USUAL_PLACES[0]}"
    mounted = ("unshare", "--mount", "sh", "-c", f'ulimit -l unlimited; {mount}; exec "$@"', "sh")
    ids = ("--reuid", UID, "--regid", UID, "--clear-groups", "--no-new-privs")
    rights = ("--bounding-set", ONLY, "--inh-caps", ONLY, "--ambient-caps", ONLY)
    return (*mounted, "setpriv", *ids, *rights)


@pytest.mark.anywhere
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_two_capabilities_are_enough_for(
    as_another: Sequence[str], arguments: Sequence[str]
) -> None:
    """Each command traces; of what it lacks, it says what that would give."""
    command, *options = arguments
    prefix = (*as_another, "env", "-u", "CACHE_DIRECTORY", "HOME=/nonexistent")
    with Tracer("-v", *options, command=command, prefix=prefix) as tracer:
        accept_once()
        ended = tracer.stop()
    assert 0 == ended.status, ended.stderr
    assert "without CAP_DAC_READ_SEARCH: no cgroups" in ended.stderr
    assert f"({UID}) traces, without capabilities" in ended.stderr
    assert "has CAP_BPF" in ended.stderr
    lists = "--existing" in options or command == "top"
    assert lists == ("only sockets of this network namespace are listed" in ended.stderr)


@pytest.mark.anywhere
def test_a_command_gets_none_of_them(as_another: Sequence[str]) -> None:
    """They are for tracing, not for what is traced."""
    prefix = (*as_another, "env", "-u", "CACHE_DIRECTORY", "HOME=/nonexistent")
    shown = ("grep", "-E", "Cap(Inh|Prm|Eff|Amb)", "/proc/self/status")
    ended = run_tcptrace("connect", "--", *shown, program=(*prefix, *TCPTRACE))
    assert 0 == ended.status, ended.stderr
    assert {"0" * 16} == set(ended.stdout.split()[1::2])


@pytest.mark.anywhere
def test_who_uploads_has_none_of_them(as_another: Sequence[str], tmp_path: Path) -> None:
    """They are not for who speaks with the network."""
    carrier = (sys.executable, "-I", "-m", "tcptrace.sinks.carrier", str(tmp_path), "s3://none")
    with subprocess.Popen([*as_another, *carrier], stdin=subprocess.PIPE) as process:
        status = Path(f"/proc/{process.pid}/status")
        none = "CapPrm:\t" + "0" * 16
        eventually(lambda: none in status.read_text(), "it has no capability")
        assert process.stdin
        process.stdin.close()
