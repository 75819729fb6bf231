"""The program's beginning and end: Ctrl-C at any moment, streams that fail, what is missing."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

LAUNCHER = Path(__file__).parents[2] / "bin/tcptrace"
INTERRUPT = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The launcher, as it is installed beside an interpreter."""
    directory = tmp_path / "environment/bin"
    directory.mkdir(parents=True)
    program = directory / "tcptrace"
    program.write_bytes(LAUNCHER.read_bytes())
    (directory / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for file in directory.iterdir():
        file.chmod(0o755)
    return program


@pytest.fixture
def run(program: Path, tmp_path: Path) -> Run:
    """A function that runs the program behind a shell's `before`, with modules in `tmp_path`."""

    def run(*arguments: str, before: str = ":") -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        command = ["sh", "-c", f'{before}; exec "$@"', "sh", str(program), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def add_plugin(directory: Path, source: str) -> None:
    """Make an installed distribution with the command `plug`."""
    (directory / "plug.py").write_text(source)
    info = directory / "plug-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_text("[tcptrace.commands]\nplug = plug:command\n")


def test_ctrl_c_while_python_starts_is_a_quiet_end(run: Run, tmp_path: Path) -> None:
    """Python's own modules are imported before any line of tcptrace's runs."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    ended = run("--help")
    assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize("module", ["click", "gettext", "plug"])
def test_ctrl_c_while_modules_are_imported_is_a_quiet_end(
    run: Run, tmp_path: Path, module: str
) -> None:
    """What tcptrace needs, and plugins: a traceback is nobody's answer."""
    add_plugin(tmp_path, "")
    (tmp_path / f"{module}.py").write_text(INTERRUPT)
    ended = run("--help")
    assert (0, "", "") == (ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize("module", ["sitecustomize", "click"])
@pytest.mark.parametrize(
    "words",
    ["connect -- true", "connect --only a.example", "diff --fail a b"],
    ids=["command", "only", "fail"],
)
def test_ctrl_c_opens_no_gate_and_runs_no_command(
    run: Run, tmp_path: Path, module: str, words: str
) -> None:
    """A status of 0 would say that the command has ended well, or that all was permitted."""
    (tmp_path / f"{module}.py").write_text(INTERRUPT)
    ended = run(*words.split())
    assert (1, "", "") == (ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize(("words", "status"), [("connect", 0), ("connect -- true", 1)])
def test_ctrl_c_means_the_same_without_the_launcher(
    tmp_path: Path, words: str, status: int
) -> None:
    """As a module it sets its own handler."""
    (tmp_path / "click.py").write_text(INTERRUPT)
    ended = subprocess.run(
        [sys.executable, "-m", "tcptrace", *words.split()],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        check=False,
    )
    assert (status, b"", b"") == (ended.returncode, ended.stdout, ended.stderr)


def test_an_ignored_ctrl_c_stays_ignored(run: Run, tmp_path: Path) -> None:
    """A shell script's background job does not end with what is in front."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    ended = run("--version", before='trap "" INT')
    assert (0, "") == (ended.returncode, ended.stderr)
    assert ended.stdout.startswith("tcptrace ")


def test_a_missing_dependency_is_named(run: Run, tmp_path: Path) -> None:
    """What is missing is said with where it should be, in two lines."""
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError(\"No module named 'click'\")\n")
    ended = run("--help")
    assert (1, "", 2) == (ended.returncode, ended.stdout, len(ended.stderr.splitlines()))
    assert "No module named 'click'" in ended.stderr
    assert sys.executable in ended.stderr


def test_a_plugin_that_raises_while_it_runs_is_an_error_of_two_lines(
    run: Run, tmp_path: Path
) -> None:
    """What it raises is told in a line, and whole with -v."""
    add_plugin(
        tmp_path,
        "import click\n"
        "@click.command\n"
        "@click.option('-v', is_flag=True)\n"
        "def command(v):\n"
        "    raise KeyError('\\x1b[31mred\\nmore')\n",
    )
    ended = run("plug")
    assert (1, 2) == (ended.returncode, len(ended.stderr.splitlines()))
    assert "KeyError" in ended.stderr
    assert "\x1b" not in ended.stderr
    assert "plug.py" in run("plug", "-v").stderr


@pytest.mark.parametrize(
    "name", ["--help", "--version", "doctor", "accept --dump-c --backend kprobe"]
)
def test_a_closed_stdout_is_an_error_that_says_so(run: Run, name: str) -> None:
    """What cannot be written is not passed over."""
    ended = run(*name.split(), before="exec >&-")
    assert (1, 1) == (ended.returncode, len(ended.stderr.splitlines()))
    assert "standard output: it is closed" in ended.stderr


def test_a_closed_stdout_is_no_place_for_rows(run: Run) -> None:
    """It is said before anything is attached."""
    ended = run("accept", "--json", before="exec >&-")
    assert 1 == ended.returncode
    assert "standard output is closed" in ended.stderr


@pytest.mark.parametrize("before", ["exec <&-", "exec 2>&-", "exec 2>/dev/full", "exec <&- 2>&-"])
@pytest.mark.parametrize(("name", "status"), [("--help", 0), ("acept", 2), ("accept -p x", 2)])
def test_other_streams_do_not_matter(run: Run, before: str, name: str, status: int) -> None:
    """Closed or full, stdin and stderr change neither output nor exit status."""
    ended = run(*name.split(), before=before)
    assert status == ended.returncode
    assert (status == 0) == ("Usage: tcptrace" in ended.stdout)


def test_nothing_else_gets_the_number_of_a_closed_stream(run: Run, tmp_path: Path) -> None:
    """A file that is opened later would be written to as if it were standard output."""
    add_plugin(
        tmp_path,
        "import click, os\n"
        "@click.command\n"
        "def command():\n"
        "    opened = os.open('/', os.O_RDONLY)\n"
        "    click.echo(str(opened > 2), err=True)\n",
    )
    assert run("plug", before="exec <&- >&-").stderr.startswith("True\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act for another user")
@pytest.mark.parametrize(("owner", "left"), [(65534, False), (0, True)])
def test_root_leaves_no_bytecode_in_another_s_directory(
    run: Run, program: Path, tmp_path: Path, owner: int, *, left: bool
) -> None:
    """What root compiles in a user's environment, the user could not remove."""
    os.chown(program, owner, owner)
    add_plugin(tmp_path, "")
    ended = run("--help", before="unset PYTHONDONTWRITEBYTECODE")
    assert (0, "") == (ended.returncode, ended.stderr)
    assert left == (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_dies_of_no_signal_with_a_word(program: Path, number: signal.Signals) -> None:
    """At whatever moment a signal comes while it starts, no traceback is shown."""
    for milliseconds in range(0, 100, 20):
        process = subprocess.Popen(
            [str(program), "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            process.wait(milliseconds / 1000)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        assert b"" == process.communicate()[1]
        assert process.returncode in {0, -number}


def test_a_stdout_that_does_not_wait_is_a_stdout(program: Path) -> None:
    """What is longer than a pipe holds is written whole, and others' flag stays."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    command = [str(program), "dns", "--dump-c", "--backend", "kprobe"]
    with subprocess.Popen(command, stdout=writing) as process:
        assert not os.get_blocking(writing)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            data = pipe.read()
    assert 0 == process.returncode
    assert len(data) > select.PIPE_BUF
    assert data.endswith(b"#endif\n")
