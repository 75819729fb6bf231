"""Programs that are kept: a run that finds its own needs no compiler, whatever the values are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.kernel.backends import FROM_BTF, not_offered
from tests.kernel.harness import Worker, take_port
from tests.kernel.test_faults import WITHOUT_BCC, changed, check_refusal
from tests.kernel.tracers import Ended, Tracer, run_tcptrace
from tests.kernel.traffic import accept_once

from tcptrace.kernel import btf, reading
from tcptrace.model.filters import Filters
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.sources.bpf.child import Supply
from tcptrace.sources.plan import Plan

TAKEN, COMPILED = "programs taken from", "compiled by bcc"
# Neither finds bcc nor could load its library, LLVM or libbpf.
WITHOUT_COMPILER = f"""{WITHOUT_BCC}
import ctypes
load = ctypes.CDLL
def refuse(name, *arguments, **options):
    if name is not None:
        raise OSError(f"{{name}} is hidden")
    return load(name, *arguments, **options)
ctypes.CDLL = refuse
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own, empty."""
    if not FROM_BTF:
        not_offered("types from BTF: without them, programs are not kept")
    path = tmp_path / "programs"
    path.mkdir(mode=0o700)
    monkeypatch.setenv("CACHE_DIRECTORY", str(path))
    return path


def trace(*arguments: str, change: str = "pass", command: str = "accept") -> Ended:
    """Trace one connection, verbosely."""
    with Tracer("-v", *arguments, command=command, program=changed(change)) as tracer:
        return tracer.stop()


def test_second_start_compiles_nothing(place: Path) -> None:
    """The first run compiles and keeps, the next one takes that, and sees what happens."""
    assert COMPILED in trace().stderr
    assert TAKEN in trace().stderr
    port = take_port()
    arguments = ("--json", "-P", str(port))
    assert COMPILED in trace(*arguments).stderr
    program = changed(WITHOUT_COMPILER)
    with Tracer(*arguments, program=program) as tracer:
        expected = Worker(lambda: accept_once(port=port)).run()
        assert expected["lport"] == tracer.wait_for(lport=port)[0]["lport"]


@pytest.mark.parametrize("command", ["accept", "connect", "tracer", "dns"])
@pytest.mark.anywhere
def test_other_values_need_no_compiler(place: Path, command: str) -> None:
    """Other ports, users and sizes start from the same programs, with bcc and LLVM hidden."""
    first = ("-P", "1-80", "-u", "0", "--buffer-mb", "1")
    other = ("-P", "100-181", "-u", "1000", "--buffer-mb", "2")
    assert COMPILED in trace(*first, command=command).stderr
    assert TAKEN in trace(*other, command=command, change=WITHOUT_COMPILER).stderr


@pytest.mark.anywhere
def test_option_that_needs_compiling_says_so(place: Path) -> None:
    """Without a compiler, what is not kept is an error that names both ways out."""
    trace("-P", "80")
    ended = run_tcptrace("accept", "-P", "80,90", program=changed(WITHOUT_COMPILER))
    check_refusal(ended, 1, "no programs are kept for these options", "not installed", "prepare")


@pytest.mark.anywhere
def test_no_cache_neither_uses_nor_keeps(place: Path) -> None:
    """With --no-cache all is compiled, and nothing is written."""
    assert COMPILED in trace("--no-cache").stderr
    assert [] == [*place.iterdir()]
    trace()
    assert COMPILED in trace("--no-cache").stderr


@pytest.mark.anywhere
def test_damaged_programs_are_compiled_anew(place: Path) -> None:
    """What is damaged is said with -v, compiled, and then kept again."""
    trace()
    for path in place.iterdir():
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    again = trace().stderr
    assert "is not used: it is damaged" in again
    assert COMPILED in again
    assert TAKEN in trace().stderr


@pytest.mark.anywhere
def test_without_a_place_tracing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be kept, it is compiled each time, and said with -v alone."""
    monkeypatch.setenv("CACHE_DIRECTORY", "/proc/no-such-place")
    for _ in range(2):
        ended = trace()
        assert "programs are not kept: /proc/no-such-place" in ended.stderr
        assert COMPILED in ended.stderr
    assert "not kept" not in run_tcptrace("accept", "--duration", "0.1").stderr


@pytest.mark.anywhere
def test_two_starts_at_once(place: Path) -> None:
    """Two that compile the same at the same time keep it once, and both trace."""
    with Tracer("-v", armed=False) as first, Tracer("-v") as second:
        first.wait_until(lambda: "Tracing " in first.stderr, "the banner")
        assert 0 == first.stop().status
        assert 0 == second.stop().status
    assert TAKEN in trace().stderr


@pytest.mark.anywhere
def test_programs_of_another_host_need_no_compiler(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `prepare` has exported traces on a host where bcc and LLVM are hidden."""
    file = tmp_path / "exported"
    ended = run_tcptrace("prepare", "accept", "tracer -P 80", "--export", str(file))
    assert 0 == ended.status, ended.stderr
    assert "accept --failed" in ended.stdout
    other = tmp_path / "other"
    monkeypatch.setenv("CACHE_DIRECTORY", str(other))
    hidden = changed(WITHOUT_COMPILER)
    ended = run_tcptrace("accept", program=hidden)
    check_refusal(ended, 1, "no programs are kept for these options", "not installed")
    assert 0 == run_tcptrace("prepare", "--import", str(file), program=hidden).status
    port = take_port()
    with Tracer("--json", "-P", str(port), program=hidden) as tracer:
        accept_once(port=port)
        tracer.wait_for(lport=port)
    for command in ("accept --failed", "tracer -P 81", "accept -p 1"):
        name, *arguments = command.split()
        assert TAKEN in trace(*arguments, command=name, change=WITHOUT_COMPILER).stderr
    ended = run_tcptrace("accept", "-v", "--who", "--", "true", program=hidden)
    assert (0, True) == (ended.status, TAKEN in ended.stderr)
    ended = run_tcptrace("tracer", "--existing", program=hidden)
    check_refusal(ended, 1, "no programs are kept for these options", "prepare")


@pytest.mark.anywhere
def test_doctor_tells_what_is_kept(place: Path) -> None:
    """The doctor says where programs are, and what starts from them; it keeps nothing itself."""

    def told() -> tuple[dict[str, Any], dict[str, bool]]:
        answer = json.loads(run_tcptrace("doctor", "--json").stdout)
        compiles = {name: command["compiles"] for name, command in answer["commands"].items()}
        return answer["programs"], compiles

    programs, compiles = told()
    assert (str(place), 0, None) == (programs["place"], programs["files"], programs["newest"])
    assert compiles["accept"]
    assert compiles["dns"]
    trace()
    programs, compiles = told()
    assert programs["files"] > 0
    assert not compiles["accept"]
    assert compiles["dns"]


def test_only_the_kernel_says_who_may_load_from_anywhere() -> None:
    """Programs read memory by loads where the function for it is there, and takes any address."""
    if not FROM_BTF:
        not_offered("types from BTF: without them, functions have no ids")

    def tried() -> tuple[bool, bool, list[bool]]:
        ids = [btf.function_id(name) for name in (reading.FUNCTION, "tcp_connect")]
        plan = Plan(ACCEPT, Filters())
        flags = Supply(plan, []).ways_to_read
        return (
            bool(flags),
            reading.loads_from_anywhere(ids[0]),
            [*map(reading.loads_from_anywhere, (0, ids[1]))],
        )

    flagged, permitted, others = Worker(tried).run()
    assert flagged == permitted
    assert others == [False, False]
