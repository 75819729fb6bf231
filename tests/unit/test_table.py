"""Tables whose rows are all known: aligned as a whole, in a pipe and on a terminal."""

from __future__ import annotations

import io
import re
import time

import pytest

from tcptrace.model.columns import Column
from tcptrace.model.events import NewTable
from tcptrace.probes.connect.columns import COUNT_TABLE
from tcptrace.probes.connect.counts import Count
from tcptrace.sinks.choose import make_sink
from tcptrace.sinks.color import PLAIN
from tcptrace.sinks.layout import Cell
from tcptrace.sinks.table import CLEAR, fitting, write_plain, write_rich

LONG = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


def count(connects: int, raddr: str = "10.1.0.5") -> Count:
    """Return the count of a destination."""
    ends = {"laddr": None, "lport": None, "raddr": raddr, "rport": 443}
    return Count(ts_ns=0, family=4, connects=connects, **ends)  # type: ignore[arg-type]


def written(
    form: str, stream: io.StringIO, *tables: tuple[Count, ...], wall_ns: int | None = None
) -> str:
    """Return what is written of tables of counts, each made at `wall_ns`."""
    shown = (
        [*COUNT_TABLE.extra_columns[:1], *COUNT_TABLE.columns]
        if form == "csv"
        else COUNT_TABLE.columns
    )
    sink = make_sink(form, shown, stream, tables=True)
    for rows in tables:
        sink.write([NewTable(wall_ns), *rows])
    sink.flush()
    return stream.getvalue()


def test_a_table_in_a_pipe() -> None:
    """Columns are as wide as their widest cell; numbers stand to the right."""
    assert """\
LADDR RADDR                                  RPORT CONNECTS
-     2001:db8:ffff:ffff:ffff:ffff:ffff:ffff   443     1204
-     10.1.0.5                                 443        3
""" == written("text", io.StringIO(), (count(1204, LONG), count(3)))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a terminal without colour, 80 columns wide."""
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def test_a_table_on_a_terminal(terminal: Terminal) -> None:
    """It is rich's, with a line below its headings, and no colour that was not wanted."""
    lines = written("text", terminal, (count(1204, LONG), count(3))).splitlines()
    assert ["LADDR", "RADDR", "RPORT", "CONNECTS"] == lines[0].split()
    assert "──" in lines[1]
    assert ["-", LONG, "443", "1204"] == lines[2].split()
    assert lines[2].index("443") == lines[3].index("443")
    assert "\x1b" not in "".join(lines)


@pytest.mark.parametrize("width", [30, 60])
def test_a_narrow_terminal_folds(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Nothing is cut where there is no room for a cell."""
    monkeypatch.setenv("COLUMNS", str(width))
    write_rich(["RADDR", "SADDR"], [[Cell(LONG), Cell(LONG)]], terminal, PLAIN)
    lines = terminal.getvalue().splitlines()[2:]
    assert max(map(len, lines)) <= width
    for part in LONG.split(":")[:2]:
        assert "…" not in terminal.getvalue()
        assert terminal.getvalue().count(part) == 2


def test_an_encoding_without_lines_has_plain_tables() -> None:
    """Where LANG is of ISO 8859-1, no line is drawn of what it has not."""

    class Latin(io.TextIOWrapper):
        def isatty(self) -> bool:
            return True

    stream = Latin(io.BytesIO(), encoding="latin-1")
    sink = make_sink("text", COUNT_TABLE.columns, stream, tables=True, color="never")
    sink.write([NewTable(), count(1)])
    sink.flush()
    stream.seek(0)
    assert ["LADDR", "-"] == [line.split()[0] for line in stream.read().splitlines()]


def spare(key: str, width: int) -> Column:
    """Return a column that can be spared, so wide."""
    return Column(key, key.upper().ljust(width, "-"), 0, lambda *_: "1", is_spare=True)


def test_a_narrow_terminal_leaves_out_what_can_be_spared() -> None:
    """Columns go from the right, no more than it takes; what cannot be spared stays."""
    name = Column("name", "NAME", 0, lambda *_: "")
    columns = [name, spare("a", 10), name, spare("b", 5), spare("c", 10)]
    rows = [[Cell("x" * 8), *[Cell("1")] * 4]]
    every, without_c, without_a, least = [0, 1, 2, 3, 4], [0, 1, 2, 3], [0, 1, 2], [0, 2]
    assert [every, without_c, without_c, without_a, least, least] == [
        fitting(columns, rows, width) for width in (41, 40, 30, 29, 23, 3)
    ]


def test_headings_and_numbers_are_folded_last(terminal: Terminal) -> None:
    """Where there is too little room, texts take two lines."""
    rows = [[Cell("x" * 90), Cell("12345678"), Cell("-")]]
    write_rich(["NAME", "NUMBER", "LATENCY(ms)"], rows, terminal, PLAIN)
    lines = terminal.getvalue().splitlines()
    assert ["NAME", "NUMBER", "LATENCY(ms)"] == lines[0].split()
    assert ["12345678", "-"] == lines[2].split()[1:]


def test_one_line_with_wide(terminal: Terminal) -> None:
    """--wide keeps all of a row on one line, which the terminal may fold."""
    columns = [spare("a", 60), spare("b", 60)]
    sink = make_sink("text", columns, terminal, tables=True, wide=True)
    sink.write([NewTable(), count(1)])
    sink.flush()
    assert 2 == len(terminal.getvalue().splitlines())
    assert "B----" in terminal.getvalue()


def test_hostile_cells_are_shown_as_they_are(terminal: Terminal) -> None:
    """Markup, emoji codes and brackets are text."""
    write_rich(["NAME"], [[Cell("[red]x[/red] :smile:")]], terminal, PLAIN)
    assert "[red]x[/red] :smile:" in terminal.getvalue()


def test_each_table_begins_with_its_time() -> None:
    """In a pipe the tables that an interval makes follow each other, each below its time."""
    now = time.strftime("%H:%M:%S", time.localtime(5))
    lines = written("text", io.StringIO(), (count(1),), (count(2),), wall_ns=5 * 10**9).splitlines()
    assert [now, now] == [lines[0], lines[3]]
    assert ["1", "2"] == [lines[2].split()[-1], lines[5].split()[-1]]


def test_csv_has_one_header() -> None:
    """A column tells the time of each of an interval's tables."""
    lines = written("csv", io.StringIO(newline=""), (count(1),), (count(2),)).splitlines()
    assert "time,laddr,raddr,rport,connects" == lines[0]
    assert 3 == len(lines)


def test_a_terminal_shows_the_last_table(terminal: Terminal) -> None:
    """Before each table but the first the screen is cleared."""
    text = written("text", terminal, (count(1),), (count(2),))
    assert 1 == text.count(CLEAR)
    assert text.rstrip().endswith("2")


def test_an_empty_table_has_its_header() -> None:
    """A table without rows is no silence."""
    stream = io.StringIO()
    write_plain(["A", "B"], [], stream, PLAIN)
    assert "A B\n" == stream.getvalue()
