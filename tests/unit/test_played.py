"""`tcptrace top -r`: a recording as it goes on, at its pace, and what it cannot tell."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.unit.test_screen import BY, on_screen, seen
from tests.unit.test_top import HOST, OTHER, SECOND, accepted, closed, connected, failed, opened

from tcptrace.commands import top
from tcptrace.model.kept import Classes
from tcptrace.model.limits import Limits
from tcptrace.model.losses import NOTHING_LOST
from tcptrace.model.meta import Meta
from tcptrace.model.pace import AT_ONCE, FASTEST, SLOWEST, Pace
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.shell import screen
from tcptrace.sinks.directory import DirectoryRecording
from tcptrace.sinks.parquet import ParquetRecording
from tcptrace.sinks.recording import JsonLinesRecording
from tcptrace.sinks.screen.picture import Picture
from tcptrace.sources.recording.jsonl import JsonLines
from tcptrace.sources.recording.kept import KeptSource
from tcptrace.sources.recording.paced import POLL_S, Paced
from tcptrace.top.frame import Frame
from tcptrace.top.played import lacks, played

START = 1_790_000_000 * SECOND
WALL = START - SECOND
"""What the wall clock is ahead of the events'."""
META = Meta(
    "tracer",
    "tracepoint",
    "db1",
    "boot",
    "6.1",
    START,
    switches={"TRACER_EXISTING": "1"},
    companions=("connect", "dns"),
)
BARE = Meta("tracer", "tracepoint", "db1", "boot", "6.1", START)


def at(record: Any, seconds: float) -> Any:
    """Return an event that happened so many seconds after the recording's beginning."""
    record.ts_ns = int((1 + seconds) * SECOND)
    record.wall_ns = record.ts_ns + WALL
    return record


def events() -> list[Any]:
    """Return four seconds: a connection that stays open, a failure, and one that ends."""
    named = connected()
    named.query = "example.org"
    return [
        at(named, 0),
        at(failed(), 0.6),
        at(accepted(), 1.5),
        at(closed(700, 70, laddr=HOST, lport=80, rport=50000, comm="nginx", pid=7), 3.2),
        at(failed(), 4.0),
    ]


def kept(path: Path, rows: list[Any], meta: Meta = META) -> Path:
    """Keep events as `tracer -w` does."""
    path.unlink(missing_ok=True)
    if path.suffix == ".parquet":
        sink: Any = ParquetRecording(str(path), TRACER.row_classes, force=False)
    else:
        sink = JsonLinesRecording(str(path), force=False)
    sink.open(meta)
    sink.write(rows)
    sink.flush()
    sink.close(NOTHING_LOST)
    return path


def recording(path: Path) -> KeptSource:
    """Return a recording that is read."""
    return JsonLines(str(path), Classes(TRACER.row_classes), [])


class Clock:
    """Time that passes when it is slept."""

    def __init__(self) -> None:
        """Begin somewhere."""
        self.now = 100.0
        self.slept = 0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.slept += 1


def test_pace_has_a_clock_of_its_own() -> None:
    """It goes on at its speed, stands still, changes and moves within the recording."""
    clock = Clock()
    pace = Pace(2.0, now=clock)
    assert 0 == pace.until_ns()
    pace.begin(10 * SECOND)
    clock.now += 3
    assert 16 * SECOND == pace.until_ns()
    pace.pause()
    clock.now += 100
    assert 16 * SECOND == pace.until_ns()
    pace.pause()
    pace.change(2)
    clock.now += 1
    assert 20 * SECOND == pace.until_ns()
    pace.move(-7)
    assert 13 * SECOND == pace.until_ns()
    pace.move(-60)
    assert 10 * SECOND == pace.until_ns()
    pace.end_ns = 15 * SECOND
    pace.move(60)
    assert 15 * SECOND == pace.until_ns()
    pace.move(-1)
    assert 14 * SECOND == pace.until_ns()


def test_speeds_have_limits() -> None:
    """From the fastest it goes down, never below the slowest; at once needs no time."""
    pace = Pace(AT_ONCE, now=Clock())
    pace.begin(5)
    assert 5 == pace.until_ns()  # no time has passed
    for factor, expected in ((0.5, FASTEST / 2), (4, FASTEST), (1e-9, SLOWEST)):
        pace.change(factor)
        assert expected == pace.speed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A recording of `events`."""
    return kept(tmp_path / "r.jsonl", events())


def frames(
    path: Path, pace: Pace, clock: Clock, interval_s: float = 1.0
) -> Iterator[tuple[Frame, Paced]]:
    """Yield the frames of a recording, each with its source."""
    source = Paced(recording(path), pace, clock.sleep)

    class Trace:
        batches = source.batches()
        meta = source.meta

    for frame in played(Trace, BY, ("in", "out"), interval_s, pace, names=True):  # type: ignore[arg-type]
        yield frame, source
    source.close()


def attempts(path: Path, pace: Pace, clock: Clock) -> list[tuple[float, int, int]]:
    """Return the end of each interval in seconds, and how many attempts and accepts it had."""
    return [
        (
            frame.interval.end_ns / SECOND - 1,
            frame.interval.total.last.attempts,
            frame.interval.total.last.accepts,
        )
        for frame, _ in frames(path, pace, clock)
    ]


EXPECTED = [(1.0, 2, 0), (2.0, 0, 1), (3.0, 0, 0), (4.0, 1, 0)]
"""What is on an edge belongs to the interval that ends there."""


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_a_recording_takes_its_time(path: Path, speed: float) -> None:
    """Its intervals have its own times; they come at its speed."""
    clock = Clock()
    shown = attempts(path, Pace(speed, now=clock), clock)
    assert EXPECTED == shown
    assert 4 / speed == pytest.approx(clock.now - 100, abs=3 * POLL_S)


def test_at_once_nothing_is_waited_for(path: Path) -> None:
    """The intervals are the same."""
    clock = Clock()

    def now() -> float:
        clock.now += 1e-6
        return clock.now

    assert EXPECTED == attempts(path, Pace(AT_ONCE, now=now), clock)
    assert 0 == clock.slept


def test_what_is_on_the_edge_is_counted_once(path: Path) -> None:
    """The run has all that there is."""
    clock = Clock()
    *_, (last, _) = frames(path, Pace(10, now=clock), clock)
    total = last.interval.total
    assert (3, 1, 2) == (total.run.attempts, total.run.accepts, total.run.failed)


def test_a_recording_stands_still_and_goes_back(path: Path) -> None:
    """After it went back, all is counted from the beginning, once."""
    clock = Clock()
    pace = Pace(1.0, lasts=True, now=clock)
    shown = frames(path, pace, clock)
    ends = [next(shown)[0].interval for _ in range(4)]
    assert (5 * SECOND, 3) == (ends[-1].end_ns, ends[-1].total.run.attempts)
    pace.move(-3)
    again = next(shown)[0].interval
    assert (2 * SECOND, 2) == (again.end_ns, again.total.run.attempts)
    pace.move(60)
    later = [next(shown)[0] for _ in range(3)]
    assert [3, 4, 5] == [frame.interval.end_ns // SECOND for frame in later]
    assert 1 == pace.rounds


def test_long_past_intervals_are_not_shown(tmp_path: Path) -> None:
    """Who goes far ahead waits for no picture of what is between."""
    rows = [at(failed(), 0), at(failed(), 7200)]
    clock = Clock()
    pace = Pace(1.0, lasts=True, now=clock)
    shown = frames(kept(tmp_path / "r.jsonl", rows), pace, clock)
    next(shown)
    pace.move(7200)
    interval = next(shown)[0].interval
    assert interval.end_ns > 7000 * SECOND
    assert 1 == interval.total.run.attempts


def test_the_end_of_a_recording_stays(path: Path) -> None:
    """On a screen, until the user ends it."""
    clock = Clock()
    pace = Pace(1000, lasts=True, now=clock)
    source = Paced(recording(path), pace, clock.sleep)
    batches = source.batches()
    while not pace.has_ended():
        next(batches)
    assert [] == [*next(batches).events]
    source.finish()
    assert [] == [*batches]
    source.close()


def test_a_screen_has_what_is_left_at_the_end(path: Path) -> None:
    """The last interval is shorter, and shown once, also where it is the only one."""
    clock = Clock()
    pace = Pace(10, lasts=True, now=clock)
    shown = frames(path, pace, clock, 2.5)
    ends = [next(shown)[0].interval.end_ns / SECOND - 1 for _ in range(2)]
    assert [2.5, 4.0] == ends
    pace.move(-3.5)
    again = next(shown)[0].interval
    assert 2.5 == again.end_ns / SECOND - 1
    shown = frames(path, Pace(1000, lasts=True, now=clock), clock, 60)
    total = next(shown)[0].interval.total
    assert (3, 1) == (total.run.attempts, total.run.accepts)


def of_command(path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return the rows that the command prints of a recording, as fast as it can."""
    command = ["-r", str(path), "--json", *arguments]
    if "--once" not in arguments:
        command += ["--speed", "max"]
    result = CliRunner().invoke(top.top, command)
    assert 0 == result.exit_code, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_the_command_plays_what_tracer_has_kept(tmp_path: Path, suffix: str) -> None:
    """Names, failures, and bytes where connections have ended; else they are absent, not 0."""
    path = kept(tmp_path / f"r{suffix}", events())
    rows = of_command(path, "--interval", "10s")
    (curl,) = (row for row in rows if row.get("name") == "example.org")
    (nginx,) = (row for row in rows if row.get("comm") == "nginx")
    (refused,) = (row for row in rows if row.get("refused") and row["scope"] == "key")
    assert (1, 1, 0) == (curl["attempts"], curl["open"], curl["failed"])
    assert "tx_bytes" not in curl
    assert "rx_bytes" not in curl["run"]
    assert "retransmits" not in curl
    assert (1, 1, 700, 70) == tuple(
        nginx[key] for key in ("accepts", "closes", "tx_bytes", "rx_bytes")
    )
    assert (2, 0) == (refused["failed"], refused["tx_bytes"])
    assert not [row for row in rows if "rtt_ms" in row]


def test_once_is_the_first_interval(path: Path) -> None:
    """It waits for nothing, and the rest is not read."""
    rows = of_command(path, "--once")
    assert {2 * SECOND} == {row["ts_ns"] for row in rows}


def test_a_recording_without_failures_does_not_say_there_were_none(tmp_path: Path) -> None:
    """They are absent; what else is missing is said, too."""
    path = kept(tmp_path / "r.jsonl", [at(connected(), 0.5)], BARE)
    rows = of_command(path)
    assert not [row for row in rows if "failed" in row or "refused" in row["run"]]
    said = lacks(BARE)
    for option in ("--failed", "-d", "--existing"):
        assert f"({option})" in said
    assert "(" not in lacks(META)


def test_options_leave_out_what_a_recording_has(tmp_path: Path) -> None:
    """Filters and the command's own options hold as they do live."""
    rows = [at(opened(lport=5), 0), *events()]
    path = kept(tmp_path / "r.jsonl", rows)
    everything = of_command(path, "--interval", "10s")[-1]
    assert (3, 2) == (everything["attempts"], everything["open"])
    assert 1 == of_command(path, "--interval", "10s", "--no-failures")[-1]["attempts"]
    assert 1 == of_command(path, "--interval", "10s", "--no-existing")[-1]["open"]
    assert 0 == of_command(path, "--interval", "10s", "--comm", "nginx")[-1]["attempts"]
    assert 0 == of_command(path, "--interval", "10s", "--in")[-1]["attempts"]
    names = {row.get("name") for row in of_command(path, "--no-names")}
    assert "example.org" not in names


def test_which_end_was_asked_of_connections_of_before(tmp_path: Path) -> None:
    """A recording has no listeners: the end with the lower port is the server's."""
    rows = [
        at(opened(comm="nginx", lport=443, rport=50001, raddr=OTHER), 0),
        at(opened(lport=50002, rport=443), 0),
        at(failed(), 2),
    ]
    shown = of_command(kept(tmp_path / "r.jsonl", rows), "--by", "program,destination", "--once")
    assert {("nginx", f"{HOST}:443"), ("curl", "192.0.2.2:443")} == {
        (row["comm"], row["destination"]) for row in shown if row["scope"] == "key"
    }


def test_time_goes_on_over_a_reboot(tmp_path: Path) -> None:
    """What a directory has kept of several boots is told by the wall clock."""
    rows = [at(failed(), 0), at(failed(), 30), at(failed(), 600)]
    rows[2].ts_ns = 5  # the host has just been started
    clock = Clock()
    shown = attempts(kept(tmp_path / "r.jsonl", rows), Pace(100, now=clock), clock)
    assert 600 == len(shown)
    assert [1, 1, 1] == [count for _, count, _ in shown if count]
    assert 6 == pytest.approx(clock.now - 100, abs=3 * POLL_S)


def kept_in_directory(path: Path, runs: dict[str, list[Any]]) -> Path:
    """Keep the events of some runs, each of another boot, as `tracer -w DIR/` does."""
    for boot_id, rows in runs.items():
        classes = TRACER.row_classes
        sink = DirectoryRecording(str(path), "tracer", classes, Limits(), print)
        sink.open(dataclasses.replace(META, boot_id=boot_id))
        sink.write(rows)
        sink.close(NOTHING_LOST)
    return path


def opens(path: Path) -> list[int]:
    """Return how many connections were open at the ends of a recording's minutes."""
    shown = of_command(path, "--interval", "60s", "--speed", "max")
    return [row["open"] for row in shown if row["scope"] == "total"]


def test_a_reboot_ends_what_was_open(tmp_path: Path) -> None:
    """The ends of connections that the host's end has cut off are in no recording."""
    before = [at(connected(lport=n), n) for n in range(3)]
    after = [at(connected(lport=7), 130), at(failed(), 170)]
    path = kept_in_directory(tmp_path / "r", {"first": before, "second": after})
    assert [3, 3, 1] == opens(path)
    path = kept_in_directory(tmp_path / "one", {"first": [*before, *after]})
    assert [3, 3, 4] == opens(path)


def test_a_recorder_s_list_says_what_is_open(tmp_path: Path) -> None:
    """Where it was started anew, connections may have ended meanwhile."""
    first = [at(opened(lport=1), 0), at(opened(lport=2), 0), at(connected(lport=3), 5)]
    again = [at(opened(lport=2), 70), at(opened(lport=5), 70), at(connected(lport=4), 71)]
    path = kept(tmp_path / "r.jsonl", [*first, *again, at(failed(), 130)])
    assert [3, 3, 3] == opens(path)


def test_bytes_of_before_are_not_counted(tmp_path: Path) -> None:
    """The end of a connection that was open before has all its bytes; how many are new is open."""
    older = closed(5000, 50, duration_ms=None)
    rows = [at(opened(), 0), at(older, 1), at(failed(), 2)]
    *_, total = of_command(kept(tmp_path / "r.jsonl", rows), "--interval", "10s")
    assert (1, 0) == (total["closes"], total["open"])
    assert "tx_bytes" not in total
    without = of_command(tmp_path / "r.jsonl", "--interval", "10s", "--no-existing")[-1]
    assert 0 == without["closes"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "-r", "FILE"), "--listen is about the kernel; it is not for -r."),
        (("-r", "FILE", "--", "true"), "no command can be run for it"),
        (("-r", "FILE", "--speed", "0"), "'0' is no speed"),
        (("-r", "FILE", "--speed", "fast"), "'fast' is no speed"),
        (("--speed", "10"), "--speed needs -r."),
    ],
)
def test_what_recordings_do_not_go_with(path: Path, arguments: tuple[str, ...], words: str) -> None:
    """It is a usage error."""
    given = [str(path) if word == "FILE" else word for word in arguments]
    result = CliRunner().invoke(top.top, given)
    assert 2 == result.exit_code
    assert words in " ".join(result.stderr.split())


def test_recordings_of_others_are_refused(tmp_path: Path) -> None:
    """Their rows have no ends of connections."""
    path = kept(tmp_path / "r.jsonl", [], Meta("connect", "tracepoint", "h", "b", "6.1", START))
    result = CliRunner().invoke(top.top, ["-r", str(path)])
    assert "was recorded by `tcptrace connect`" in str(result.exception)


def test_an_empty_recording_has_nothing_to_show(tmp_path: Path) -> None:
    """It ends at once, without an error."""
    assert [] == of_command(kept(tmp_path / "r.jsonl", []))


def test_keys_for_a_recording() -> None:
    """They move it, change its speed, and have it stand still; the screen says so."""
    pace = Pace(1.0, lasts=True, now=Clock())

    async def steps(pilot: Any, app: Any, _world: Any) -> None:
        app.picture.pace = pace
        pace.begin(0)
        await pilot.press("space", "plus", "plus", "right_square_bracket", "right_curly_bracket")
        await pilot.pause()
        assert (True, 4, 70 * SECOND) == (pace.is_paused, pace.speed, int(pace.until_ns() + 0.5))
        assert "PAUSED  speed 4" in seen(app)
        assert not app.picture.is_paused
        await pilot.press(
            *["minus"] * 3, "left_square_bracket", "left_curly_bracket", "question_mark"
        )
        await pilot.pause()
        assert (0.5, 0) == (pace.speed, int(pace.until_ns()))
        assert "play faster, slower" in seen(app)

    on_screen(steps)


def test_a_picture_that_goes_back_has_no_later_graphs(path: Path) -> None:
    """Its rows are others; the selected one is found by its key."""
    clock = Clock()
    pace = Pace(1.0, lasts=True, now=clock)
    shown = frames(path, pace, clock)
    picture = Picture(BY, "top", pace=pace)
    for _ in range(3):
        picture.update(next(shown)[0])
    picture.selected = selected = next(row for row in picture.rows if "curl" in (row.key or ()))
    pace.move(-3)
    picture.update(next(shown)[0])
    (found,) = [row for row in picture.rows if row is picture.selected]
    assert (False, selected.key) == (found is selected, found.key)
    assert 1 == len(picture._total.of["conn"])


def test_the_name_of_a_recording_leaves_room() -> None:
    """The line has the time behind it."""
    assert "r.parquet" == screen._short("/var/log/r.parquet")
    assert "a" * 23 + "…" == screen._short(f"/var/log/{'a' * 30}.parquet")


def test_maximum_speed_is_infinite() -> None:
    """The option says so by a word."""
    assert math.inf == top._parse_speed(None, None, "max")  # type: ignore[arg-type]
