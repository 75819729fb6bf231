"""`tcptrace top`: its options, and its frames from a trace that is a list."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests.unit.test_top import (
    NETNS,
    SECOND,
    Lists,
    accepted,
    by,
    closed,
    connected,
    failed,
    fed,
    listed,
    opened,
    sample,
)

from tcptrace.commands import top
from tcptrace.errors import RefusedError
from tcptrace.kernel.sampler import Sample
from tcptrace.model.batch import Batch
from tcptrace.shell import screen as screen_of_top
from tcptrace.shell.plan import Shown
from tcptrace.sinks.color import PLAIN
from tcptrace.top import feed, keys, tables
from tcptrace.top.frame import Frame

BY = keys.parse("program,port")
STREAMS = ("stdin", "stdout", "stderr")
GIVEN: dict[str, Any] = {
    "json": False,
    "form": None,
    "batch": False,
    "once": False,
    "listen": False,
    "existing": True,
    "follow": False,
    "by": BY,
    "rows": None,
    "failed": False,
    "sort": None,
    "read": None,
    "speed": None,
}


def given(**changes: Any) -> dict[str, Any]:
    """Return what a command line gives."""
    return {**GIVEN, **changes}


@pytest.fixture(autouse=True)
def _context() -> Iterator[None]:
    """Click's context, as it is while the command runs."""
    with click.Context(top.top):
        yield


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input, output and error are a terminal."""
    streams = {name: SimpleNamespace(isatty=lambda: True) for name in STREAMS}
    monkeypatch.setattr(screen_of_top, "sys", SimpleNamespace(**streams))
    monkeypatch.setenv("TERM", "xterm")


def screen(show: Shown) -> bool:
    """Tell whether there is to be a screen."""
    return show.sink is not None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"form": "text"}, True),
        ({"form": "csv"}, False),
        ({"json": True}, False),
        ({"batch": True}, False),
        ({"once": True}, False),
    ],
)
@pytest.mark.usefixtures("on_terminal")
def test_when_there_is_a_screen(changes: dict[str, Any], expected: bool) -> None:  # noqa: FBT001
    """On a terminal, for text, where nobody asked for tables."""
    assert expected == screen(top._show(given(**changes)))


@pytest.mark.usefixtures("on_terminal")
def test_other_places_have_no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal without control codes or without bars, and a pipe, have tables."""
    monkeypatch.setenv("TERM", "dumb")
    assert not screen(top._show(given()))
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as patch:
        latin = SimpleNamespace(isatty=lambda: True, encoding="iso8859-1")
        patch.setattr("tcptrace.shell.screen.sys.stdout", latin)
        assert not screen(top._show(given()))
    pipe = SimpleNamespace(isatty=lambda: False)
    monkeypatch.setattr("tcptrace.shell.screen.sys.stderr", pipe)
    assert not screen(top._show(given()))


@pytest.mark.usefixtures("on_terminal")
def test_without_textual_there_is_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to get it, and what does without it."""
    monkeypatch.setitem(sys.modules, "textual", None)
    make = top._show(given()).sink
    assert make
    with pytest.raises(RefusedError, match=r"pip install textual\n.*-b"):
        make(PLAIN)


def refusal(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Return the usage error that a command line gets."""
    monkeypatch.setattr(top, "is_in_initial", lambda _kind: True)
    result = CliRunner().invoke(top.top, arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    return " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-w", "x.jsonl"), "kept with: tcptrace tracer -d --failed --existing -w FILE"),
        (("-w", "x.jsonl", "--listen"), "shown with: tcptrace top -r FILE."),
        (("--who",), "--by process"),
        (("--count-events", "3"), "-n N"),
    ],
)
def test_what_is_for_events_is_refused(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    """It says what to do instead."""
    assert words in refusal(monkeypatch, *arguments)


def test_the_help_has_only_what_works() -> None:
    """Options that are refused are not in it."""
    shown = CliRunner().invoke(top.top, ["--help-all"]).output
    for flag in ("--write", "--print", "--force", "--who", "--count-events"):
        assert flag not in shown
    assert "--read" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--", "true"), "with -- COMMAND, give --no-existing."),
        (("--listen", "--", "true"), "with -- COMMAND, give --no-existing."),
        (("-f", "-p", str(os.getpid())), "with -f, give --no-existing."),
    ],
)
def test_what_is_followed_has_no_connections_of_before(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: str
) -> None:
    """They are shown by default, so it says how not to."""
    assert words in refusal(monkeypatch, *arguments)


@pytest.mark.usefixtures("on_terminal")
def test_the_screen_is_not_for_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says how to have tables, with all else that the command needs."""
    words = "with -- COMMAND, give -b --no-existing."
    assert words in refusal(monkeypatch, "--", "true")
    assert "COMMAND or --to, give -b." in refusal(monkeypatch, "--no-existing", "--", "true")
    assert words in refusal(monkeypatch, "--listen", "--", "true")


def test_columns_are_those_of_the_dimensions() -> None:
    """Each dimension has a column, before the figures."""
    columns = top._show(given()).table.columns
    assert ["program", "port", "conn"] == [column.key for column in columns[:3]]


def test_who_listens_has_columns_of_its_own() -> None:
    """In tables."""
    show = top._show(given(listen=True))
    assert not screen(show)
    assert ["pid", "comm", "laddr", "lport"] == [column.key for column in show.table.columns[:4]]


@pytest.mark.usefixtures("on_terminal")
def test_who_listens_has_a_screen() -> None:
    """On a terminal, as traffic has."""
    assert screen(top._show(given(listen=True)))
    assert not screen(top._show(given(listen=True, batch=True)))


def programs(rows: list[Any]) -> list[Any]:
    """Return the programs of rows."""
    return [row.key[0] for row in rows]


def test_which_rows_are_shown() -> None:
    """The busiest first or by a column, those with nothing to say not at all."""
    aggregator = by("program")
    fed(aggregator, *(failed(comm="psql") for _ in range(3)), connected(ms=9.0))
    interval = fed(aggregator, *(accepted(rport=n) for n in range(2)), connected(lport=2, ms=9.0))
    assert ["nginx", "curl"] == programs(tables._chosen(interval, BY[:1], None, only_failed=False))
    assert ["psql"] == programs(tables._chosen(interval, BY[:1], None, only_failed=True))
    assert ["curl", "nginx"] == programs(tables._chosen(interval, BY[:1], "lat", only_failed=False))
    by_name = tables._chosen(interval, BY[:1], "program", only_failed=False)
    assert ["curl", "nginx"] == programs(by_name)


class FakeSampler(Lists):
    """What lists sockets: it answers at once with what it has."""

    answers: tuple[Sample, ...] = ()

    def __init__(self) -> None:
        """Begin with the first answer."""
        super().__init__()
        self._left = list(self.answers)

    def ask(self, wanted: Collection[int] | None, *, listeners: bool = False) -> None:
        """Have the next answer ready."""
        super().ask(wanted, listeners=listeners)
        self.ready = self._left.pop(0) if self._left else sample()


def trace(*batches: tuple[float, list[Any]]) -> Any:
    """Return a trace of batches, each with the time by which it is complete, in seconds."""

    def made() -> Iterator[Batch]:
        for until_s, events in batches:
            yield Batch(iter(events), int(until_s * SECOND), offset_ns=SECOND)

    meta = SimpleNamespace(start_ns=SECOND)
    return SimpleNamespace(batches=made(), filters=SimpleNamespace(values={}), meta=meta)


def frames(monkeypatch: pytest.MonkeyPatch, trace: Any, *answers: Sample) -> list[Frame]:
    """Return the frames of a trace, each second."""
    monkeypatch.setattr(FakeSampler, "answers", answers)
    said: list[str] = []
    both = ("in", "out")
    found = feed.frames(
        trace, BY, both, 1.0, said.append, FakeSampler(), names=False, existing=False
    )
    shown = [
        frame._replace(interval=frame.interval._replace(rows=[*frame.interval.rows]))
        for frame in found
    ]
    assert [] == said
    return shown


def test_frames_of_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each interval, from the trace's beginning, and one for the rest."""
    batches = [
        (0.5, [connected(ts_ns=1), failed()]),
        (1.0, []),
        (1.1, []),
        (1.5, [closed(7, 0)]),
    ]
    first, last = frames(monkeypatch, trace(*batches), sample(), sample(listed(5, 0), at_s=1.05))
    assert (0, 1_100_000_000) == first.interval[:2]
    assert 2_100_000_000 == first.wall_ns
    assert (1_100_000_000, 1_500_000_000) == last.interval[:2]
    total = last.interval.total
    assert (2, 1, 7, 0) == (
        total.run.attempts,
        total.run.failed,
        total.run.tx_bytes,
        total.open,
    )


def test_who_listens_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """It tells which of the connections of before had been accepted."""
    listening = sample(listed(0, 0, lport=80))
    (frame,) = frames(monkeypatch, trace((0.5, [opened(lport=80, rport=3)])), listening)
    (row,) = frame.interval.rows
    assert ("curl", 80) == row.key
    assert {NETNS} == {connection.event.netns for connection in frame.connections_of([row])}


def test_a_trace_without_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was stopped at once: there is nothing to show."""
    assert [] == frames(monkeypatch, trace())
