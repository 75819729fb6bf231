"""`tcptrace prepare`: what is prepared, and the file that goes from host to host."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tcptrace.cli import cli
from tcptrace.commands import prepare as command
from tcptrace.errors import RefusedError, RightsError, TcptraceError
from tcptrace.kernel import btf
from tcptrace.shell.command import TraceCommand
from tcptrace.shell.stop import Stop
from tcptrace.sources.bpf import prepare, store
from tcptrace.sources.bpf.compiler import Compiler
from tcptrace.sources.bpf.kept import Kept
from tcptrace.sources.bpf.prepare import Prepared, export, import_
from tcptrace.sources.bpf.programs import Programs
from tcptrace.sources.bpf.store import Store, pack
from tcptrace.sources.plan import Plan, Shape, shape_of

PROGRAMS = Programs((), {"f": bytes(16)})
COMPILER = Compiler("0.31.0", "19.1.7", ())
SHAPE = Shape("accept", "int f(void)", (), {}, {}, {})
NAME = "0" * 32


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of a host with a kernel of our own."""
    tmp_path.chmod(0o700)
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "one"))
    monkeypatch.setattr(btf, "fingerprint", lambda: b"kernel")
    return tmp_path


def other_host(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Go to a host with an empty store."""
    monkeypatch.setenv("CACHE_DIRECTORY", str(place / "other"))


def exported(place: Path) -> Path:
    """Return a file with programs that were kept and exported."""
    notes: list[str] = []
    kept = Kept(notes.append)
    kept.keep(SHAPE, (), PROGRAMS, COMPILER)
    file = place / "file"
    assert 1 == export(kept.names * 2, file)
    return file


def test_programs_come_to_another_host(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one host has exported another one finds, once it is imported."""
    file = exported(place)
    other_host(place, monkeypatch)
    assert (1, True) == import_(file)
    assert PROGRAMS == Kept(print).find(SHAPE, ())


def test_another_kernel_is_told(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs for another kernel are kept, as for an image, and it is told."""
    file = exported(place)
    other_host(place, monkeypatch)
    monkeypatch.setattr(btf, "fingerprint", lambda: b"another")
    assert (1, False) == import_(file)


INNER = pack([b"programs", COMPILER.encode(), bytes(4), b"f", bytes(16)])
TAG = [b"export", b"0", b"x86_64", b"kernel"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x7fELF",
        INNER,
        pack([b"export"]),
        pack([*TAG, NAME.encode()]),
        pack([*TAG, b"../../etc/passwd", INNER]),
        pack([*TAG, NAME.encode() + b"\n", INNER]),
        pack([*TAG, NAME.encode(), INNER[:-1]]),
        pack([*TAG, NAME.encode(), pack([b"programs", b"?", b"?"])]),
        pack([*TAG, NAME.encode(), INNER, b"1" * 32, pack([b"functions", b"odd"])]),
    ],
)
def test_what_makes_no_sense_is_not_imported(place: Path, content: bytes) -> None:
    """A file that is not whole and right is refused before anything of it is kept."""
    file = place / "file"
    file.write_bytes(content)
    with pytest.raises(RefusedError, match="holds no programs that can be used"):
        import_(file)
    assert not (place / "one").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=40), max_size=8))
def test_any_fields_are_refused(place: Path, fields: list[bytes]) -> None:
    """Whatever a file with a right checksum holds, it is refused by one error."""
    file = place / "file"
    file.write_bytes(pack([*TAG, *fields, b"odd"]))
    with pytest.raises(RefusedError):
        import_(file)


def test_files_that_cannot_be_used_are_named(place: Path) -> None:
    """A file that is not there, or cannot be written, is named."""
    with pytest.raises(RefusedError, match=r"cannot read .*/missing: No such file"):
        import_(place / "missing")
    Store(make=True).write(NAME, INNER)
    with pytest.raises(TcptraceError, match=r"cannot write .*/missing/file"):
        export([NAME], place / "missing" / "file")
    with pytest.raises(TcptraceError, match="gone meanwhile"):
        export(["1" * 32], place / "file")


class Host:
    """A host on which preparing takes no time."""

    def __init__(self) -> None:
        """Have nothing prepared."""
        self.plans: list[Plan] = []
        self.exported: list[str] = []
        self.error: TcptraceError | None = None

    def prepare(self, plan: Plan, stopped: Callable[[], bool]) -> Prepared | None:
        """Prepare, or fail, or be stopped."""
        self.plans.append(plan)
        if stopped():
            return None
        if self.error and plan.switches:
            raise self.error
        return Prepared("fentry", compiled=not plan.filters.values, names=[plan.probe.name])

    def export(self, names: Sequence[str], _file: Path) -> int:
        """Take the names."""
        self.exported = [*names]
        return 7


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return a host."""
    host = Host()
    monkeypatch.setattr(command, "prepare_plan", host.prepare)
    monkeypatch.setattr(command, "export", host.export)
    monkeypatch.setattr(Stop, "take_signals", lambda _: None)
    return host


def run(*arguments: str) -> Result:
    """Run `tcptrace prepare` in this process."""
    return CliRunner().invoke(cli, ["prepare", *arguments])


def test_a_command_is_prepared_as_it_is_usually_run(host: Host) -> None:
    """Alone, with the usual filters, and with each option of its own that changes the C."""
    result = run("accept")
    assert 0 == result.exit_code
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["accept", "fentry", "compiled", "in"] == lines[0][:4]
    assert ["accept", "-P", "1", "fentry", "kept"] in lines
    assert {"ACCEPT_FAILED": "1"} in [plan.switches for plan in host.plans]
    assert {"pid", "port", "uid"} == {name for plan in host.plans for name in plan.filters.values}


def test_options_that_need_others_get_them(host: Host) -> None:
    """An option that must be given with another is prepared with it."""
    assert 0 == run("connect").exit_code
    switches = {"CONNECT_COUNTS": "1", "CONNECT_COUNT_LPORT": "1"}
    assert switches in [plan.switches for plan in host.plans]


def test_a_command_that_is_followed_is_prepared(host: Host) -> None:
    """With and without --who, whose order decides what is compiled; as the run itself has it."""
    assert 0 == run("accept").exit_code
    companions = [tuple(probe.name for probe in plan.companions) for plan in host.plans]
    who = ("who", "places")
    assert {(), ("follow",), who, (*who, "follow")} == {*companions}
    run("connect --summary -- curl https://example.org/")
    expected = {"CONNECT_OUTCOME": "1"}, ["dns", "follow"]
    plan = host.plans[-1]
    assert expected == (plan.switches, [probe.name for probe in plan.companions])


def test_running_processes_are_followed_by_the_same_programs() -> None:
    """What is prepared for a command serves for -f, too."""
    accept = cli.get_command(click.Context(cli), "accept")
    assert isinstance(accept, TraceCommand)
    command, running = (
        accept.plan(["--who", *arguments])
        for arguments in (["--", "true"], ["-f", "-p", str(os.getpid())])
    )
    assert shape_of(command, command.variants()[0]).flags == (
        shape_of(running, running.variants()[0]).flags
    )
    assert command.companions == running.companions


def test_columns_decide_what_is_prepared(host: Host) -> None:
    """Those of programs are asked for in the kernel, and so are new cgroups then."""
    run("accept --columns +args")
    assert ["who", "places"] == [probe.name for probe in host.plans[0].companions]


def test_a_command_with_options_is_one_word(host: Host) -> None:
    """What a command is given stands behind it; it is prepared so and not otherwise."""
    assert 0 == run("accept -P 80,443 --failed").exit_code
    (plan,) = host.plans
    assert ({"ACCEPT_FAILED": "1"}, {"port"}) == (dict(plan.switches), {*plan.filters.values})


def test_all_commands_are_prepared(host: Host) -> None:
    """Without a command, every one that traces is prepared; what fails does not stop the rest."""
    host.error = TcptraceError("no way.\nTry this")
    result = run("--export", "file")
    assert 1 == result.exit_code
    assert {"accept", "connect", "dns", "tracer"} <= {plan.probe.name for plan in host.plans}
    assert "accept --failed: no way" in result.stderr
    assert "7 files are in file" in result.stdout
    assert "dns" in host.exported


def test_without_rights_it_is_said_once(host: Host) -> None:
    """What holds for every command is not said of each."""
    host.error = RightsError("tracing needs root.\nTry it with sudo")
    result = run()
    assert result.exception is host.error
    assert "" == result.stderr


def test_ctrl_c_is_no_success(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script that goes on after `prepare --export` has a file of all commands."""
    monkeypatch.setattr(Stop, "is_asked", lambda _: len(host.plans) == 3)
    result = run("--export", "file")
    assert (1, 3) == (result.exit_code, len(host.plans))
    assert "stopped before all was prepared" in result.stderr
    assert [] == host.exported


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "There is no command 'nothing'"),
        ([""], "There is no command ''"),
        (["doctor"], "There is no command 'doctor'"),
        (["accept --nonsense"], "--nonsense"),
        (["accept -P x"], "'x'"),
        (["--import", "a", "accept"], "--import takes neither"),
        (["--import", "a", "--export", "b"], "--import takes neither"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    host: Host, arguments: list[str], words: str
) -> None:
    """What is not known is named, and nothing is prepared."""
    result = run(*arguments)
    assert 2 == result.exit_code
    assert words in result.stderr
    assert [] == host.plans


def test_usual_options_can_be_parsed() -> None:
    """Whatever a command's options are, those that are taken for usual make a plan."""
    context = click.Context(cli)
    for name in cli.list_commands(context):
        subcommand = cli.get_command(context, name)
        if isinstance(subcommand, TraceCommand):
            for arguments in command.usual_options(subcommand):
                assert subcommand.probe is subcommand.plan(arguments).probe


def test_what_is_not_kept_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be kept, preparing fails and says why."""

    class Answer:
        links = programs = kept = ()
        maps: ClassVar[dict[str, int]] = {}
        notes = ("compiled by bcc", "programs are not kept: /cache: Read-only file system")

    class FakeLoader:
        def __init__(self, _plan: Plan) -> None:
            pass

        def attached(self, _stopped: object) -> Answer:
            return Answer()

        def close(self) -> None:
            pass

    monkeypatch.setattr(prepare, "Loader", FakeLoader)
    monkeypatch.setattr(prepare, "require_tracing", lambda: None)
    accept = cli.get_command(click.Context(cli), "accept")
    assert isinstance(accept, TraceCommand)
    with pytest.raises(TcptraceError, match="Read-only file system"):
        prepare.prepare(accept.plan([]))


def test_inventory(place: Path) -> None:
    """What is kept is counted; a place that is not there is empty, one of others' a problem."""
    assert (str(place / "one"), [], "") == (*prepare.inventory()[:1], [], prepare.inventory()[2])
    Store(make=True).write(NAME, INNER)
    (entry,) = prepare.inventory().entries
    assert (NAME, len(INNER)) == (entry.name, entry.bytes)
    (place / "one").chmod(0o777)
    assert "others can write" in prepare.inventory().problem
    assert store.default_place() == prepare.inventory().place
