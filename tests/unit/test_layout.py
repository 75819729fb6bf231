"""How rows stand on a terminal: golden rows at 80 and at 200 columns, and what holds at any."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Sequence

import pytest

from tcptrace.model.columns import Column, choose
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.probe import Probe
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sinks.color import PLAIN
from tcptrace.sinks.layout import Cell, Screen, Size, cell_len, terminal_size

LONG = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
LOGGED = {
    "time_s": "12.345",
    "uid": "1000",
    "pid": "181",
    "comm": "nginx",
    "ip": "4",
    "laddr": "192.0.2.1",
    "lport": "80",
    "raddr": "198.51.100.123",
    "rport": "40000",
    "bl": "1/128",
    "result": "established",
    "lat": "0.041",
    "retr": "0",
    "query": "www.example.org",
    "type": "X",
    "ms": "2034.120",
    "tx": "1048576",
    "rx": "512",
}
OVER_IPV6 = {**LOGGED, "ip": "6", "laddr": LONG, "raddr": LONG}
OPTIONS = {
    "accept": (ACCEPT, ()),
    "accept -t --backlog": (ACCEPT, ("time_s", "bl")),
    "connect -t -L -U": (CONNECT, ("time_s", "lport", "uid")),
    "connect -d": (CONNECT, ("query",)),
    "connect -d -t -L -U --outcome": (
        CONNECT,
        ("time_s", "uid", "lport", "result", "lat", "retr", "query"),
    ),
    "tracer -t --stats": (TRACER, ("time_s", "ms", "tx", "rx", "retr")),
}


def shown(probe: Probe, added: Iterable[str] = ()) -> list[Column]:
    """Return a command's columns with those that options add."""
    return choose(probe.columns, probe.extra_columns, "", added)


class Paper:
    """A terminal that keeps what is written, in cells of no colour."""

    def __init__(
        self, columns: Sequence[Column], width: int = 80, height: int = 24, *, wide: bool = False
    ) -> None:
        """Show `columns`; a header is due."""
        self.size = Size(width, height)
        self._columns = columns
        self._screen = Screen(columns, lambda: self.size, PLAIN, wide=wide)
        self._screen.begin()
        self.lines: list[str] = []

    def add(self, *events: dict[str, str]) -> list[str]:
        """Write a batch; return its lines."""
        rows = [[Cell(event[column.key]) for column in self._columns] for event in events]
        new = list(self._screen.lines(rows))
        self.lines += new
        return new


def below_their_headings(header: Sequence[str], row: Sequence[str], columns: int) -> bool:
    """Tell whether every cell of a row begins where a heading does."""
    found = 0
    for head, line in zip(header, row, strict=True):
        starts = [at for at in range(len(head)) if head[at] != " " and head[:at][-1:] in {"", " "}]
        found += len(starts)
        for start in starts:
            if line[start] == " " or line[:start][-1:] not in {"", " "}:
                return False
    return found <= columns


def blocks(lines: Sequence[str]) -> list[list[str]]:
    """Return each header and each row as its lines: all but the first are indented."""
    found: list[list[str]] = []
    for line in lines:
        if line[:1] == " ":
            found[-1].append(line)
        else:
            found.append([line])
    return found


def test_usual_rows_at_80() -> None:
    """The header has room for usual cells, and comes again where a cell has none."""
    paper = Paper(shown(ACCEPT))
    paper.add(LOGGED)
    paper.add({**LOGGED, "comm": "postgres: main"})
    assert [
        "PID     COMM         IP RADDR           RPORT LADDR           LPORT",
        "181     nginx        4  198.51.100.123  40000 192.0.2.1       80",
        "PID     COMM            IP RADDR           RPORT LADDR           LPORT",
        "181     postgres: main  4  198.51.100.123  40000 192.0.2.1       80",
    ] == paper.lines


def test_the_first_rows_have_one_header() -> None:
    """It waits for them, however wide they are, and does not come before and with them."""
    paper = Paper(shown(ACCEPT))
    paper.add({**LOGGED, "comm": "postgres: main"}, LOGGED)
    assert ["PID", "181", "181"] == [line[:3] for line in paper.lines]


def test_many_columns_at_80() -> None:
    """Columns shrink to what was seen."""
    paper = Paper(shown(*OPTIONS["accept -t --backlog"]))
    paper.add(LOGGED)
    assert [
        "TIME(s)  PID     COMM         IP RADDR           RPORT LADDR     LPORT BL",
        "12.345   181     nginx        4  198.51.100.123  40000 192.0.2.1 80    1/128",
    ] == paper.lines


def test_what_other_columns_tell_goes_first() -> None:
    """Where a column too many is shown, IP is left out, which the addresses tell."""
    event = {**LOGGED, "laddr": "192.100.200.101", "comm": "postgres: main", "pid": "4194303"}
    paper = Paper(shown(ACCEPT, ("time_s", "bl")))
    paper.add(event)
    assert [
        "TIME(s)  PID     COMM           RADDR          RPORT LADDR           LPORT BL",
        "12.345   4194303 postgres: main 198.51.100.123 40000 192.100.200.101 80    1/128",
    ] == paper.lines


def test_long_ipv6_at_80() -> None:
    """What does not fit on one line takes a second, below a header of two lines."""
    paper = Paper(shown(ACCEPT))
    paper.add(OVER_IPV6, LOGGED)
    assert [
        "PID     COMM         IP RADDR                                   RPORT",
        "    LADDR                                   LPORT",
        "181     nginx        6  2001:db8:ffff:ffff:ffff:ffff:ffff:ffff  40000",
        "    2001:db8:ffff:ffff:ffff:ffff:ffff:ffff  80",
        "181     nginx        4  198.51.100.123                          40000",
        "    192.0.2.1                               80",
    ] == paper.lines


def test_long_ipv6_at_200() -> None:
    """There is room for it; the header comes again, once, since columns move."""
    paper = Paper(shown(*OPTIONS["connect -t -L -U"]), 200)
    paper.add(LOGGED)
    paper.add(OVER_IPV6)
    paper.add(LOGGED)
    v4, v6 = "198.51.100.123".ljust(39), LONG.ljust(39)
    rest = "TIME(s)  UID   PID     COMM         IP"
    assert [
        f"{rest} SADDR           LPORT DADDR           DPORT",
        "12.345   1000  181     nginx        4  192.0.2.1       80    198.51.100.123  40000",
        f"{rest} {'SADDR':39} LPORT {'DADDR':39} DPORT",
        f"12.345   1000  181     nginx        6  {v6} 80    {v6} 40000",
        f"12.345   1000  181     nginx        4  {'192.0.2.1':39} 80    {v4} 40000",
    ] == paper.lines


BATCHES = (
    (LOGGED,),
    (OVER_IPV6,),
    (LOGGED, {**LOGGED, "pid": "4194303", "comm": "c" * 15}),
    (LOGGED, {**LOGGED, "laddr": "1.1.1.1"}, OVER_IPV6) * 12,
)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("batches", [BATCHES, BATCHES[::-1]])
@pytest.mark.parametrize("width", [24, 40, 80, 120, 200])
def test_cells_stand_below_their_headings(
    options: str, batches: Sequence[Sequence[dict[str, str]]], width: int
) -> None:
    """Whatever comes in whatever order, no cell is cut, and each begins where its heading does."""
    columns = shown(*OPTIONS[options])
    paper = Paper(columns, width)
    for batch in batches:
        paper.add(*batch)
    events = [event for batch in batches for event in batch]
    header: list[str] = []
    for block in blocks(paper.lines):
        if columns[0].heading in block[0].split():
            header = block
            continue
        event = events.pop(0)
        assert below_their_headings(header, block, len(columns))
        assert all(
            event[column.key] in " ".join(block) for column in columns if not column.is_spare
        )
        assert max(map(len, block)) <= max(width, len(LONG) + 4)
    assert not events


def test_one_line_with_wide() -> None:
    """--wide keeps all on one line, whatever the terminal's width."""
    paper = Paper(shown(*OPTIONS["connect -d -t -L -U --outcome"]), 80, wide=True)
    paper.add(LOGGED)
    header, row = paper.lines
    assert below_their_headings([header], [row], 13)
    assert row.endswith("established 0.041     0    www.example.org")


def test_the_header_comes_with_each_screenful() -> None:
    """A terminal of 24 lines shows a header above 22 rows; what it needed before is forgotten."""
    paper = Paper(shown(ACCEPT))
    paper.add(OVER_IPV6)
    narrow = paper.add(*[LOGGED] * 100)
    heads = [at for at, line in enumerate(narrow) if line.startswith("PID")]
    assert [23, 23] == [later - at for at, later in itertools.pairwise(heads)][-2:]
    assert "181     nginx        4  198.51.100.123  40000 192.0.2.1       80" == narrow[-1]


def test_the_header_comes_after_a_resize() -> None:
    """The next rows are laid out anew, below a header."""
    paper = Paper(shown(ACCEPT), 200)
    paper.add(OVER_IPV6)
    paper.size = Size(80, 24)
    assert 4 == len(paper.add(OVER_IPV6))
    paper.size = Size(100, 30)
    assert ["PID", "181"] == [line[:3] for line in paper.add(LOGGED)]
    assert 1 == len(paper.add(LOGGED))


def test_a_low_terminal_has_rows_too() -> None:
    """However low it is, five rows come between two headers."""
    paper = Paper(shown(ACCEPT), 80, 2)
    lines = paper.add(*[LOGGED] * 10)
    assert 2 == len([line for line in lines if "PID" in line])
    assert 12 == len(lines)


def test_wide_characters_take_two_cells() -> None:
    """Columns behind a name of wide or combining characters stay where they are."""
    paper = Paper(shown(ACCEPT))
    _, wide, combined = paper.add({**LOGGED, "comm": "名名名"}, {**LOGGED, "comm": "e\u0301"})
    assert 21 == cell_len(wide.partition("4 ")[0]) == cell_len(combined.partition("4 ")[0])


def test_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal is asked, a dumb one too; COLUMNS and LINES come first, 80 and 24 last."""
    assert sys.__stdout__
    told = os.terminal_size((132, 50))
    monkeypatch.setattr(os, "get_terminal_size", lambda _descriptor: told)
    assert Size(132, 50) == terminal_size(sys.__stdout__, {"TERM": "dumb"})
    assert Size(100, 50) == terminal_size(sys.__stdout__, {"COLUMNS": "100", "LINES": "x"})
    told = os.terminal_size((0, 0))
    assert Size(80, 24) == terminal_size(sys.__stdout__, {})


@pytest.mark.parametrize("text", ["1001", "99999999999", "9" * 5000, "-5", "0", "\u0663"])
def test_a_size_that_no_terminal_has(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A variable with nonsense is left aside, and what a terminal tells is bounded."""
    assert sys.__stdout__
    told = os.terminal_size((132, 65535))
    monkeypatch.setattr(os, "get_terminal_size", lambda _descriptor: told)
    given = {"COLUMNS": text, "LINES": text}
    assert Size(132, 1000) == terminal_size(sys.__stdout__, given)
