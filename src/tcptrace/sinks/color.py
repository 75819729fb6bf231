"""Colour on a terminal, by what deserves a look, and whether it is wanted.

Each colour is legible on a light and on a dark background: its contrast to white and to black is
3.7 and more. Where a terminal has but eight, some of them are replaced by underlining.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

CHOICES = ("auto", "always", "never")
HEADING = "heading"
_COMMON = {HEADING: "1", "bold": "1", "dim": "2"}
SGR_8 = {**_COMMON, "failure": "1;31", "slow": "35", "unusual": "4", "good": "32"}
SGR_256 = {
    **_COMMON,
    "failure": "1;38;5;160",
    "slow": "38;5;166",
    "unusual": "38;5;32",
    "good": "38;5;29",
}
"""Select Graphic Rendition (ECMA-48) by look."""


class Palette:
    """Paints texts by their look: a `Mark`, a column's style, `HEADING` or "good"."""

    def __init__(self, sgr: Mapping[str, str]) -> None:
        """Paint with these codes; what has none stays as it is."""
        self._sgr = sgr

    @property
    def has_color(self) -> bool:
        """Whether it paints anything."""
        return bool(self._sgr)

    def paint(self, text: str, look: str | None) -> str:
        """Return `text` with the codes of `look` around it."""
        code = self._sgr.get(look or "")
        return f"\x1b[{code}m{text}\x1b[0m" if code else text


PLAIN = Palette({})


def is_dumb(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the terminal knows no control codes."""
    return environ.get("TERM", "") in {"", "dumb", "unknown"}


def wants_color(choice: str, stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Tell whether `stream` is to be coloured, where the user chose one of `CHOICES`.

    NO_COLOR (no-color.org), then CLICOLOR_FORCE, then CLICOLOR (bixense.com/clicolors) are heeded.
    """
    if choice != "auto":
        return choice == "always"
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") not in {"", "0"}:
        return True
    return stream.isatty() and not is_dumb(environ) and environ.get("CLICOLOR") != "0"


def palette(choice: str, stream: TextIO, environ: Mapping[str, str] = os.environ) -> Palette:
    """Return what paints for `stream`; `choice` is one of `CHOICES`."""
    if not wants_color(choice, stream, environ):
        return PLAIN
    names = environ.get("TERM", ""), environ.get("COLORTERM", "")
    has_many = "256color" in names[0] or names[1] in {"truecolor", "24bit"}
    return Palette(SGR_256 if has_many else SGR_8)
