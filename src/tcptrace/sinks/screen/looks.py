"""How the looks of cells are painted by textual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.style import Style
from rich.text import Text

from tcptrace.sinks.color import Palette
from tcptrace.sinks.screen.text import Line

Styles = Mapping[str | None, Style]
_OWN: Styles = {
    look: Style.parse(text)
    for look, text in {
        "heading": "bold",
        "header": "reverse",
        "sorted": "reverse bold underline",
        "selected": "reverse",
        "bold": "bold",
        "dim": "dim",
    }.items()
}
"""Those of no colour: they have the terminal's own."""
_MARKS = ("failure", "slow", "unusual", "good")
PLAIN = Style()


def styles(palette: Palette) -> Styles:
    """Return how each look is painted: marks as `palette` does; without colours, some are bold."""
    if not palette.has_color:
        return {**_OWN, "failure": Style(bold=True), "unusual": Style(bold=True)}
    return {**_OWN, **{mark: _style(palette.paint("x", mark)) for mark in _MARKS}}


def _style(painted: str) -> Style:
    """Return the style of a text with control codes, if it has some."""
    styles = [span.style for span in Text.from_ansi(painted).spans]
    return Style.combine(style for style in styles if isinstance(style, Style))


def as_text(lines: Sequence[Line], styles: Styles) -> Text:
    """Return lines as rich has them."""
    text = Text(no_wrap=True, end="")
    for at, line in enumerate(lines):
        if at:
            text.append("\n")
        for cell in line:
            text.append(cell.text, styles.get(cell.look, PLAIN))
    return text
