"""Colour: when it is wanted, and that it can be read."""

from __future__ import annotations

import io
import re

import pytest

from tcptrace.sinks.color import PLAIN, SGR_8, SGR_256, palette, wants_color

XTERM = {"TERM": "xterm"}
ROOT_OF_CONTRAST = 0.05  # WCAG 2, "relative luminance"


class Stream(io.StringIO):
    """A stream that is a terminal, or a pipe."""

    def __init__(self, *, is_terminal: bool) -> None:
        """Be one or the other."""
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        """Tell which."""
        return self._is_terminal


@pytest.mark.parametrize(
    ("choice", "is_terminal", "environ", "expected"),
    [
        ("auto", True, {}, True),
        ("auto", False, {}, False),
        ("auto", True, {"TERM": "dumb"}, False),
        ("auto", True, {"TERM": ""}, False),
        ("auto", True, {"NO_COLOR": "1"}, False),
        ("auto", True, {"NO_COLOR": ""}, True),
        ("auto", True, {"CLICOLOR": "0"}, False),
        ("auto", False, {"CLICOLOR_FORCE": "1"}, True),
        ("auto", False, {"CLICOLOR_FORCE": "0"}, False),
        ("auto", False, {"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}, False),
        ("always", False, {"NO_COLOR": "1", "TERM": "dumb"}, True),
        ("never", True, {"CLICOLOR_FORCE": "1"}, False),
    ],
)
def test_when_colour_is_wanted(
    choice: str,
    is_terminal: bool,  # noqa: FBT001 - a parameter of the test
    environ: dict[str, str],
    expected: bool,  # noqa: FBT001 - the same
) -> None:
    """--color comes first, then NO_COLOR, then CLICOLOR_FORCE; else a terminal that has colours."""
    stream = Stream(is_terminal=is_terminal)
    assert expected == wants_color(choice, stream, {**XTERM, **environ})
    assert expected == palette(choice, stream, {**XTERM, **environ}).has_color


def test_the_terminal_s_colours_are_used() -> None:
    """256 colours where the terminal says that it has them, else the eight."""
    stream = Stream(is_terminal=True)
    many = palette("auto", stream, {"TERM": "xterm-256color"})
    true = palette("auto", stream, {**XTERM, "COLORTERM": "truecolor"})
    few = palette("auto", stream, XTERM)
    assert ["\x1b[38;5;166mx\x1b[0m"] * 2 == [colors.paint("x", "slow") for colors in (many, true)]
    assert "\x1b[35mx\x1b[0m" == few.paint("x", "slow")
    assert "x" == PLAIN.paint("x", "slow") == few.paint("x", None) == few.paint("x", "yellow")
    assert SGR_8.keys() == SGR_256.keys()


def luminance(number: int) -> float:
    """Return a colour's relative luminance, of xterm's cube of 6 by 6 by 6."""
    number -= 16
    steps = (0, 95, 135, 175, 215, 255)
    channels = [steps[digit] / 255 for digit in (number // 36, number // 6 % 6, number % 6)]
    linear = [
        channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4
        for channel in channels
    ]
    return sum(share * light for share, light in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("look", [look for look, code in SGR_256.items() if "38;5" in code])
def test_colours_can_be_read_on_light_and_dark(look: str) -> None:
    """Their contrast to white and to black is 3.7 at least."""
    number = re.search(r"38;5;(\d+)", SGR_256[look])
    assert number
    own = luminance(int(number[1])) + ROOT_OF_CONTRAST
    assert min((1 + ROOT_OF_CONTRAST) / own, own / ROOT_OF_CONTRAST) >= 3.7
