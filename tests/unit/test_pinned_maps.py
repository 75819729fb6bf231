"""Pinned maps that cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from tcptrace.errors import RefusedError
from tcptrace.kernel import bpf


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "does not exist"),
        ("a" * 5000, "File name too long"),
        ("file/below", "Not a directory"),
        ("file", "no object in a BPF file system"),
    ],
)
def test_a_path_that_is_no_pinned_map_is_refused(name: str, words: str, tmp_path: Path) -> None:
    """Whatever the path is, the reason is said, and what it has to be."""
    (tmp_path / "file").touch()
    with pytest.raises(RefusedError, match=words) as caught:
        bpf.open_pinned_hash(str(tmp_path / name), 8, 8)
    assert "pinned BPF hash map" in str(caught.value)
