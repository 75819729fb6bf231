"""How the looks of cells are painted by textual.

Colours are the terminal's own, or of its 256 and legible on light and on dark.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from tcptrace.sinks.screen.text import Line

_STYLES = {
    "heading": "bold",
    "header": "reverse",
    "sorted": "reverse bold underline",
    "selected": "reverse",
    "bold": "bold",
    "dim": "dim",
    "failure": "bold color(160)",
    "slow": "color(166)",
    "unusual": "color(32)",
    "good": "color(29)",
}
STYLES = {look: Style.parse(text) for look, text in _STYLES.items()}
PLAIN = Style()


def as_text(lines: Sequence[Line]) -> Text:
    """Return lines as rich has them."""
    text = Text(no_wrap=True, end="")
    for at, line in enumerate(lines):
        if at:
            text.append("\n")
        for cell in line:
            text.append(cell.text, STYLES.get(cell.look or "", PLAIN))
    return text
