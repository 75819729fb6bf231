"""Where bcc is found: the real one, and not its namesake."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from tcptrace.errors import TcptraceError
from tcptrace.sources.bpf import find_bcc

REAL = {"__init__.py": "from bcc import libbcc\n__version__ = '9.9'\n", "libbcc.py": "lib = 1\n"}


def add_bcc(directory: Path, files: dict[str, str]) -> str:
    """Make a package `bcc`; return its parent."""
    (directory / "bcc").mkdir(parents=True)
    for name, text in files.items():
        (directory / "bcc" / name).write_text(text, encoding="utf-8")
    return str(directory)


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with no bcc anywhere, on Debian."""
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(find_bcc, "_system_site_directories", list)
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"ID": "debian"})
    for name in [name for name in sys.modules if name.partition(".")[0] == "bcc"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.fixture
def imported() -> object:
    """Forget the bcc that a test imported."""
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "bcc"]:
        del sys.modules[name]


def test_missing() -> None:
    """The error names the package to install."""
    with pytest.raises(TcptraceError, match=r"not installed.*\n.*apt install python3-bpfcc"):
        find_bcc.find_spec()


def test_the_namesake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyPI's bcc is told from the BPF compiler, and the error says what to do."""
    monkeypatch.setattr(sys, "path", [add_bcc(tmp_path, {"__init__.py": ""})])
    with pytest.raises(TcptraceError, match="namesake from PyPI") as error:
        find_bcc.find_spec()
    assert str(tmp_path / "bcc") in str(error.value)
    assert "apt install python3-bpfcc; and: pip uninstall bcc" in str(error.value)


def test_the_system_s_is_found_behind_a_namesake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: None
) -> None:
    """A namesake does not hide the distribution's package."""
    monkeypatch.setattr(sys, "path", [add_bcc(tmp_path / "own", {"__init__.py": ""})])
    system = add_bcc(tmp_path / "system", REAL)
    monkeypatch.setattr(find_bcc, "_system_site_directories", lambda: [system])
    module = find_bcc.import_bcc()
    assert f"{system}/bcc/__init__.py" == module.__file__
    assert 1 == module.libbcc.lib


def test_nothing_else_of_the_system_is_importable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, imported: None
) -> None:
    """The system's other packages stay out of the way."""
    system = add_bcc(tmp_path, REAL)
    (tmp_path / "other.py").touch()
    monkeypatch.setattr(find_bcc, "_system_site_directories", lambda: [system])
    find_bcc.import_bcc()
    with pytest.raises(ModuleNotFoundError):
        __import__("other")


def test_one_s_own_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bcc on this Python's path is taken before the system's."""
    own, system = add_bcc(tmp_path / "own", REAL), add_bcc(tmp_path / "system", REAL)
    monkeypatch.setattr(sys, "path", [own])
    monkeypatch.setattr(find_bcc, "_system_site_directories", lambda: [system])
    assert f"{own}/bcc/__init__.py" == find_bcc.find_spec().origin


def test_one_that_cannot_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bcc without its library is an error with a hint, and leaves no half-made module."""
    broken = {**REAL, "libbcc.py": "raise OSError('libbcc.so.0: cannot open')"}
    monkeypatch.setattr(sys, "path", [add_bcc(tmp_path, broken)])
    with pytest.raises(TcptraceError, match=r"cannot be imported: libbcc\.so\.0"):
        find_bcc.import_bcc()
    assert "bcc" not in sys.modules


@pytest.mark.parametrize(
    ("release", "hint"),
    [
        ({"ID": "fedora"}, "dnf install python3-bcc"),
        ({"ID": "linuxmint", "ID_LIKE": "ubuntu debian"}, "apt install python3-bpfcc"),
        ({"ID": "alpine"}, "apk add py3-bcc"),
        ({"ID": "unheard-of"}, "your distribution's bcc package"),
    ],
)
def test_the_hint_is_the_distribution_s(
    monkeypatch: pytest.MonkeyPatch, release: dict[str, str], hint: str
) -> None:
    """Each distribution has its command, and its relatives have it too."""
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    with pytest.raises(TcptraceError, match=hint):
        find_bcc.find_spec()


def test_without_os_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system that does not say what it is gets the general hint."""

    def missing() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    with pytest.raises(TcptraceError, match="your distribution's bcc package"):
        find_bcc.find_spec()
