"""Which columns are shown, and in which order."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner
from tests.unit.test_schema import probes

from tcptrace.commands.tracer import tracer
from tcptrace.model.columns import Column, Table, choose, field
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.columns import COUNT_TABLE
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.tracer.probe import VERBOSE
from tcptrace.top import listeners
from tcptrace.top.keys import DIMENSIONS
from tcptrace.top.measures import figure_columns, key_columns

DEFAULT = "pid comm ip raddr rport laddr lport"


def chosen(spec: str = "", *added: str) -> str:
    """Return the keys that `choose` picks for accept."""
    columns = choose(ACCEPT.columns, ACCEPT.extra_columns, spec, added)
    return " ".join(column.key for column in columns)


@pytest.mark.parametrize(
    ("spec", "added", "expected"),
    [
        ("", (), DEFAULT),
        ("", ("time",), f"time {DEFAULT}"),
        ("", ("time_s",), f"time_s {DEFAULT}"),
        ("", ("time_s", "time"), f"time time_s {DEFAULT}"),
        ("", ("bl",), f"{DEFAULT} bl"),
        ("+netns", (), f"{DEFAULT} netns"),
        ("+mntns,+netns", (), f"{DEFAULT} netns mntns"),
        ("-ip", (), "pid comm raddr rport laddr lport"),
        ("+netns,-comm", ("time",), "time pid ip raddr rport laddr lport netns"),
        ("pid,comm", (), "pid comm"),
        ("comm,pid", (), "comm pid"),
        ("comm,pid", ("time",), "time comm pid"),
        ("comm,+bl", (), "comm bl"),
        ("+pid", (), DEFAULT),
        (" pid , comm ,", (), "pid comm"),
        ("time,-time,pid", (), "pid"),
        ("pid,comm,pid", (), "pid comm"),
        ("PID,Comm,RADDR", (), "pid comm raddr"),
        ("time(s),CGROUPID", (), "time_s cgroup_id"),
        ("+BL,-IP", (), "pid comm raddr rport laddr lport bl"),
        ("+ netns", (), f"{DEFAULT} netns"),
    ],
)
def test_columns_are_picked_added_and_dropped(
    spec: str, added: tuple[str, ...], expected: str
) -> None:
    """Plain keys pick, + adds, - drops, and options add theirs in front."""
    assert expected == chosen(spec, *added)


@pytest.mark.parametrize("spec", ["nope", "+nope", "-nope", "pid,nope", "++pid", "+-pid", "+"])
def test_unknown_columns_are_refused(spec: str) -> None:
    """The message names what is unknown, and what there is."""
    with pytest.raises(ValueError, match=r"no column .*; there are pid, comm, ip") as error:
        chosen(spec)
    assert "bl" in str(error.value)


def test_no_column_at_all_is_refused() -> None:
    """A row without columns shows nothing, silently."""
    with pytest.raises(ValueError, match="no column is left"):
        chosen("pid,-pid")


def test_a_column_can_be_put_behind_another() -> None:
    """An added column goes behind the one it names, or to the end where that is not shown."""

    def column(key: str, after: str | None = None) -> Column:
        return Column(key, key.upper(), 1, lambda _row, _first_ns: key, after=after)

    shown, more = [column("a"), column("b")], [column("c", after="a")]
    assert ["a", "c", "b"] == [column.key for column in choose(shown, more, "+c", ())]
    assert ["b", "c"] == [column.key for column in choose(shown, more, "b,+c", ())]


def test_a_key_comes_before_a_heading() -> None:
    """Where one column's heading is another's key, the name is the key's."""
    first = field("one", "TWO", 3)
    second = field("two", "ONE", 3)
    assert [second, first] == choose((first, second), (), "two,one", ())
    assert [first] == choose((first,), (), "two", ())


def test_each_column_says_what_it_means() -> None:
    """--columns help has a meaning for each, in every command."""
    tables = [COUNT_TABLE.columns, COUNT_TABLE.extra_columns, VERBOSE]
    groups = [
        *tables,
        *(group for probe in probes() for group in (probe.columns, probe.extra_columns)),
    ]
    assert [] == [column.key for group in groups for column in group if not column.meaning]


@pytest.mark.parametrize("spec", ["help", " HELP "])
def test_columns_help(spec: str) -> None:
    """It lists what is shown, and what can be added, by key and heading, and traces nothing."""
    result = CliRunner().invoke(tracer, ["-v", "--json", "--columns", spec])
    assert (0, "") == (result.exit_code, result.stderr)
    shown, more = result.stdout.split("More, with +KEY")
    assert re.search(r"^ +type +TYPE +connect, accept, close", shown, re.MULTILINE)
    assert re.search(r"^ +time_s +TIME\(ns\) +nanoseconds since", more, re.MULTILINE)
    assert 1 == len(re.findall("^ +rport ", result.stdout, re.MULTILINE))


def tables() -> list[Table]:
    """Return the columns of every command, and of those of its options that have their own."""
    shown, more = figure_columns()
    return [
        *(Table(probe.columns, probe.extra_columns) for probe in probes()),
        COUNT_TABLE,
        Table([*key_columns(DIMENSIONS), *shown], more),
        Table(listeners.COLUMNS, listeners.MORE_COLUMNS),
    ]


@pytest.mark.parametrize("table", tables(), ids=lambda table: table.columns[0].key)
def test_a_column_keeps_its_heading_when_it_is_named(table: Table) -> None:
    """A command's own column of a key is taken, not the common one; by its heading, too."""
    shown, more = table.columns, table.extra_columns
    keys = ",".join(column.key for column in shown)
    assert list(shown) == choose(shown, more, keys, ())
    assert list(shown) == choose(shown, more, f"+{shown[-1].key}", ())
    of_key = {column.key for column in (*shown, *more)}
    for column in shown:
        if column.heading.lower() not in of_key:
            assert [column] == choose(shown, more, column.heading, ())


def test_connect_s_ports_are_destinations() -> None:
    """As its heading says when nothing is picked."""
    (column,) = choose(CONNECT.columns, CONNECT.extra_columns, "rport", ())
    assert "DPORT" == column.heading
