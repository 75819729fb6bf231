"""The colours of the screen: those of tables, legible on light and on dark terminals."""

from __future__ import annotations

import pytest
from tests.unit.test_screen import World, on_screen

from tcptrace.sinks.color import PLAIN, SGR_8, SGR_256, Palette

pytest.importorskip("textual", reason="`./setup.sh test` brings it")

from rich.segment import Segment
from textual.pilot import Pilot

from tcptrace.sinks.screen.app import TopApp
from tcptrace.sinks.screen.looks import styles

MANY, FEW = Palette(SGR_256), Palette(SGR_8)


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        (MANY, ["bold color(160)", "color(166)", "color(32)", "color(29)"]),
        (FEW, ["bold color(1)", "color(5)", "underline", "color(2)"]),
        (PLAIN, ["bold", "none", "bold", "none"]),
    ],
)
def test_marks_have_the_colours_of_tables(palette: Palette, expected: list[str]) -> None:
    """256, the eight that every terminal has, or none; then bold tells what failed."""
    marks = ("failure", "slow", "unusual", "good")
    assert expected == [str(styles(palette).get(mark, "none")) for mark in marks]


def colours(app: TopApp) -> set[str]:
    """Return the colours on the screen, but for the terminal's own."""
    found: set[str] = set()
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            found |= own(segment)
    return found


def own(segment: Segment) -> set[str]:
    """Return the colours of a part of a line."""
    pair = (segment.style.color, segment.style.bgcolor) if segment.style else ()
    return {colour.name for colour in pair if colour and not colour.is_default}


@pytest.mark.parametrize(
    ("palette", "expected"),
    [
        (MANY, {"color(160)", "color(29)", "color(32)"}),
        (FEW, {"color(1)", "color(2)"}),
        (PLAIN, set()),
    ],
)
def test_the_screen_has_no_other_colour(palette: Palette, expected: set[str]) -> None:
    """Neither the table, nor the filter that is typed, its cursor, nor the list of keys."""

    async def steps(pilot: Pilot[None], app: TopApp, _world: World) -> None:
        found = colours(app)
        await pilot.press("slash", "e")
        await pilot.pause()
        found |= colours(app)
        await pilot.press("enter", "question_mark")
        await pilot.pause()
        found |= colours(app)
        await pilot.press("x")
        assert expected == found

    on_screen(steps, palette=palette)
