"""The probes' clock, in whatever time namespace tcptrace runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tcptrace.kernel import clock

TEXT = "monotonic      100000         5\nboottime            7         0\n"


@pytest.mark.parametrize(
    ("text", "offset_ns"),
    [
        ("", 0),
        ("monotonic           0         0\nboottime            0         0\n", 0),
        (TEXT, 100_000_000_000_005),
        ("monotonic          -2 500000000\n", -1_500_000_000),
    ],
)
def test_offsets(text: str, offset_ns: int) -> None:
    """A namespace's clock is ahead of the initial one's by seconds and nanoseconds."""
    assert offset_ns == clock.parse_offset(text)


@pytest.mark.parametrize("is_initial", [True, False])
def test_the_time_is_that_of_the_initial_namespace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_initial: bool
) -> None:
    """What the namespace adds is taken away; in the initial one, the file is about children."""
    (tmp_path / "offsets").write_text(TEXT)
    monkeypatch.setattr(clock, "OFFSETS", tmp_path / "offsets")
    monkeypatch.setattr(clock, "is_in_initial", lambda _: is_initial)
    clock._offset_ns.cache_clear()
    behind_ns = time.monotonic_ns() - clock.now_ns()
    clock._offset_ns.cache_clear()
    assert -(10**12) < behind_ns - (0 if is_initial else 100_000_000_000_005) <= 0
