"""Text that comes from elsewhere, made safe to show."""

from __future__ import annotations

from codecs import unicode_escape_encode
from functools import lru_cache


@lru_cache(maxsize=4096)
def printable(text: str) -> str:
    r"""Return `text` with every character that a terminal could act on escaped, as ``\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        # Not by str.encode: that imports, when rights are gone, what may be in a closed home.
        char if char.isprintable() else unicode_escape_encode(char)[0].decode()
        for char in text
    )
