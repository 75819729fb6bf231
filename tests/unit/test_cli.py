"""The command line: help, bad input, plugins that are broken, exit statuses."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import tcptrace
from tcptrace import program
from tcptrace.cli import cli
from tcptrace.commands import SHORT_HELP
from tcptrace.errors import LossError, PluginError, RefusedError, TcptraceError
from tcptrace.shell import command as base

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(cli.list_commands(click.Context(cli)))
OTHERS = {"completion", "diff", "doctor", "help", "map", "prepare"}
TRACING = [name for name in COMMANDS if name not in OTHERS]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs tcptrace with the plugins in `tmp_path`."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "100"}
        command = [sys.executable, "-m", "tcptrace", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def add_plugin(directory: Path, source: str, *, name: str = "plug", module: str = "plug") -> None:
    """Make an installed distribution `module` with the command `name`."""
    (directory / f"{module}.py").write_text(source, encoding="utf-8")
    info = directory / f"{module}-1.0.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    entry = f"[tcptrace.commands]\n{name} = {module}:command\n"
    (info / "entry_points.txt").write_text(entry, encoding="utf-8")


def assert_refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Hold that it was a usage error, said on stderr in a line or two with these words."""
    assert (2, "") == (result.returncode, result.stdout)
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line and "--help" not in line]
    assert len([line for line in lines if not line.startswith("Usage:")]) <= 2
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("name", ["", *COMMANDS])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_everything(run: Run, name: str, flag: str) -> None:
    """Help works without root, fits 80 columns and shows no mark of click's."""
    result = run(*filter(None, [name, flag]))
    assert (0, "") == (result.returncode, result.stderr)
    assert f"Usage: tcptrace {name}".strip() in result.stdout
    assert "\\b" not in result.stdout
    assert "\b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", ["map", "diff"])
def test_all_help_of_what_does_not_trace_fits(run: Run, name: str) -> None:
    """All examples and options fit 80 columns, as those of tracing commands do."""
    assert max(map(len, run(name, "--help-all").stdout.splitlines())) <= 80


@pytest.mark.parametrize("name", TRACING)
def test_help_keeps_the_examples_lines(run: Run, name: str) -> None:
    """Examples in help stand one to a line."""
    examples = run(name, "--help").stdout.partition("Examples:")[2]
    assert re.match(rf"\n +tcptrace {name}.*\n +tcptrace {name}", examples)


@pytest.mark.parametrize("name", TRACING)
def test_help_begins_with_two_examples(run: Run, name: str) -> None:
    """What a command does, two examples, then the rest: rare options are not in the way."""
    text, everything = run(name, "--help").stdout, run(name, "--help-all").stdout
    lines = text.splitlines()
    assert ["  Examples:"] == lines[4:5]
    assert [True, True, False] == [line.startswith(f"    tcptrace {name}") for line in lines[5:8]]
    assert "--mntnsmap" not in text
    assert "--mntnsmap" in everything
    assert max(map(len, everything.splitlines())) <= 80
    assert everything.count(f"tcptrace {name} ") > text.count(f"tcptrace {name} ")


def test_the_examples_of_the_help_are_command_lines(run: Run) -> None:
    """Each of them is accepted as it stands."""
    for name in TRACING:
        examples = run(name, "--help-all").stdout.partition("Examples:\n")[2].partition("\n\n")[0]
        command = cli.get_command(click.Context(cli), name)
        assert isinstance(command, base.TraceCommand)
        for line in examples.splitlines():
            words = re.split(r"  +", line.strip())[0]
            for here in ("postgres", "www"):
                words = words.replace(here, "root")
            arguments = shlex.split(words.replace("181", str(os.getpid())))
            assert ["tcptrace", name] == arguments[:2]
            command.plan(arguments[2:])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_by_name(run: Run, name: str) -> None:
    """`tcptrace help accept` is `tcptrace accept --help`."""
    assert run(name, "--help").stdout == run("help", name).stdout
    if name in TRACING:
        assert run(name, "--help-all").stdout == run("help", "--help-all", name).stdout


def test_help_alone_is_that_of_the_program(run: Run) -> None:
    """And help for what does not exist is a usage error that suggests."""
    assert run("--help").stdout == run("help").stdout
    assert_refused(run("help", "acept"), "acept", "Did you mean accept")


def test_help_names_the_commands(run: Run) -> None:
    """Every built-in command is there with what it does, and none is broken."""
    text = run("--help").stdout
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]", text, re.MULTILINE)
    assert "broken" not in text


def test_version(run: Run) -> None:
    """The version is that of the package."""
    assert f"tcptrace {tcptrace.__version__}\n" == run("--version").stdout == run("-V").stdout


def test_an_unknown_command_names_those_there_are(run: Run) -> None:
    """A mistyped command is a usage error that suggests the right one, and lists all."""
    assert_refused(run("acept"), "acept", "Did you mean accept?", *COMMANDS)
    assert "Did you mean" not in run("xyzzy").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nope"], ["--nope"]),
        (["-4", "-6"], ["-4", "-6"]),
        (["--json", "-o", "csv"], ["--json", "csv"]),
        (["-o", "xml"], ["xml", "json"]),
        (["--columns", "pid,nope"], ["nope", "raddr"]),
        (["--columns", "pid,-pid"], ["no column is left"]),
        (["-p", "init"], ["init", "process id"]),
        (["-p", ""], ["process id"]),
        (["-P", "http"], ["http", "port"]),
        (["-P", "70000"], ["70000", "65535"]),
        (["-u", "no-such-user"], ["no-such-user", "getent"]),
        (["-N", "no-such-netns"], ["no-such-netns", "/run/netns"]),
        (["--cgroup", "/no/such"], ["/no/such", "cgroup v2"]),
        (["--comm", ""], ["not empty"]),
        (["--duration", "soon"], ["soon", "1m30s"]),
        (["--duration", "-1"], ["-1"]),
        (["--duration", "0"], ["'0'", "no time at all"]),
        (["--duration", "1" * 400], ["1111…", "too long", "10000d"]),
        (["--count-events", "0"], ["0"]),
        (["--buffer-mb", "3"], ["3"]),
        (["--backend", "magic"], ["magic", "auto", "tracepoint"]),
        (["make"], ["'make'", "behind --"]),
        (["-P", "80", "443"], ["'443'", "-P 80,443"]),
        (["-C", "/sys/fs/bpf/set"], ["-C", "Here it is --cgroupmap"]),
        (["-M", "/sys/fs/bpf/set"], ["-M", "Here it is --mntnsmap"]),
    ],
)
def test_bad_input_is_refused(run: Run, arguments: list[str], words: list[str]) -> None:
    """Each mistake is named, with what would be right, and ends with 2."""
    assert_refused(run("accept", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-c", "-d"], ["-d", "-c", "exclude"]),
        (["-c", "-t"], ["-t", "column"]),
        (["-s"], ["-s needs -c"]),
        (["--interval", "1"], ["--interval needs -c"]),
        (["--dns-ttl"], ["--dns-ttl needs -d"]),
        (["--slower", "0"], ["no time at all"]),
        (["--slower", "nan"], ["nan", "500ms"]),
        (["--slower", "1e300"], ["1e300"]),
    ],
)
def test_options_that_do_not_go_together(run: Run, arguments: list[str], words: list[str]) -> None:
    """An option is refused, not ignored, where it would change nothing."""
    assert_refused(run("connect", *arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--type", "FOO"], ["FOO", "record type"]),
        (["--type", ""], ["record type"]),
        (["--type", "A/FOO"], ["A/FOO"]),
        (["--name", ""], ["not empty"]),
        (["--timeout", "9" * 300], ["too long"]),
        (["--timeout", "0.0000000001"], ["too short", "1ms"]),
    ],
)
def test_what_cannot_match_is_refused(run: Run, arguments: list[str], words: list[str]) -> None:
    """A filter that no message can pass is a mistake."""
    assert_refused(run("dns", *arguments), *words)


def test_tracing_without_privileges_says_what_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without root or capabilities: status 1, and two lines."""
    monkeypatch.setattr("tcptrace.kernel.privileges.effective_capabilities", lambda: 0)
    status, _, said = ended(monkeypatch, capsys, "accept")
    assert (1, 2) == (status, len(said.splitlines()))
    assert "CAP_BPF" in said
    assert "sudo" in said


def ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run in this process; return exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["tcptrace", *arguments])
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    status = program.run_command_line()
    return status, *capsys.readouterr()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TcptraceError("what failed"), 1),
        (RefusedError("what failed"), 2),
        (PluginError("what failed"), 1),
        (LossError("what failed"), 1),
        (click.UsageError("what failed"), 2),
        (OSError(28, "what failed"), 1),
        (KeyboardInterrupt(), 0),
        (click.Abort(), 0),
        (BrokenPipeError(), 0),
    ],
)
def test_errors_become_exit_statuses(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: BaseException,
    status: int,
) -> None:
    """Each kind of end has its status, and no traceback."""

    def fail() -> int:
        raise error

    monkeypatch.setattr(program, "_invoke", fail)
    monkeypatch.setattr(program, "discard", lambda _: None)
    actual, output, said = ended(monkeypatch, capfd)
    assert (status, "") == (actual, output)
    assert ("what failed" in said) == (status != 0)
    assert "Traceback" not in said


@pytest.mark.parametrize(("flags", "shown"), [([], False), (["-v"], True), (["--verbose"], True)])
def test_details_are_for_v(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    *,
    shown: bool,
) -> None:
    """A compiler's words are shown with -v only."""

    def fail() -> int:
        raise TcptraceError("what failed", details="LLVM says")

    monkeypatch.setattr(program, "_invoke", fail)
    assert shown == ("LLVM says" in ended(monkeypatch, capsys, "accept", *flags)[2])


@pytest.mark.parametrize("given", [3, 1, 0])
def test_a_command_s_exit_status_counts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: int
) -> None:
    """What a command gives to Context.exit is the program's status."""

    @click.command
    @click.pass_context
    def ending(context: click.Context) -> None:
        context.exit(given)

    monkeypatch.setattr(program, "cli", ending)
    assert given == ended(monkeypatch, capsys)[0]


def test_a_full_device_is_an_error() -> None:
    """Output that cannot be written: status 1 and one line."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        result = subprocess.run(
            [sys.executable, "-m", "tcptrace", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (1, 1) == (result.returncode, len(result.stderr.splitlines()))
    assert "No space left" in result.stderr


INTERRUPTED = """
import os, signal, sys, threading
from tcptrace.sinks.output import buffered
sys.stdout = buffered(sys.stdout)
signal.signal(signal.SIGUSR1, lambda *_: None)
timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1))
timer.start()
sys.stdout.write("x" * (1 << 20))
sys.stdout.flush()
"""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_signal_amid_a_write_loses_nothing(unbuffered: str) -> None:
    """A write that a signal cuts short is continued, also with PYTHONUNBUFFERED."""
    command = [sys.executable, "-c", INTERRUPTED]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert b"x" == process.stdout.read(1)  # it writes, and the pipe is full
        time.sleep(0.4)
        assert (1 << 20) - 1 == len(process.stdout.read())


def test_a_closed_pipe_is_a_normal_end() -> None:
    """`tcptrace --help | true` says nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    result = subprocess.run(
        [sys.executable, "-m", "tcptrace", "--help"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (0, "") == (result.returncode, result.stderr)


GOOD = """
from tcptrace import command
from tcptrace.probes.accept.probe import ACCEPT

@command(ACCEPT, api=2)
def command(trace):
    \"\"\"Do what a plugin does.\"\"\"
    return trace.events
"""


def test_a_plugin_is_a_command(run: Run, tmp_path: Path) -> None:
    """A plugin's command has its docstring in the help, and all options."""
    add_plugin(tmp_path, GOOD)
    assert re.search(r"^  plug +Do what a plugin does\.", run("--help").stdout, re.MULTILINE)
    assert "--netns" in run("plug", "--help").stdout


UNTOLD = """
class Untold(Exception):
    def __str__(self):
        raise ValueError
raise Untold
"""


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('no luck\\nat all')", "RuntimeError: no luck"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("this is no Python", "SyntaxError"),
        ("other = 1", "AttributeError"),
        ("command = 1", "plug:command is not a command"),
        (GOOD.replace("api=2", "api=99"), "made for plugin API 99"),
        (GOOD.replace("api=2", "api=1"), "trace.events are what it got (docs/plugins.md)"),
        ("raise SystemExit(7)", "SystemExit: 7"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raise GeneratorExit('gone')", "GeneratorExit: gone"),
        ("def f(): f()\nf()", "RecursionError"),
        ("raise RuntimeError('\\x1b[2J\\u202e')", r"\x1b[2J\u202e"),
        (UNTOLD, "cannot be had"),
    ],
)
def test_a_broken_plugin_breaks_nothing_else(
    run: Run, tmp_path: Path, source: str, reason: str
) -> None:
    """Help names the broken plugin and why; calling it is one clear error with status 1."""
    add_plugin(tmp_path, source)
    text = run("--help")
    assert (0, "") == (text.returncode, text.stderr)
    assert "(broken plugin:" in text.stdout
    assert "Trace connections that local servers accept" in text.stdout
    assert 0 == run("accept", "--help").returncode
    for arguments in (["plug"], ["plug", "--help"], ["plug", "-p", "1", "x"]):
        result = run(*arguments)
        assert (1, "") == (result.returncode, result.stdout)
        assert 2 == len(result.stderr.splitlines())
        assert reason in result.stderr


def test_short_help_is_the_commands_own() -> None:
    """What the list of commands says without importing them is what they say themselves."""
    metadata = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    entries = re.findall(r'^(\w+) = "tcptrace\.commands\.\1:\1"$', metadata, re.MULTILINE)
    assert entries == [*SHORT_HELP]
    for name, text in SHORT_HELP.items():
        assert len(text) <= 64, "the list of commands would cut it"
        command = cli.get_command(click.Context(cli), name)
        assert command
        assert text == command.get_short_help_str(200)


def test_a_plugin_cannot_take_a_built_in_s_name(run: Run, tmp_path: Path) -> None:
    """The built-in stays; the other shows as broken with its distribution's name."""
    add_plugin(tmp_path, GOOD, name="accept", module="thief")
    text = run("--help").stdout
    assert "Trace connections that local servers accept" in text
    assert "accept@thief" in text
    assert "tcptrace accept -t" in run("accept", "--help").stdout
    result = run("accept@thief")
    assert 1 == result.returncode
    assert "the name accept is taken" in result.stderr


def test_two_plugins_of_one_name(run: Run, tmp_path: Path) -> None:
    """One of them works, and the other is named."""
    add_plugin(tmp_path, GOOD, module="first")
    add_plugin(tmp_path, GOOD, module="second")
    text = run("--help").stdout
    assert 1 == len(re.findall(r"plug@(first|second)", text))
    assert 0 == run("plug", "--help").returncode


ENTRIES = [
    (b"\x1b[31mred = plug:command\n", r"\x1b[31mred"),
    ("\u202ered = plug:command\n".encode(), r"\u202ered"),
    (b"no-value\n", "no-value"),
    (b"empty =\n", "empty"),
    (b"words = a b c\n", "words"),
    (b"a@b = plug:command\n", "a@b"),
]


@pytest.mark.parametrize(("line", "name"), ENTRIES)
def test_a_line_that_is_no_entry_point_breaks_nothing(
    run: Run, tmp_path: Path, line: bytes, name: str
) -> None:
    """It is shown as broken, escaped; all commands work."""
    add_plugin(tmp_path, GOOD)
    entries = tmp_path / "plug-1.0.dist-info/entry_points.txt"
    entries.write_bytes(b"[tcptrace.commands]\n" + line)
    text = run("--help")
    assert (0, "") == (text.returncode, text.stderr)
    assert re.search(rf"^  {re.escape(name)} +\(broken plugin:", text.stdout, re.MULTILINE)
    assert 0 == run("accept", "--help").returncode


@pytest.mark.parametrize(
    "metadata", [None, b"", b"Name: \x1b[31mred\n", b"\xff\xfe\n", b"Name: plug\n"]
)
@pytest.mark.parametrize("entries", [b"broken\n", b"[console_scripts]\nbroken\n", b"\xff\n"])
def test_a_distribution_that_cannot_be_read_breaks_nothing(
    run: Run, tmp_path: Path, metadata: bytes | None, entries: bytes
) -> None:
    """Whatever somebody else has installed, the commands are there, and no escape comes out."""
    add_plugin(tmp_path, GOOD, name="accept")
    info = tmp_path / "plug-1.0.dist-info"
    with (info / "entry_points.txt").open("ab") as file:
        file.write(entries)
    (info / "METADATA").unlink()
    if metadata is not None:
        (info / "METADATA").write_bytes(metadata)
    text = run("--help")
    assert (0, "") == (text.returncode, text.stderr)
    assert "Trace connections that local servers accept" in text.stdout
    assert "\x1b" not in text.stdout


def test_a_plugin_s_help_is_escaped(run: Run, tmp_path: Path) -> None:
    """What a plugin says of itself in the list of commands is data."""
    source = "import click\n@click.command(short_help='\\x1b[31mred')\ndef command(): pass\n"
    add_plugin(tmp_path, source)
    assert re.search(r"^  plug +\\x1b\[31mred$", run("--help").stdout, re.MULTILINE)


def test_what_was_typed_is_escaped_in_errors(run: Run) -> None:
    """A terminal acts on nothing that was in the command line."""
    for arguments in (["--\x1b[31mred"], ["\x1b[31mred"], ["accept", "--cgroup", "/\x1b[31mred"]):
        assert "\x1b" not in run(*arguments).stderr


def documented(heading: str) -> str:
    """Return the first Python block below a heading of docs/plugins.md."""
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    return text.partition(f"## {heading}")[2].partition("```python\n")[2].partition("```")[0]


def test_the_documented_plugin_works(run: Run, tmp_path: Path) -> None:
    """The first plugin of docs/plugins.md is under 20 lines and runs."""
    source = documented("A command over an existing probe")
    assert 0 < len(source.splitlines()) < 20
    add_plugin(tmp_path, source.replace("def outside", "def command"))
    result = run("plug", "--help")
    assert (0, "") == (result.returncode, result.stderr)
    assert "--lan" in result.stdout


def test_the_documented_probe_is_the_example_s() -> None:
    """What docs/plugins.md shows of the example is in the example."""
    example = ROOT / "examples/tcptrace-retrans"
    files = [path for path in example.rglob("*.*") if path.suffix in (".py", ".c", ".toml")]
    source = "\n".join(path.read_text(encoding="utf-8") for path in files)
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8").partition("## A probe")[2]
    for block in re.findall(r"```(?:python|c|toml)\n(.*?)```", text, re.DOTALL):
        assert block in source


def test_the_interface_is_documented() -> None:
    """docs/plugins.md has every name of `tcptrace.__all__`, and its API version."""
    text = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    assert not [name for name in tcptrace.__all__ if f"`{name}" not in text]
    assert f"api={base.API_VERSION}" in text
