"""The project's checks, run by `.venv/bin/nox` in the virtual environment of setup.sh.

bcc belongs to the distribution's Python, which only `.venv` sees: every session
runs there, makes no environment of its own and needs no network.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
BIN = ROOT / ".venv" / "bin"
# A machine that starves for a moment fails a test that waits for it. What fails twice is a fault;
# what failed once is named at the end.
AGAIN = ("--reruns=1", "-rfER")
LOCK = "requirements-dev.lock"

# No session needs uv, and nox says that it has not found one.
logging.getLogger("nox").addFilter(lambda record: record.getMessage() != "uv binary not found.")

nox.options.default_venv_backend = "none"
nox.options.sessions = ["lint", "types", "tests", "docs", "kernel"]


def run(session: nox.Session, tool: str, *args: str) -> None:
    """A tool of `.venv`, run with arguments; the session fails when it does."""
    session.run(str(BIN / tool), *args)


@nox.session
def lint(session: nox.Session) -> None:
    """Style and formatting, by ruff."""
    run(session, "ruff", "check", *session.posargs)
    run(session, "ruff", "format", "--check", *session.posargs)


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy in strict mode."""
    run(session, "mypy", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Unit tests: no root, no bcc. Arguments go to pytest."""
    run(session, "pytest", "tests/unit", *AGAIN, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, built with warnings as errors, thrown away."""
    # Without --quiet, which would hide the warnings from --strict too.
    with tempfile.TemporaryDirectory() as site:
        run(session, "mkdocs", "build", "--strict", "--site-dir", site)


@nox.session
def kernel(session: nox.Session) -> None:
    """Tests on this machine's kernel, as root. Arguments go to pytest."""
    if os.geteuid() != 0:
        session.error("the kernel tests load BPF programs: run them as root, with sudo")
    # What a whole run shows is kept for docs/matrix.md.
    keep = [] if session.posargs else ["--junitxml=.cache/tests/host.xml", "-ojunit_family=xunit1"]
    run(session, "pytest", "tests/kernel", *AGAIN, *keep, *session.posargs)


@nox.session
def vm(session: nox.Session) -> None:
    """The kernel tests on other kernels: `nox -s vm -- 6.1 -- -k mapped`, or all of them."""
    run(session, "python", "tests/vm/run.py", *session.posargs)


@nox.session
def fleet(session: nox.Session) -> None:
    """The map of a fleet of network namespaces, its page in a browser, and Spark beside DuckDB."""
    if os.geteuid() != 0:
        session.error("the fleet's hosts are network namespaces: run it as root, with sudo")
    run(session, "pytest", "tests/fleet", *AGAIN, "--timeout=600", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measurements, one script after the other; `nox -s bench -- vm 6.1` in a machine."""
    if session.posargs[:1] == ["vm"]:
        run(session, "python", "tests/vm/bench.py", *session.posargs[1:])
        return
    for script in sorted((ROOT / "bench").glob("*.py")):
        run(session, "python", str(script), *session.posargs)


@nox.session
def dist(session: nox.Session) -> None:
    """Wheel and sdist, with man pages in the sdist, in dist/; the same commit, the same bytes."""
    epoch = session.run("git", "log", "-1", "--format=%ct", external=True, silent=True)
    os.environ.setdefault("SOURCE_DATE_EPOCH", str(epoch).strip())
    (ROOT / "man").mkdir(exist_ok=True)
    run(session, "python", "tools/make_man.py", "man")
    run(session, "python", "-m", "hatchling", "build", "-d", "dist", *session.posargs)


@nox.session
def deb(session: nox.Session) -> None:
    """A Debian package, in dist/."""
    run(session, "python", "tools/make_deb.py", "dist", *session.posargs)


@nox.session
def lowest(session: nox.Session) -> None:
    """Unit tests with the lowest versions of all dependencies, in an environment of their own."""
    project = nox.project.load_toml(ROOT / "pyproject.toml")["project"]
    needed = [requirement.replace(">=", "==") for requirement in project["dependencies"]]
    with tempfile.TemporaryDirectory() as place:
        python = environment(session, place, *needed, "--editable", ".[dev]")
        session.run(python, "-m", "pytest", "tests/unit", *AGAIN, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Bytes of strangers, ten minutes a target: `nox -s fuzz -- dns-message --seconds 60`."""
    with tempfile.TemporaryDirectory() as place:
        python = environment(session, place, "--editable", ".[dev,fuzz]")
        session.run(python, "-m", "tests.fuzz.run", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """A recorder under a storm for an hour, as root: `nox -s soak -- --seconds 600`."""
    run(session, "python", "tests/soak/run.py", *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Write requirements-dev.lock: a version of each tool and library, for development."""
    with tempfile.TemporaryDirectory() as place:
        python = environment(session, place, "uv")
        form = ("--universal", "--python-version=3.10", "--generate-hashes", "--no-header")
        wanted = ("--extra=dev", "--extra=fuzz", "--extra=vm", "pyproject.toml", "-o", LOCK)
        session.run(f"{Path(python).parent}/uv", "pip", "compile", "--quiet", *form, *wanted)


@nox.session
def audit(session: nox.Session) -> None:
    """Known weaknesses of what requirements-dev.lock names; fails where nobody can be asked."""
    with tempfile.TemporaryDirectory() as place:
        python = environment(session, place, "pip-audit")
        how = ("--strict", "--require-hashes", "--disable-pip", "--requirement", LOCK)
        session.run(f"{Path(python).parent}/pip-audit", *how, *session.posargs)


def environment(session: nox.Session, place: str, *needed: str) -> str:
    """Make a virtual environment that does not see the distribution's packages."""
    session.run(str(BIN / "python"), "-m", "venv", place)
    python = f"{place}/bin/python"
    pip = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    session.run(*pip, *needed)
    return python
