"""Cgroups: their paths."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tcptrace.kernel import cgroups

ODD = "\f\r\v\x1c\x85\u2028\udcff"
"""What Python takes for the end of a line, and a byte that is no UTF-8."""


def mounted(place: str, kind: str = "cgroup2", root: str = "/") -> str:
    """Return a line of mountinfo."""
    return f"36 35 0:30 {root} {place} rw,relatime shared:9 - {kind} none rw\n"


@pytest.fixture
def mounts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The file that says what is mounted, and no memory of what was."""
    file = tmp_path / "mountinfo"
    monkeypatch.setattr(cgroups, "MOUNTS", file)
    known = (cgroups._mount, cgroups._above)
    for function in known:
        function.cache_clear()
    yield file
    for function in known:
        function.cache_clear()


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (mounted("/run", "tmpfs"), None),
        (mounted("/sys/fs/cgroup/cpu", "cgroup") + mounted("/cg"), "/cg"),
        (mounted("/a\\040b"), "/a b"),
        *((mounted(f"/a{char}b", "tmpfs") + mounted("/cg"), "/cg") for char in ODD),
        *((mounted(f"/a{char}b"), f"/a{char}b") for char in ODD),
        ("short\n\n" + mounted("/cg"), "/cg"),
    ],
)
def test_mount_point(mounts: Path, text: str, place: str | None) -> None:
    """The hierarchy is found among the mounts, whatever is in its name or in others'."""
    mounts.write_bytes(os.fsencode(text))
    assert place == cgroups.mount_point()


@pytest.mark.parametrize(
    ("is_initial", "root", "path"),
    [
        (True, "/", "/one/two"),
        (True, "/slice", "/slice/one/two"),
        (False, "/", None),
        (False, "/..", None),
    ],
)
def test_a_path_is_the_true_one_or_absent(
    monkeypatch: pytest.MonkeyPatch, mounts: Path, *, is_initial: bool, root: str, path: str | None
) -> None:
    """Where a part of the hierarchy is mounted, what is above it is known in no other namespace."""
    place = mounts.parent / "mount"
    (place / "one/two").mkdir(parents=True)
    mounts.write_text(mounted(str(place), root=root))
    monkeypatch.setattr(cgroups, "open_by_handle_at", lambda *_: os.open(place / "one/two", 0))
    inode = cgroups.CGROUP_NS.stat().st_ino
    monkeypatch.setattr(cgroups, "CGROUP_NS_INIT_INO", inode if is_initial else 0)
    cgroups._root.cache_clear()
    cgroups.path_of.cache_clear()
    assert path == cgroups.path_of(7)
    cgroups._root.cache_clear()
    cgroups.path_of.cache_clear()


@pytest.mark.parametrize(
    ("path", "directory", "inside"),
    [
        ("/a/b", "/", "/a/b"),
        ("/", "/", ""),
        ("/a/b", "/a", "/b"),
        ("/a", "/a", ""),
        ("/ab", "/a", None),
        ("/../b", "/", None),
        ("/../b", "/..", "/b"),
        ("/", "/..", None),
    ],
)
def test_what_is_below_a_directory(path: str, directory: str, inside: str | None) -> None:
    """A path from a cgroup namespace's root can lead out of it, or of what is mounted."""
    assert inside == cgroups._inside(path, directory)


def test_no_path_without_an_id() -> None:
    """A process without a cgroup v2 id is in no known cgroup."""
    assert cgroups.path_of(None) is None
