"""Which columns are shown, and in which order."""

from __future__ import annotations

import pytest

from tcptrace.model.columns import Column, choose
from tcptrace.probes.accept.probe import ACCEPT

DEFAULT = "pid comm ip raddr rport laddr lport"


def chosen(spec: str = "", *added: str) -> str:
    """Return the keys that `choose` picks for accept."""
    columns = choose(ACCEPT.columns, ACCEPT.more_columns, spec, added)
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
    ],
)
def test_columns_are_picked_added_and_dropped(
    spec: str, added: tuple[str, ...], expected: str
) -> None:
    """Plain keys pick, + adds, - drops, and options add theirs in front."""
    assert expected == chosen(spec, *added)


@pytest.mark.parametrize(
    "spec", ["nope", "+nope", "-nope", "pid,nope", "++pid", "+-pid", "+", "PID"]
)
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
    assert ["a", "c", "b"] == [one.key for one in choose(shown, more, "+c", ())]
    assert ["b", "c"] == [one.key for one in choose(shown, more, "b,+c", ())]
