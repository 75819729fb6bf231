"""What is built to be handed on: the wheel and the sdist."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EPOCH = "1700000000"


def built(place: Path, umask: int) -> dict[str, bytes]:
    """Build from a copy of this tree in `place`; return the files that come of it."""
    shutil.copytree(ROOT, place, ignore=shutil.ignore_patterns(".*", "__pycache__", "dist"))
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build"],
        cwd=place,
        env={**os.environ, "SOURCE_DATE_EPOCH": EPOCH},
        umask=umask,
        check=True,
        capture_output=True,
    )
    return {path.suffix: path.read_bytes() for path in (place / "dist").iterdir()}


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, bytes]]:
    """Two builds, of files with other times, for other masks, at other places."""
    place = tmp_path_factory.mktemp("builds")
    return [built(place / "one", 0o022), built(place / "another", 0o077)]


def test_the_same_sources_give_the_same_bytes(builds: list[dict[str, bytes]]) -> None:
    """Whoever builds a wheel or an sdist can compare it with another's."""
    assert {".whl", ".gz"} == builds[0].keys()
    assert builds[0] == builds[1]


def test_a_wheel_has_what_runs(builds: list[dict[str, bytes]], tmp_path: Path) -> None:
    """The C, the headers, the schema and the launcher are in it, and no tests."""
    (tmp_path / "wheel.zip").write_bytes(builds[0][".whl"])
    names = zipfile.ZipFile(tmp_path / "wheel.zip").namelist()
    wanted = {"tcptrace/probes/accept/accept.bpf.c", "tcptrace/schema.json", "tcptrace/py.typed"}
    assert wanted <= {*names}
    assert any(name.endswith(".data/scripts/tcptrace") for name in names)
    assert not any(name.startswith(("tests", "docs", "tools")) for name in names)


def test_an_sdist_has_what_builds_and_tests(builds: list[dict[str, bytes]], tmp_path: Path) -> None:
    """Sources, tests, the pages and tools that tests read, and licences."""
    (tmp_path / "sdist.tar.gz").write_bytes(builds[0][".gz"])
    with tarfile.open(tmp_path / "sdist.tar.gz") as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    wanted = {"bin", "docs", "examples", "extras", "src", "tests", "tools", "setup.sh", "LICENSE"}
    assert wanted <= tops
