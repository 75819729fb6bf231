"""Cgroups: their paths, and the containers that they are of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tcptrace.kernel import cgroups

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4


@pytest.mark.parametrize(
    ("path", "container"),
    [
        ("/", None),
        ("/system.slice/ssh.service", None),
        (f"/docker/{ID}", ID),
        (f"/system.slice/docker-{ID}.scope", ID),
        (f"/machine.slice/libpod-{ID}.scope/container", ID),
        (f"/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope", ID),
        (f"/docker/{OTHER}/kubelet/kubepods/pod1/{ID}", ID),
        (f"/build-{ID}0", None),
        (f"/{ID[:-1]}", None),
    ],
)
def test_containers(monkeypatch: pytest.MonkeyPatch, path: str, container: str | None) -> None:
    """The innermost container's id is read from the path."""
    monkeypatch.setattr(cgroups, "path_of", {7: path}.get)
    cgroups.container_of.cache_clear()
    assert container == cgroups.container_of(7)
    cgroups.container_of.cache_clear()


ODD = "\f\r\v\x1c\x85\u2028\udcff"
"""What Python takes for the end of a line, and a byte that is no UTF-8."""


@pytest.mark.parametrize(
    ("mounts", "place"),
    [
        ("tmpfs /tmp tmpfs rw 0 0\n", None),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /cg cgroup2 rw 0 0\n", "/cg"),
        ("none /a\\040b cgroup2 rw 0 0\n", "/a b"),
        *((f"none /a{char}b tmpfs rw 0 0\nnone /cg cgroup2 rw 0 0\n", "/cg") for char in ODD),
        *((f"none /a{char}b cgroup2 rw 0 0\n", f"/a{char}b") for char in ODD),
        ("short\n\nnone /cg cgroup2 rw 0 0\n", "/cg"),
    ],
)
def test_mount_point(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounts: str, place: str | None
) -> None:
    """The hierarchy is found among the mounts, whatever is in its name or in others'."""
    file = tmp_path / "mounts"
    file.write_bytes(os.fsencode(mounts))
    monkeypatch.setattr(cgroups, "MOUNTS", file)
    cgroups.mount_point.cache_clear()
    assert place == cgroups.mount_point()
    cgroups.mount_point.cache_clear()


def test_no_path_without_an_id() -> None:
    """A process without a cgroup v2 id is in no known cgroup."""
    assert cgroups.path_of(None) is None
    assert cgroups.container_of(None) is None
