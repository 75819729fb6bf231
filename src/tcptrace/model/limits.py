"""How much is kept of recordings: `Limits`."""

from __future__ import annotations

from typing import NamedTuple


class Limits(NamedTuple):
    """When a file ends, and what is kept of those that have; None without a limit."""

    file_s: float | None = None
    file_bytes: int | None = None
    kept_s: float | None = None
    kept_bytes: int | None = None
