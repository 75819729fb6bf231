"""Text that comes from elsewhere, made safe to show."""

from __future__ import annotations

from functools import lru_cache


@lru_cache(maxsize=4096)
def printable(text: str) -> str:
    r"""Return `text` with every character that a terminal could act on escaped, as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )
