"""The sinks: text, terminal, JSON Lines and CSV, without any tracing."""

from __future__ import annotations

import csv
import io
import json
import re
import time

import pytest
from tests.unit.records import ABSENT, accept_bytes, accepted

from tcptrace.model import columns
from tcptrace.model.columns import Column
from tcptrace.model.events import NewTable
from tcptrace.model.meta import Meta
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.sinks.choose import make_sink
from tcptrace.sinks.layout import cell_len
from tcptrace.sinks.report import Line, write_report

HOSTILE = b"\x1b]0;own\x07\n\xff"
ESCAPED = r"\x1b]0;own\x07\n\xff"
LONG = "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"
META = Meta("accept", "tracepoint", "host", "boot", "6.1", 0)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Return a colour terminal, 80 columns wide unless COLUMNS is set again."""
    for name in ("NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)
    known = {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "COLORTERM": ""}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    return Terminal()


def rendered(
    form: str,
    *records: bytes,
    shown: str = "",
    stream: io.StringIO | None = None,
    color: str = "auto",
) -> str:
    """Return what a sink writes for accepts in `records`."""
    stream = stream or io.StringIO(newline="")
    chosen = columns.choose(ACCEPT.columns, ACCEPT.extra_columns, shown, ())
    sink = make_sink(form, chosen, stream, color=color)
    sink.open(META)
    sink.write([NewTable(), *map(accepted, records)])
    sink.flush()
    return stream.getvalue()


def test_text_is_bcc_s_columns() -> None:
    """Header and rows are those of bcc's tcpaccept, so that awk scripts go on working."""
    expected = """\
PID     COMM         IP RADDR            RPORT LADDR            LPORT
181     nginx        4  192.0.2.2        40000 192.0.2.1        80
181     nginx        6  2001:db8:ffff:ffff:ffff:ffff:ffff:ffff 40000 2001:db8::1      80
"""
    assert expected == rendered(
        "text", accept_bytes(), accept_bytes(laddr="2001:db8::1", raddr=LONG)
    )


def test_text_with_times_has_them_in_front() -> None:
    """TIME is the wall clock as the row has it, TIME(s) counts from the first event."""
    first, second = accept_bytes(ts_ns=1_000_000_000), accept_bytes(ts_ns=2_234_567_890)
    lines = rendered("text", first, second, shown="+time,+time_s,-raddr,-laddr").splitlines()
    wall = [time.strftime("%H:%M:%S", time.localtime(second)) for second in (101, 102)]
    assert ["TIME", "TIME(s)", "PID", "COMM", "IP", "RPORT", "LPORT"] == lines[0].split()
    assert [wall[0], "0.000", "181"] == lines[1].split()[:3]
    assert [wall[1], "1.235", "181"] == lines[2].split()[:3]


def test_text_shows_the_backlog() -> None:
    """BL is current/maximum, or a dash where it is not known."""
    records = [accept_bytes(), accept_bytes(backlog=ABSENT, backlog_max=ABSENT)]
    assert ["BL", "2/128", "-"] == rendered("text", *records, shown="bl").split()


def test_nothing_is_a_dash_in_text_and_empty_in_csv() -> None:
    """What is not known never looks like a value."""
    record = accept_bytes(pid=0, raddr="0.0.0.0", rport=0)
    shown = "pid,comm,raddr,rport,uid"
    assert ["-"] * 5 == rendered("text", record, shown=shown).splitlines()[1].split()
    assert ",,,," == rendered("csv", record, shown=shown).splitlines()[1]


def test_csv_is_rfc_4180() -> None:
    """Keys as header, CRLF, and quotes where a field needs them."""
    text = rendered("csv", accept_bytes(comm=b'a,"b"'), shown="pid,comm,lport")
    assert 'pid,comm,lport\r\n181,"a,""b""",80\r\n' == text
    assert ["181", 'a,"b"', "80"] == list(csv.reader(io.StringIO(text)))[1]


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-bash", "@SUM(A1)", "＝1"])  # noqa: RUF001
def test_a_formula_is_data_in_csv(name: str) -> None:
    """A process's name that a spreadsheet would compute is text there; others stay as they are."""
    text = rendered("csv", accept_bytes(comm=name.encode()), shown="comm,lport")
    assert [f"'{name}", "80"] == list(csv.reader(io.StringIO(text)))[1]
    assert name in rendered("text", accept_bytes(comm=name.encode()), shown="comm")
    text = rendered("csv", accept_bytes(comm=b"a=b"), shown="comm")
    assert ["a=b"] == list(csv.reader(io.StringIO(text)))[1]


def test_json_is_one_object_a_line() -> None:
    """Each line is an object; columns do not matter."""
    lines = rendered("json", accept_bytes(), accept_bytes(pid=7), shown="comm").splitlines()
    assert [181, 7] == [json.loads(line)["pid"] for line in lines]
    assert "tracepoint" == json.loads(lines[0])["backend"]


@pytest.mark.parametrize("form", ["text", "csv"])
def test_control_characters_are_escaped(form: str) -> None:
    """A hostile COMM stays one cell of one line."""
    assert ["COMM", ESCAPED] == [
        line.upper() if at == 0 else line
        for at, line in enumerate(rendered(form, accept_bytes(comm=HOSTILE), shown="comm").split())
    ]


def test_json_escapes_control_characters() -> None:
    """The line has no control character; the value has the name as it is."""
    (line,) = rendered("json", accept_bytes(comm=HOSTILE)).splitlines()
    assert line.isprintable()
    assert "\x1b]0;own\x07\n\\xff" == json.loads(line)["comm"]


def test_a_terminal_escapes_control_characters(terminal: Terminal) -> None:
    """Only colours, which are ours, reach the terminal."""
    text = rendered("text", accept_bytes(comm=HOSTILE), shown="pid,comm", stream=terminal)
    assert ["181", ESCAPED] == ANSI.sub("", text).splitlines()[1].split()


def test_a_terminal_gets_colour_for_what_matters(terminal: Terminal) -> None:
    """The header is bold; what failed, a full queue, is red; what is as usual has no colour."""
    records = [accept_bytes(backlog=128), accept_bytes(backlog=1)]
    header, full, usual = rendered("text", *records, shown="+bl", stream=terminal).splitlines()
    assert "\x1b[1mPID" in header
    assert "\x1b[1;38;5;160m128/128\x1b[0m" in full
    assert "38;5" not in usual


def test_colour_in_a_pipe_is_in_the_same_columns() -> None:
    """--color always paints the same text."""
    plain = rendered("text", accept_bytes(), shown="+bl,+tid")
    painted = rendered("text", accept_bytes(), shown="+bl,+tid", color="always")
    assert plain != painted
    assert plain == ANSI.sub("", painted)


def test_markup_in_data_is_not_read(terminal: Terminal) -> None:
    """A COMM that looks like rich's markup or an emoji is shown as it is."""
    for comm in (b"[red]x[/red]", b"[/]", b":smile:", b"[link=x]y"):
        text = rendered("text", accept_bytes(comm=comm), shown="pid,comm", stream=terminal)
        assert ["181", comm.decode()] == ANSI.sub("", text).splitlines()[-1].split()


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("NO_COLOR", "1")])
def test_no_colour_where_it_is_not_wanted(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    """NO_COLOR is honoured, and a dumb terminal gets no escape at all, but its layout."""
    monkeypatch.setenv(name, value)
    text = rendered("text", accept_bytes(laddr=LONG, raddr=LONG), stream=terminal)
    assert "\x1b" not in text
    assert ["PID", "LADDR"] == [line.split()[0] for line in text.splitlines()[-4:-2]]


def test_a_batch_is_laid_out_as_a_whole(terminal: Terminal) -> None:
    """A wide row that comes with others in one batch has one header with them, which fits it."""
    records = [accept_bytes(), accept_bytes(laddr=LONG, raddr=LONG), accept_bytes()]
    lines = ANSI.sub("", rendered("text", *records, stream=terminal)).splitlines()
    assert ["PID"] == [line[:3] for line in lines if "PID" in line]
    assert 2 + 3 * 2 == len(lines)


def test_a_column_s_value_may_be_any_object() -> None:
    """A plugin's column may return what `str` can show."""
    stream = io.StringIO()
    odd = Column("odd", "ODD", 5, lambda _row, _first_ns: ("a", 1))
    sink = make_sink("text", [odd], stream)
    sink.write([NewTable(), accepted(accept_bytes())])
    assert "ODD\n('a', 1)\n" == stream.getvalue()


REPORT = {
    "Kernel": [Line("release", "6.1 [red]x[/red] \x1b[31m", good=True), Line("", "more", None)],
    "Hooks": [Line("raw tracepoint", "no " * 30, good=False)],
}


def test_a_report_is_plain_in_a_pipe() -> None:
    """Marks, labels and texts stand in columns; nothing is folded."""
    stream = io.StringIO()
    write_report(REPORT, stream)
    assert [
        "Kernel",
        r"  ok release        6.1 [red]x[/red] \x1b[31m",
        "                    more",
        "Hooks",
        f"  no raw tracepoint {'no ' * 30}".rstrip(),
    ] == stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 80])
def test_a_report_fits_a_terminal(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """On a narrow terminal lines are folded, and nothing is lost or read as markup."""
    monkeypatch.setenv("COLUMNS", str(width))
    write_report(REPORT, terminal)
    lines = ANSI.sub("", terminal.getvalue()).splitlines()
    assert max(map(cell_len, lines)) <= width
    assert 30 == "".join(lines).split("Hooks")[1].count("no ") - 1
    assert "[red]x[/red]" in "".join("".join(lines).split())
