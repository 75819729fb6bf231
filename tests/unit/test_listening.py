"""The screen of `tcptrace top --listen`: its lines, and its keys through textual's Pilot."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tcptrace.sinks.color import PLAIN
from tcptrace.sinks.screen.listening import Listening
from tcptrace.sinks.screen.text import text_of
from tcptrace.top.listeners import Listener, Table

pytest.importorskip("textual", reason="`./setup.sh test` brings it")

from textual.pilot import Pilot

from tcptrace.sinks.screen.app import TopApp
from tcptrace.sinks.screen.views import BehindRow

SECOND = 1_000_000_000
SIZES = [(80, 24), (200, 60), (40, 8)]


def listener(port: int, **changes: Any) -> Listener:
    """Return a listener of nginx's."""
    known: dict[str, Any] = {
        "ts_ns": SECOND,
        "interval_s": 1.0,
        "pid": 7,
        "comm": "nginx",
        "uid": 0,
        "netns": 4026531840,
        "unit": "nginx.service",
        "container": None,
        "container_name": None,
        "laddr": "0.0.0.0",
        "lport": port,
        "accepts": 3,
        "backlog": 0,
        "backlog_max": 128,
        "drops": 0,
        "run_accepts": 3,
        "run_drops": 0,
        "_inode": port,
    }
    return Listener(**{**known, **changes})


def table(seconds: int = 1, note: str = "", *more: Listener) -> Table:
    """Return an interval: nginx is well, slow has a full queue and drops."""
    slow = listener(8080, comm="slow\x1b", pid=8, unit=None, accepts=1, backlog=129, drops=2)
    rows = [listener(80), slow, listener(22, comm=None, pid=None, unit=None, accepts=0), *more]
    return Table((seconds - 1) * SECOND, seconds * SECOND, 0, rows, note)


def shown(seconds: int = 1, **options: Any) -> Listening:
    """Return the picture after so many intervals."""
    picture = Listening("tcptrace top --listen", **options)
    for second in range(seconds):
        picture.update(table(second + 1))
    return picture


def lines(picture: Listening, width: int = 80, height: int = 24) -> list[str]:
    """Return the table as text."""
    return [text_of(line) for line in picture.table(width, height)]


def test_listeners_in_trouble_come_first() -> None:
    """At 80 columns there is all that tells whether a server is too slow."""
    head, *rows = lines(shown())
    assert ["PROCESS", "UNIT", "ADDRESS", "PORT", "ACC/s", "QUEUE", "LIMIT", "DROPS"] == (
        head.split()[:8]
    )
    assert ["slow\\x1b[8]", "-", "0.0.0.0", "8080", "1", "129", "128", "2"] == rows[0].split()[:8]
    assert ["nginx[7]", "nginx.service", "0.0.0.0", "80", "3", "0", "128", "0"] == (
        rows[1].split()[:8]
    )
    assert "-" == rows[2].split()[0]


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_the_table_fits(width: int, height: int) -> None:
    """Each line has the screen's width, and a wide one has the run and a graph."""
    picture = shown(3)
    assert {width} == {sum(len(cell.text) for cell in line) for line in picture.table(width, 9)}
    assert ("LAST" in lines(picture, width, height)[0]) is (width > 100)
    assert all(len(text_of(line)) <= width for line in picture.head(width))


def test_rows_are_sorted_and_found() -> None:
    """By texts and by figures, and by what is in their texts."""
    picture = shown()
    picture.sort_by("port")
    assert [22, 80, 8080] == picture.rows
    picture.sort_by("acc")
    assert [80, 8080, 22] == picture.rows
    picture.reverse()
    assert [22, 8080, 80] == picture.rows
    picture.filter_by("NGINX")
    assert [80] == picture.rows
    assert "filter: NGINX" in text_of(picture.head(80)[-1])
    assert [8080] == shown(most_rows=1).rows


def test_what_is_said_above() -> None:
    """Sums of all listeners, and why some are missing."""
    picture = shown(2)
    first, second = (text_of(line) for line in picture.head(120))
    assert "up 0:00:02  3 listeners  129 wait" in first
    assert ["ACC/s", "QUEUE", "DROP/s"] == [word for word in second.split() if word[0].isupper()]
    picture.update(table(3, "some listeners are missing: no"))
    assert "some listeners are missing" in text_of(picture.head(120)[-1])
    assert "waiting for the first interval" in text_of(Listening("top").head(80)[0])


def test_a_pause_is_said_before_the_first_interval() -> None:
    """Else a key would seem to have done nothing."""
    picture = Listening("top")
    picture.pause()
    assert "PAUSED" in text_of(picture.head(80)[0])


def test_a_paused_picture_stands_still() -> None:
    """It goes on with the next table."""
    picture = shown()
    picture.pause()
    picture.update(table(2, "", listener(443)))
    assert [8080, 80, 22] == picture.rows
    picture.pause()
    picture.update(table(3, "", listener(443)))
    assert 4 == len(picture.rows)


def test_a_listener_that_has_gone_says_so() -> None:
    """It may still be looked at."""
    picture = shown()
    picture.update(Table(SECOND, 2 * SECOND, 0, [], ""))
    (line,) = picture.behind(80, 80)
    assert picture.title_of(80) == text_of(line) == "it listens no more"
    assert [] == picture.rows


Steps = Callable[[Pilot[None], TopApp], Awaitable[None]]


def on_screen(steps: Steps) -> None:
    """Run an application, with a table, through steps."""

    async def run() -> None:
        app = TopApp(shown(), PLAIN)
        async with app.run_test(size=(80, 24)) as pilot:
            app.draw()
            await pilot.pause()
            await steps(pilot, app)

    asyncio.run(run())


def seen(app: TopApp) -> str:
    """Return what is on the screen."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def test_its_keys() -> None:
    """They sort by its own columns; those of traffic do nothing; help has its own."""

    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        for key, by in {"w": "queue", "d": "drops", "a": "acc", "P": "port", "c": "port"}.items():
            await pilot.press(key)
            assert by == app.picture.sorted_by
        await pilot.press("n", "question_mark")
        await pilot.pause()
        assert "by who waits" in seen(app)
        assert "bytes in" not in seen(app)

    on_screen(steps)


def test_into_a_listener() -> None:
    """Enter shows all that is known of it."""

    async def steps(pilot: Pilot[None], app: TopApp) -> None:
        await pilot.press("down", "enter")
        await pilot.pause()
        assert isinstance(app.screen, BehindRow)
        assert "queue              129 of 128" in seen(app)
        assert "DROP/s" in seen(app)

    on_screen(steps)
