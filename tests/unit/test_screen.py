"""The screen of `tcptrace top`: its lines, and its keys through textual's Pilot."""

from __future__ import annotations

import asyncio
import io
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.unit.test_top import (
    HOST,
    PEER,
    SECOND,
    accepted,
    closed,
    connected,
    failed,
    listed,
    opened,
    sample,
)

from tcptrace.errors import TcptraceError
from tcptrace.shell.say import say
from tcptrace.sinks.color import PLAIN, SGR_8, Palette
from tcptrace.sinks.layout import MOST_CELLS, cell_len
from tcptrace.sinks.screen.grid import Grid
from tcptrace.sinks.screen.picture import Picture
from tcptrace.sinks.screen.text import duration, fitted, graph, number, text_of
from tcptrace.top import keys
from tcptrace.top.aggregator import Aggregator
from tcptrace.top.frame import Frame

textual = pytest.importorskip("textual", reason="`./setup.sh test` brings it")

from textual.pilot import Pilot  # noqa: E402 - it may not be there

from tcptrace.sinks.screen.app import TopApp  # noqa: E402
from tcptrace.sinks.screen.driver import ScreenDriver  # noqa: E402
from tcptrace.sinks.screen.sink import ScreenSink  # noqa: E402
from tcptrace.sinks.screen.views import BehindRow, Help  # noqa: E402

SIZES = [(80, 24), (200, 60), (40, 8)]
BY = keys.parse("program,name,port")


class World:
    """Traffic of three programs, an interval at a time."""

    def __init__(self) -> None:
        """Begin."""
        self.aggregator = Aggregator(BY, 0)
        self.seconds = 0

    def frame(self, note: str = "") -> Frame:
        """Return what a second brings.

        curl connects three times to example.org and has a connection; psql is refused twice by
        db.internal; nginx accepts one connection, and curl's first is sampled.
        """
        begin_ns, take = self.seconds * SECOND, self.aggregator.take
        self.seconds += 1
        for port in (1, 2, 3 if begin_ns else 1000):
            take(connected(ts_ns=begin_ns, lport=port), "example.org")
            if port != 1000:
                take(closed(500, 50, lport=port))
        for _ in range(2):
            take(failed(ts_ns=begin_ns, pid=5, comm="psql", rport=5432), "db.internal")
        take(accepted(ts_ns=begin_ns, rport=2000 + self.seconds))
        now = listed(1024 * 100 * self.seconds, 0, lport=1000)
        self.aggregator.sample(sample(now, at_s=self.seconds))
        interval = self.aggregator.end(self.seconds * SECOND)
        wall_ns = 1_764_482_000 * SECOND + interval.end_ns
        return Frame(interval, wall_ns, self.aggregator.connections, note)


def picture(frames: int = 1, **options: object) -> Picture:
    """Return a picture that has had some frames."""
    world = World()
    shown = Picture(BY, "tcptrace top", **options)  # type: ignore[arg-type]
    for _ in range(frames):
        shown.update(world.frame())
    return shown


def rows(shown: Grid[Any], width: int = 80, height: int = 24) -> list[str]:
    """Return the rows of the table as text, without the header."""
    return [text_of(line) for line in shown.table(width, height)[1:]]


def programs(shown: Grid[Any]) -> list[str]:
    """Return the programs of the rows, in order."""
    return [row.split()[0] for row in rows(shown)]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "rate", "-"),
        (0, "bytes", "0"),
        (0.5, "rate", "0.5"),
        (3.0, "rate", "3"),
        (31.4, "rate", "31"),
        (99_999, "count", "99999"),
        (123_456, "count", "123k"),
        (1_234_567, "count", "1.2M"),
        (1023, "bytes", "1023B"),
        (1536, "bytes", "1.5K"),
        (52_428_800, "bytes", "50M"),
        (2**62, "bytes", "4096P"),
        (0.523, "ms", "0.52"),
        (12.34, "ms", "12.3"),
        (1234.5, "ms", "1234"),
        (127_000, "ms", "127s"),
    ],
)
def test_numbers_have_five_cells(value: float | None, unit: str, text: str) -> None:
    """A figure is short, with a suffix where it is large."""
    assert text == number(value, unit)  # type: ignore[arg-type]
    assert len(text) <= 5


def test_texts() -> None:
    """Texts are cut with an ellipsis, by the cells that they take; times look like times."""
    assert ["abc ", "ab…", "", "日… "] == [
        fitted("abc", 4),
        fitted("abcd", 3),
        fitted("abc", 0),
        fitted("日本語", 4),
    ]
    assert ["0:00:05", "1:02:03", "100:00:00"] == [duration(s) for s in (5, 3723, 360_000)]


def test_graphs() -> None:
    """The largest value has the full height; nothing has no bar."""
    assert "▂▅█ " == graph([9, 1, 4.5, 8, 0], 4)
    assert ["    ", "   █", ""] == [graph([], 4), graph([0.1], 4), graph([1], 0)]


@pytest.mark.parametrize("size", SIZES)
def test_every_line_fits(size: tuple[int, int]) -> None:
    """Whatever the size, no line is wider, and the table no higher."""
    width, height = size
    shown = picture(3)
    shown.filter_by("e")
    table = shown.table(width, height)
    assert len(table) <= height
    behind = shown.behind(shown.rows[0], width)
    for line in (*shown.head(width), *table, *behind):
        assert sum(cell_len(cell.text) for cell in line) <= width


def test_the_table_at_80_columns() -> None:
    """The busiest come first; failures are red, zeros are dim."""
    shown = picture(2)
    header, *lines = shown.table(80, 24)
    assert text_of(header).split() == [
        *("PROGRAM", "NAME", "PORT", "CONN/s", "ACC/s"),
        *("FAIL", "OPEN", "RX/s", "TX/s", "LAT", "RTT"),
    ]
    assert [
        ["curl", "example.org", "443", "3", "0", "0", "1", "150B", "101K", "2.00", "0.50"],
        ["psql", "db.internal", "5432", "2", "0", "2", "0", "0", "0", "-", "-"],
        ["nginx", HOST, "80", "0", "1", "0", "2", "0", "0", "-", "-"],
    ] == [text_of(line).split() for line in lines]
    looks = {cell.text.strip(): cell.look for cell in lines[1]}
    assert ("bold", "failure", "dim") == (looks["psql"], [*lines[1]][10].look, looks["0"])


@pytest.mark.parametrize("only_failed", [True, False])
def test_a_narrow_screen_tells_why_where_failures_are_asked_for(only_failed: bool) -> None:  # noqa: FBT001
    """With --failed, and when rows are sorted by failures, WHY comes before latencies."""
    shown = picture(2, only_failed=only_failed)
    if not only_failed:
        assert "WHY" not in text_of(shown.table(80, 24)[0])
        shown.sort_by("fail")
    assert "WHY" in text_of(shown.table(80, 24)[0])
    assert rows(shown)[0].split()[:6] == ["psql", "db.internal", "5432", "2", "0", "2"]
    assert "refused" in rows(shown)[0]


def test_a_wide_screen_shows_all() -> None:
    """There is room for why attempts fail, for the whole run, and for a graph."""
    shown = picture(3)
    header, *lines = (text_of(line) for line in shown.table(200, 24))
    assert ["WHY", "P95", "RETR", "CONNS", "FAILS", "LAST"] == [
        word for word in header.split() if word in ("WHY", "P95", "RETR", "CONNS", "FAILS", "LAST")
    ]
    assert "refused" in lines[1]
    assert lines[0].split()[-1] == "███"


def test_the_head() -> None:
    """It says what holds for all, and what is not as usual."""
    shown = Picture(BY, "tcptrace top")
    assert "waiting" in text_of(shown.head(80)[0])
    world = World()
    shown.update(world.frame())
    shown.update(world.frame("sockets are listed in each 3rd interval"))
    first, graphs, state = (text_of(line) for line in shown.head(120))
    assert "up 0:00:02  3 open  3 rows" in first
    assert ["CONN/s", "5", "ACC/s", "1", "FAIL/s", "2"] == [
        word for word in graphs.split() if "█" not in word
    ][:6]
    assert "sockets are listed in each 3rd interval" == state
    shown.pause()
    shown.filter_by("c")
    assert "PAUSED  filter: c  sockets" in text_of(shown.head(120)[2])


def test_what_fell_out_is_said() -> None:
    """Rows and connections that were too many are counted in the head."""
    aggregator = Aggregator(BY, 0, most_rows=2, most_connections=1)
    for port in range(1, 5):
        aggregator.take(connected(rport=port))
    shown = Picture(BY, "top")
    shown.update(Frame(aggregator.end(SECOND), 0, aggregator.connections))
    assert "2 fell out  3 not tracked" in text_of(shown.head(120)[0])


def test_sorting() -> None:
    """By any column, either way; what is not known comes last; the next interval is sorted, too."""
    world = World()
    shown = Picture(BY, "top")
    shown.update(world.frame())
    assert ["curl", "psql", "nginx"] == programs(shown)
    shown.sort_by("fail")
    assert "psql" == programs(shown)[0]
    shown.sort_by("acc")
    assert "nginx" == programs(shown)[0]
    shown.sort_by("acc")
    assert "nginx" == programs(shown)[-1]
    shown.update(world.frame())
    assert "nginx" == programs(shown)[-1]
    shown.sort_by("port")
    assert ["nginx", "curl", "psql"] == programs(shown)
    shown.reverse()
    assert ["psql", "curl", "nginx"] == programs(shown)
    shown.sort_by("program")
    assert ["curl", "nginx", "psql"] == programs(shown)
    shown.sort_beside(1, 80)
    assert "name" == shown.sorted_by
    shown.sort_beside(-1, 80)
    shown.sort_beside(-1, 80)
    assert ("", False) == (shown.sorted_by, shown.is_reversed)
    shown.sort_beside(-1, 80)
    assert "rtt" == shown.sorted_by


def test_the_sorted_column_is_marked() -> None:
    """By its look, and by an arrow where there is room."""
    shown = picture()
    shown.sort_by("fail")
    marked = [cell.text for cell in shown.table(80, 24)[0] if cell.look == "sorted"]
    assert ["FAIL▼"] == marked
    assert ("fail", "program", None) == (
        shown.column_at(sum(len(c.text) for c in shown.table(80, 24)[0][:10]), 80),
        shown.column_at(0, 80),
        shown.column_at(1000, 80),
    )


def test_filtering() -> None:
    """A part of the key is enough, in either case."""
    shown = picture()
    shown.filter_by("EXAMPLE")
    assert ["curl"] == programs(shown)
    shown.filter_by("5432")
    assert ["psql"] == programs(shown)
    shown.filter_by("")
    assert 3 == len(rows(shown))


def test_rows_with_failures_only() -> None:
    """Others are not shown."""
    assert ["psql"] == programs(picture(only_failed=True))
    assert ["curl", "psql"] == programs(picture(most_rows=2))


def test_a_paused_picture_stands_still() -> None:
    """Its graphs go on."""
    world = World()
    shown = Picture(BY, "top")
    shown.update(world.frame())
    before = rows(shown, 80)
    assert " 2 open " in text_of(shown.head(80)[0])
    shown.pause()
    shown.update(world.frame())
    assert before == rows(shown, 80)
    assert " 2 open " in text_of(shown.head(80)[0])
    shown.pause()
    shown.update(world.frame())
    assert before != rows(shown, 80)
    assert 3 == text_of(shown.head(200)[1]).split()[2].count("█")


def test_moving() -> None:
    """The selected row stays selected while rows come and go, and in the window."""
    aggregator = Aggregator(BY, 0)
    for port in range(1, 101):
        aggregator.take(connected(rport=port))
    top = Picture(BY, "top")
    top.update(Frame(aggregator.end(SECOND), 0, aggregator.connections))
    top.move(1)
    assert top.rows[0] is top.selected
    top.move(50)
    shown = [line for line in top.table(80, 11) if line[0].look == "selected"]
    assert ["51"] == [text_of(line).split()[2] for line in shown]
    assert 11 == len(top.table(80, 11))
    top.move(1000)
    assert top.rows[-1] is top.selected
    assert 11 == len(top.table(80, 11))
    top.select_at(0)
    assert top.rows[90] is top.selected
    top.filter_by("nothing")
    top.move(1)
    assert top.selected is None


def test_behind_a_row() -> None:
    """Graphs, all figures, processes, connections and failures."""
    shown = picture(2)
    shown.sort_by("program")
    curl, nginx, psql = shown.rows
    assert "curl  example.org  443" == shown.title_of(curl)
    lines = [text_of(line) for line in shown.behind(curl, 120)]
    assert "OPEN 1  LAT 2.00  P95 2.00  RTT 0.50  RETR 0" in lines
    assert "since the start: CONNS 6  ACCS 0  FAILS 0  RX 250B  TX 202K" in lines
    assert "…" not in "".join(text_of(line) for line in shown.behind(curl, 80))
    assert "  curl[181]  1" in lines
    assert f"  {HOST}:1000  {PEER}:443  curl[181]  0:00:02  0   200K  0.50  0" in lines
    assert "Open connections: 1" in lines
    failures = [text_of(line) for line in shown.behind(psql, 120)]
    assert 4 == failures.count(f"  0:00:01  refused  {PEER}:5432  db.internal  psql[5]") + sum(
        f"refused  {PEER}:5432  db.internal  psql[5]" in line and "0:00:02" in line
        for line in failures
    )
    assert "Open connections: 2" in [text_of(line) for line in shown.behind(nginx, 120)]


def test_older_connections_have_no_age() -> None:
    """What was open at the start is said to be older."""
    aggregator = Aggregator(BY, 0)
    aggregator.take(opened())
    shown = Picture(BY, "top")
    shown.update(Frame(aggregator.end(SECOND), 0, aggregator.connections))
    (line,) = (
        text for text in map(text_of, shown.behind(shown.rows[0], 120)) if f"{HOST}:40000" in text
    )
    assert ["older", "-", "-", "-", "-"] == line.split()[3:]


def test_a_terminal_is_sent_no_control_characters() -> None:
    """What a process calls itself is printed, not obeyed."""
    aggregator = Aggregator(BY, 0)
    aggregator.take(connected(comm="\x1b[2J"), "a\x1bb")
    aggregator.take(failed(comm="\x1b[2J"), "a\x1bb")
    shown = Picture(BY, "top")
    shown.update(Frame(aggregator.end(SECOND), 0, aggregator.connections))
    lines = [*shown.table(80, 24), *shown.behind(shown.rows[0], 80)]
    assert "\x1b" not in shown.title_of(shown.rows[0]) + "".join(map(text_of, lines))


Steps = Callable[[Pilot[None], TopApp, World], Awaitable[None]]


def on_screen(steps: Steps, size: tuple[int, int] = (80, 24), palette: Palette = PLAIN) -> TopApp:
    """Run an application, with a frame, through steps; return it."""

    async def run() -> TopApp:
        world = World()
        app = TopApp(Picture(BY, "tcptrace top"), palette)
        async with app.run_test(size=size) as pilot:
            app.show(world.frame())
            await pilot.pause()
            await steps(pilot, app, world)
            await pilot.pause()
        return app

    return asyncio.run(run())


def seen(app: TopApp) -> str:
    """Return what is on the screen."""
    return "\n".join(strip.text for strip in app.screen._compositor.render_strips())


def test_the_screen_shows_frames() -> None:
    """Head, table and keys, at both sizes; another frame is shown when it comes."""

    async def steps(pilot: Pilot[None], app: TopApp, world: World) -> None:
        for size in SIZES:
            await pilot.resize_terminal(*size)
            await pilot.pause()
            text = seen(app)
            assert size == (len(text.splitlines()[0]), len(text.splitlines()))
            assert "curl" in text
        await pilot.resize_terminal(80, 24)
        app.show(world.frame())
        await pilot.pause()
        assert "up 0:00:02" in seen(app)
        assert "qQuit" in seen(app)

    on_screen(steps)


def test_keys_sort_and_pause() -> None:
    """As htop and top have them."""

    async def steps(pilot: Pilot[None], app: TopApp, world: World) -> None:
        for key, by in {"f": "fail", "a": "acc", "greater_than_sign": "fail", "n": ""}.items():
            await pilot.press(key)
            assert by == app.picture.sorted_by
        await pilot.press("R")
        assert app.picture.is_reversed
        await pilot.press("space")
        await pilot.pause()
        assert "PAUSED" in seen(app)
        await pilot.press("Z")
        await pilot.pause()
        assert "PAUSED" not in seen(app)

    on_screen(steps)


def test_a_narrow_screen_has_the_whole_run_at_a_key() -> None:
    """It has no room for both; the key is top's for sums of time."""

    async def steps(pilot: Pilot[None], app: TopApp, _world: World) -> None:
        assert "CONNS" not in seen(app)
        await pilot.press("S")
        await pilot.pause()
        head = next(line for line in seen(app).splitlines() if line.startswith("PROGRAM"))
        assert ["CONNS", "ACCS", "FAILS", "RX", "TX"] == [
            word for word in head.split() if word in {"CONNS", "ACCS", "FAILS", "RX", "TX"}
        ]
        await pilot.press("S")
        await pilot.pause()
        assert "CONNS" not in seen(app)

    on_screen(steps)


def test_a_filter_is_typed() -> None:
    """Rows are filtered with each key; Enter keeps the filter, Escape drops it."""

    async def steps(pilot: Pilot[None], app: TopApp, _world: World) -> None:
        await pilot.press("slash", *"psq")
        await pilot.pause()
        assert (["psql"], "psq") == (programs(app.picture), app.picture.needle)
        await pilot.press("enter", "q")
        assert "psq" == app.picture.needle
        assert not app.is_running

    on_screen(steps)

    async def dropped(pilot: Pilot[None], app: TopApp, _world: World) -> None:
        await pilot.press("slash", "q", "escape")
        await pilot.pause()
        assert (3, "") == (len(rows(app.picture)), app.picture.needle)
        assert app.table.has_focus

    on_screen(dropped)


def test_into_a_row_and_back() -> None:
    """Enter shows what is behind a row, also as it changes; Escape goes back."""

    async def steps(pilot: Pilot[None], app: TopApp, world: World) -> None:
        await pilot.press("down", "down", "enter")
        await pilot.pause()
        assert isinstance(app.screen, BehindRow)
        assert "psql  db.internal  5432" in seen(app)
        app.show(world.frame())
        await pilot.pause()
        assert "FAILS 4" in seen(app)
        await pilot.press("escape")
        await pilot.pause()
        assert "PROGRAM" in seen(app)
        await pilot.press("enter")
        await pilot.press("q")
        assert not app.is_running

    on_screen(steps)


def test_help() -> None:
    """A question mark lists the keys; any key goes back, and does nothing else."""

    async def steps(pilot: Pilot[None], app: TopApp, _world: World) -> None:
        await pilot.press("question_mark")
        await pilot.pause()
        assert isinstance(app.screen, Help)
        assert "the last picture stays" in seen(app)
        await pilot.press("q")
        await pilot.pause()
        assert "PROGRAM" in seen(app)

    on_screen(steps)


def test_the_mouse() -> None:
    """A click on a heading sorts, one on a row selects it, two go into it."""

    async def steps(pilot: Pilot[None], app: TopApp, _world: World) -> None:
        await pilot.click("Table", offset=(1, 0))
        assert "program" == app.picture.sorted_by
        await pilot.click("Table", offset=(5, 2))
        assert app.picture.rows[1] is app.picture.selected
        await pilot.click("Table", offset=(5, 3), times=2)
        await pilot.pause()
        assert isinstance(app.screen, BehindRow)

    on_screen(steps)


def test_what_is_said_is_in_the_foot() -> None:
    """What goes to standard error meanwhile does not spoil the screen."""

    async def steps(pilot: Pilot[None], app: TopApp, _world: World) -> None:
        say("3 events were lost")
        await pilot.pause()
        assert "tcptrace: 3 events were lost" in seen(app)

    on_screen(steps)


def shown_by_sink(palette: Palette, *, frames: int = 1, quits: bool = False) -> tuple[str, bool]:
    """Return what a sink leaves behind, and whether the user had ended it."""
    stream, world = io.StringIO(), World()
    shown = Picture(BY, "tcptrace top")
    sink = ScreenSink(shown, stream, palette, headless=True, size=(80, 24))
    sink.open(None)
    for _ in range(frames):
        sink.write([world.frame()])
        sink.flush()
    assert not sink.is_closed()
    if quits:
        for _ in range(1000):
            if sink.is_closed():
                break
            sink._app.call_later(sink._app.exit)
            sink.flush()
    was_closed = sink.is_closed()
    sink.close(None)
    return stream.getvalue(), was_closed


def test_the_last_picture_stays() -> None:
    """When it ends, the screen's lines are written where they can be scrolled to."""
    text, was_closed = shown_by_sink(PLAIN, frames=3)
    assert not was_closed
    assert "up 0:00:03" in text.splitlines()[0]
    assert ["PROGRAM", "curl", "psql", "nginx"] == [
        line.split()[0] for line in text.splitlines()[2:]
    ]
    assert "\x1b[1;31m" in shown_by_sink(Palette(SGR_8))[0]
    assert ("", False) == shown_by_sink(PLAIN, frames=0)


def test_it_is_there_before_the_first_interval_is_over() -> None:
    """Keys do something, also where an interval is long; nothing is left if there was none."""
    stream = io.StringIO()
    sink = ScreenSink(Picture(BY, "top"), stream, PLAIN, headless=True, size=(80, 24))
    sink.open(None)
    sink.flush()
    assert sink._task is None  # there may be forks to come
    sink.prepare()
    while not (sink._app.is_running and "waiting for the first" in seen(sink._app)):
        sink.flush()
    sink._app.call_later(sink._app.exit)
    while not sink.is_closed():
        sink.flush()
    sink.close(None)
    assert "" == stream.getvalue()


def test_textual_is_imported_when_the_screen_begins() -> None:
    """What is forked before does not have it."""
    script = """
import io, sys
from tcptrace.sinks.color import PLAIN
from tcptrace.sinks.screen.listening import Listening
from tcptrace.sinks.screen.sink import ScreenSink
sink = ScreenSink(Listening("top"), io.StringIO(), PLAIN)
sink.open(None)
assert "textual" not in sys.modules and "rich" not in sys.modules
sink.prepare()
assert "textual" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_screen_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not taken for the user's end."""
    shown = Picture(BY, "tcptrace top")
    sink = ScreenSink(shown, io.StringIO(), PLAIN, headless=True, size=(80, 24))

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(shown, "table", fail)
    sink.write([World().frame()])
    with pytest.raises(TcptraceError, match="the screen has failed"):
        all(sink.flush() for _ in range(1000))
    sink.close(None)


def test_a_terminal_is_not_believed_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A screen of millions of cells would take all of memory, and minutes."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "99999999999")
    monkeypatch.setenv("LINES", "50")

    async def sizes() -> tuple[Any, Any]:
        app = TopApp(Picture(BY, "tcptrace top"), PLAIN)
        app._driver = ScreenDriver(app)
        return tuple(app.size), app._driver._get_terminal_size()

    begun, resized = asyncio.run(sizes())
    assert begun == resized
    assert begun[0] <= MOST_CELLS
    assert begun[1] == 50


def test_the_user_ends_it() -> None:
    """The sink is closed then, as if its reader had gone."""
    text, was_closed = shown_by_sink(PLAIN, quits=True)
    assert was_closed
    assert "curl" in text
