"""The lock file has a version of everything that pyproject.toml asks for."""

from __future__ import annotations

import re
from importlib.metadata import requires
from pathlib import Path

LOCK = Path(__file__).resolve().parents[2] / "requirements-dev.lock"
WANTED = re.compile(r"extra == ['\"](dev|fuzz|vm)['\"]")


def canonical(name: str) -> str:
    """Return a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_everything_is_locked() -> None:
    """A dependency that was added is in the file, with a version."""
    locked = set(
        map(canonical, re.findall(r"^([\w.-]+)(?:\[\w+\])?==", LOCK.read_text(), re.MULTILINE))
    )
    asked = [
        requirement
        for requirement in requires("tcptrace") or ()
        if "extra ==" not in requirement or WANTED.search(requirement)
    ]
    names = {canonical(re.split(r"[^\w.-]", requirement)[0]) for requirement in asked}
    assert asked
    assert set() == names - locked
