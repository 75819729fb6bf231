"""Root runs it where a stranger has prepared the directory, the environment or the options."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.kernel.tracers import Tracer, ended_well, run_tcptrace

PROGRAM = (str(Path(sys.executable).with_name("tcptrace")),)
MODULES = ("bcc", "click", "json", "tcptrace", "sitecustomize", "usercustomize", "socket")
HEADERS = ("linux/types.h", "linux/kconfig.h", "linux/sched.h", "uapi/linux/bpf.h", "stddef.h")
UNDER_SUDO = {"SUDO_UID": "1000", "SUDO_USER": "somebody"}
pytestmark = pytest.mark.anywhere


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A directory with modules and headers of a stranger's; a module that is run leaves a mark."""
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'caught')!r}, 'w')\n")
    for name in HEADERS:
        path = tmp_path / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#error "compiled"\n')
    (tmp_path / "linux").symlink_to("include/linux")
    (tmp_path / "uapi").symlink_to("include/uapi")
    return tmp_path


def check(trap: Path, environment: Mapping[str, str]) -> None:
    """Check that it compiles, traces and ends well, and that nothing of the stranger's has run."""
    with Tracer("--json", "--no-cache", program=PROGRAM, cwd=trap, env={**environment}) as tracer:
        ended_well(tracer)
    assert not (trap / "caught").exists()


def test_a_directory(trap: Path) -> None:
    """Neither modules nor headers are taken from where it is run."""
    check(trap, {})


@pytest.mark.parametrize("behind", [{}, UNDER_SUDO], ids=["root", "sudo"])
def test_variables_of_the_compiler(trap: Path, behind: dict[str, str]) -> None:
    """Bcc and clang look nowhere but where they are told to."""
    include = str(trap / "include")
    names = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "BCC_KERNEL_SOURCE", "COMPILER_PATH")
    others = {
        "BCC_KERNEL_MODULES_SOURCE": include,
        "BCC_KERNEL_MODULES_DIR": include,
        "CCC_OVERRIDE_OPTIONS": "+-include +stddef.h",
        "TMPDIR": str(trap / "missing"),
    }
    check(trap, {**dict.fromkeys(names, include), **others, **behind})


def test_variables_of_python_behind_sudo(trap: Path) -> None:
    """What a user has set, root's Python does not heed."""
    of_python = {
        "PYTHONPATH": str(trap),
        "PYTHONHOME": str(trap),
        "PYTHONSTARTUP": str(trap / "click.py"),
        "PYTHONINSPECT": "1",
        "PYTHONUSERBASE": str(trap),
        "PYTHONPLATLIBDIR": "nowhere",
    }
    check(trap, {**of_python, **UNDER_SUDO})


def test_libraries_behind_sudo(trap: Path) -> None:
    """A library that a user names is not loaded by Python."""
    library = trap / "hostile.so"
    library.write_bytes(b"no library")
    env = {**os.environ, **UNDER_SUDO, "LD_PRELOAD": str(library), "LD_LIBRARY_PATH": str(trap)}
    ended = run_tcptrace("--version", program=PROGRAM, cwd=trap, env=env)
    # The shell that starts Python was started with it, and says so once.
    assert (0, 1) == (ended.status, ended.stderr.count("hostile.so"))


@pytest.mark.parametrize("option", ["--cgroupmap", "--mntnsmap"])
@pytest.mark.parametrize("kind", ["pipe", "link", "device", "missing"])
def test_a_path_that_is_no_map(trap: Path, option: str, kind: str) -> None:
    """It is refused at once, whatever it is: nothing is opened that could wait or act."""
    path = trap / "map"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/etc/shadow")
    elif kind == "device":
        path = Path("/dev/zero")
    ended = run_tcptrace("accept", option, str(path))
    assert (2, "") == (ended.status, ended.stdout)
    assert str(path) in ended.stderr
