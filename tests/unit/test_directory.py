"""Recordings in a directory: whole files by day and host, for weeks, through crashes."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from tests.unit import test_recordings
from tests.unit.conftest import Run
from tests.unit.test_recordings import (
    META,
    START_NS,
    jsons,
    read,
    recorded,  # noqa: F401 - a fixture
    refused,
)

from tcptrace.errors import TcptraceError
from tcptrace.model import filenames
from tcptrace.model.filters import Filters
from tcptrace.model.kept import Classes
from tcptrace.model.limits import Limits
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta
from tcptrace.model.window import ALWAYS, Window
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.shell.amounts import Amount, parse_amount
from tcptrace.sinks import directory, finish, groups, retention
from tcptrace.sinks.directory import DirectoryRecording
from tcptrace.sources.recording.directory import DirectoryRows, find, of_one_host, walk

DAY_NS = 86_400 * 1_000_000_000
NO_LIMITS = Limits()


def accepts(count: int) -> list[Any]:
    """Return rows, one after the other."""
    rows = test_recordings.accepts(count)
    for number, row in enumerate(rows):
        row.ts_ns, row.family = 1000 + number, 4
        row.wall_ns = START_NS + row.ts_ns
    return rows


class Clocks:
    """What a recorder takes for the time."""

    def __init__(self) -> None:
        """Begin when the rows begin."""
        self.now_s = 1000.0
        self.wall_s = START_NS / 1e9

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds
        self.wall_s += seconds


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    """Clocks that stand still until they are moved."""
    it = Clocks()
    monkeypatch.setattr("time.monotonic", lambda: it.now_s)
    monkeypatch.setattr("time.time", lambda: it.wall_s)
    monkeypatch.setattr("time.clock_gettime", lambda _: it.now_s)
    return it


class Recorder:
    """A recording in a directory, and what it says."""

    def __init__(self, path: Path, limits: Limits = NO_LIMITS, meta: Meta = META) -> None:
        """Begin it."""
        self.said: list[str] = []
        self.sink = DirectoryRecording(
            str(path), "accept", ACCEPT.row_classes, limits, self.said.append
        )
        self.sink.open(meta)
        self.sink.flush()

    def write(self, rows: list[Any]) -> None:
        """Write rows, as a group."""
        self.sink.write(rows)
        self.sink._write_group()
        self.sink.flush()

    def close(self, losses: Losses = NOTHING_LOST) -> None:
        """End it."""
        self.sink.close(losses)

    def crash(self) -> None:
        """Leave everything as it is, as a process that is killed."""
        if self.sink._growing:
            self.sink._growing.close()


def opened(
    path: Path, window: Window = ALWAYS, host: str | None = None, **filters: Any
) -> DirectoryRows:
    """Return what a directory has kept."""
    found = of_one_host(list(find(walk(str(path), window), "accept")), host, str(path))
    wanted = Filters(filters, ACCEPT.port_fields)
    return DirectoryRows(str(path), found, Classes(ACCEPT.row_classes), wanted, [], window)


def names(path: Path) -> list[str]:
    """Return the names of all files, hidden ones too."""
    return sorted(file.name for file in path.rglob("*") if file.is_file())


def whole(path: Path) -> list[Path]:
    """Return the files that readers find."""
    return sorted(path.rglob("[!.]*.parquet"))


def test_files_are_found_by_day_and_host(tmp_path: Path) -> None:
    """What other programs read of a directory are the rows, with day and host as columns."""
    recorder = Recorder(tmp_path / "rec")
    recorder.write(accepts(5))
    recorder.close()
    (file,) = whole(tmp_path)
    assert ["date=2026-09-21", "host=host"] == list(file.parts[-3:-1])
    table = ds.dataset(tmp_path / "rec", partitioning="hive").to_table()
    assert (5, {"host"}) == (table.num_rows, set(table["host"].to_pylist()))
    assert {META.boot_id} == set(table["boot_id"].to_pylist())


def test_all_is_its_owner_s_alone(tmp_path: Path) -> None:
    """Others can read neither files nor the directories that were made for them."""
    recorder = Recorder(tmp_path / "rec")
    recorder.write(accepts(5))
    recorder.close()
    modes = {path.is_dir(): stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert {True: 0o700, False: 0o600} == modes


def test_a_file_is_whole_when_it_has_its_name(tmp_path: Path) -> None:
    """Until then it is hidden, and has an ending that nobody looks for."""
    recorder = Recorder(tmp_path)
    recorder.write(accepts(5))
    assert [] == whole(tmp_path)
    (name,) = names(tmp_path)
    assert name.startswith(".")
    assert name.endswith(".parquet.part")
    recorder.close()
    (file,) = whole(tmp_path)
    assert [file.name] == names(tmp_path)
    assert 5 == pq.ParquetFile(file).metadata.num_rows


def test_what_is_kept_is_read_by_time(tmp_path: Path) -> None:
    """Rows of all files are one recording, the hidden one's included."""
    rows = accepts(30)
    recorder = Recorder(tmp_path, Limits(file_bytes=1))
    for at in range(0, 20, 10):
        recorder.write(list(reversed(rows[at : at + 10])))
    last = Recorder(tmp_path)
    last.write(rows[20:])
    assert jsons(rows) == jsons(read(opened(tmp_path)))
    last.close()
    source = opened(tmp_path)
    assert jsons(rows) == jsons(read(source))
    assert (True, META.host, "") == (source.is_whole, source.meta.host, source.warning)


def test_nothing_is_left_where_nothing_happened(tmp_path: Path) -> None:
    """A recorder that has seen nothing makes no file."""
    Recorder(tmp_path / "rec").close()
    assert [] == names(tmp_path)


@pytest.mark.parametrize("limits", [Limits(file_s=60), Limits(file_bytes=1)])
def test_files_end_by_time_or_size(tmp_path: Path, clocks: Clocks, limits: Limits) -> None:
    """At its limit a file ends, though nothing more comes; the next begins with the next row."""
    recorder = Recorder(tmp_path, limits)
    for number in range(1, 4):
        recorder.write(accepts(5))
        clocks.pass_by(61)
        recorder.sink.flush()
        assert number == len(whole(tmp_path)) == len(names(tmp_path))
    recorder.close()
    assert 3 == len(whole(tmp_path))


def test_a_file_has_rows_of_one_day(tmp_path: Path) -> None:
    """With the first row of a new day a file begins, also where the clock was set back."""
    recorder = Recorder(tmp_path)
    days = []
    for day in (0, 1, 1, 0):
        rows = accepts(3)
        for row in rows:
            row.wall_ns += day * DAY_NS
        recorder.write(rows)
        days.append(day)
    recorder.close()
    found = sorted(file.parts[-3] for file in whole(tmp_path))
    assert ["date=2026-09-21", "date=2026-09-21", "date=2026-09-22"] == found


def test_a_file_has_a_thousand_groups_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However little happens, what must be told at a file's end is bounded."""
    monkeypatch.setattr(directory, "MOST_GROUPS", 3)
    recorder = Recorder(tmp_path)
    for _ in range(6):
        recorder.write(accepts(1))
    assert 2 == len(whole(tmp_path))
    recorder.close()


def test_small_groups_become_large_ones(tmp_path: Path) -> None:
    """A file in which little happened at a time has one group, and takes less room."""
    rows = accepts(500)
    recorder = Recorder(tmp_path)
    for at in range(0, 500, 50):
        recorder.write(rows[at : at + 50])
    (grown,) = names(tmp_path)
    size = next(tmp_path.rglob(grown)).stat().st_size
    recorder.close(Losses(3))
    (file,) = whole(tmp_path)
    assert 1 == pq.ParquetFile(file).metadata.num_row_groups
    assert file.stat().st_size < size / 2
    source = opened(tmp_path)
    assert jsons(rows) == jsons(read(source))
    assert Losses(3) == source.losses()


def test_large_groups_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where much happened, the file is as it was written."""
    monkeypatch.setattr(finish, "LARGE_ROWS", 50)
    recorder = Recorder(tmp_path)
    for _ in range(3):
        recorder.write(accepts(50))
    recorder.close()
    (file,) = whole(tmp_path)
    assert 3 == pq.ParquetFile(file).metadata.num_row_groups
    assert 150 == len(read(opened(tmp_path)))


def test_rows_of_a_process_are_side_by_side(tmp_path: Path) -> None:
    """The order within a group is that in which it takes the least room."""
    rows = accepts(40)
    for row in rows:
        row.pid, row.comm, row.cgroup_id = row.lport % 2 + 1, "web", 7
    recorder = Recorder(tmp_path)
    recorder.write(rows)
    recorder.close()
    (file,) = whole(tmp_path)
    pids = pq.ParquetFile(file).read()["pid"].to_pylist()
    assert sorted(pids) == pids


def test_what_a_crash_leaves_is_recovered(tmp_path: Path) -> None:
    """Wherever a file was cut off, the next recorder makes a whole one of its groups."""
    rows = accepts(30)
    recorder = Recorder(tmp_path / "first")
    sizes = []
    for at in range(0, 30, 10):
        recorder.write(rows[at : at + 10])
        sizes.append(next(tmp_path.rglob(".*")).stat().st_size)
    recorder.crash()
    grown = next(tmp_path.rglob(".*"))
    data = grown.read_bytes()
    for number, size in enumerate([*sizes, *(end + 7 for end in sizes), sizes[0] - 1, 2, 0]):
        place = tmp_path / str(number) / grown.parent.relative_to(tmp_path / "first")
        place.mkdir(parents=True)
        (place / grown.name).write_bytes(data[:size])
        Recorder(tmp_path / str(number)).close()
        count = 10 * sum(end <= size for end in sizes)
        assert [place / grown.name[1:-5]][: count // 10] == whole(tmp_path / str(number))[:1]
        assert not list(place.glob(".*"))
        if count:
            source = opened(tmp_path / str(number))
            assert jsons(rows[:count]) == jsons(read(source))
            assert "1 of 1 files were cut off, as by a crash" == source.warning


def test_what_is_left_behind_is_not_read_before_rights_are_given_up(tmp_path: Path) -> None:
    """To open a recording is root's; whose the files there are is not known."""
    recorder = Recorder(tmp_path)
    recorder.write(accepts(5))
    recorder.crash()
    sink = DirectoryRecording(str(tmp_path), "accept", ACCEPT.row_classes, NO_LIMITS, print)
    sink.open(META)
    assert [] == whole(tmp_path)
    sink.flush()
    assert 1 == len(whole(tmp_path))
    sink.close(NOTHING_LOST)


def test_a_group_that_has_not_reached_the_disk_is_left_out(tmp_path: Path) -> None:
    """After a power failure there may be zeros where rows were written last."""
    rows = accepts(20)
    recorder = Recorder(tmp_path)
    recorder.write(rows[:10])
    grown = next(tmp_path.rglob(".*"))
    first = grown.stat().st_size
    recorder.write(rows[10:])
    recorder.crash()
    data = bytearray(grown.read_bytes())
    data[first : first + 500] = bytes(500)
    grown.write_bytes(data)
    Recorder(tmp_path).close()
    assert jsons(rows[:10]) == jsons(read(opened(tmp_path)))


def test_a_crash_at_the_end_leaves_no_row_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its own name and the removal of what it was made of, a file is there twice."""
    recorder = Recorder(tmp_path)
    for _ in range(2):
        recorder.write(accepts(5))
    with monkeypatch.context() as patch:
        patch.setattr(finish, "_remove", lambda *_: None)
        recorder.close()
    assert 2 == len(names(tmp_path))
    assert 10 == len(read(opened(tmp_path)))
    Recorder(tmp_path).close()
    assert 1 == len(names(tmp_path))
    assert 10 == len(read(opened(tmp_path)))


def test_what_another_writes_is_let_alone(tmp_path: Path) -> None:
    """Two recorders of one host in one directory have files of their own."""
    first, second = Recorder(tmp_path), Recorder(tmp_path)
    first.write(accepts(5))
    second.write(accepts(5))
    third = Recorder(tmp_path)
    assert 2 == len(list(tmp_path.rglob(".*.part")))
    for recorder in (first, second, third):
        recorder.close()
    assert 2 == len(whole(tmp_path))
    assert 10 == len(read(opened(tmp_path)))


class Disk:
    """A disk that has room, or none."""

    def __init__(self) -> None:
        """Have room."""
        self._write = os.write
        self._is_full = False

    def write(self, descriptor: int, data: bytes) -> int:
        """Write, where there is no room a little."""
        if self._is_full:
            self._write(descriptor, bytes(data)[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self._write(descriptor, data)

    def fill(self) -> None:
        """Have no room."""
        self._is_full = True

    def clear(self) -> None:
        """Have room."""
        self._is_full = False


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """A disk in place of the real one."""
    disk = Disk()
    monkeypatch.setattr(os, "write", disk.write)
    return disk


def test_a_full_disk_is_outlived(tmp_path: Path, clocks: Clocks, full_disk: Disk) -> None:
    """It is said once; rows wait, and are written when there is room again."""
    rows = accepts(30)
    recorder = Recorder(tmp_path)
    recorder.write(rows[:10])
    full_disk.fill()
    recorder.write(rows[10:20])
    clocks.pass_by(groups.GROUP_S)
    recorder.sink.flush()
    assert 1 == len(recorder.said)
    assert "No space left on device" in recorder.said[0]
    full_disk.clear()
    recorder.sink.write(rows[20:])
    clocks.pass_by(groups.GROUP_S)
    recorder.sink.flush()
    assert 2 == len(recorder.said)
    recorder.close()
    assert 0 == recorder.sink.unwritten
    assert jsons(rows) == jsons(read(opened(tmp_path)))


def test_what_a_full_disk_costs_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_disk: Disk
) -> None:
    """Rows that are more than a group do not wait: memory is bounded."""
    monkeypatch.setattr(groups, "GROUP_ROWS", 10)
    recorder = Recorder(tmp_path)
    full_disk.fill()
    for _ in range(3):
        recorder.sink.write(accepts(10))
    assert 30 == recorder.sink.unwritten
    assert 0 == recorder.sink._waiting.count
    full_disk.clear()
    recorder.write(accepts(5))
    recorder.close()
    assert 5 == len(read(opened(tmp_path)))


def test_rows_that_wait_at_the_end_are_counted(tmp_path: Path, full_disk: Disk) -> None:
    """What could not be written until the run ended is lost."""
    recorder = Recorder(tmp_path)
    recorder.sink.write(accepts(7))
    full_disk.fill()
    recorder.close()
    assert 7 == recorder.sink.unwritten


def test_a_host_whose_name_is_too_long_is_said_at_once(tmp_path: Path) -> None:
    """No file could ever be made; events would wait, and be lost."""
    for name in ("x" * 251, "é" * 42):
        with pytest.raises(TcptraceError, match="Give it a shorter name"):
            Recorder(tmp_path, meta=Meta("accept", "b", name, "boot", "6.1", START_NS))
    Recorder(tmp_path, meta=Meta("accept", "b", "x" * 250, "boot", "6.1", START_NS)).close()


def test_a_directory_that_is_closed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it would be missing without a word; one that was removed meanwhile has nothing."""
    (tmp_path / "date=2026-11-30").mkdir()
    scandir = os.scandir

    def scan(path: str) -> Any:
        if "date=" in str(path):
            raise errors.pop()
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    errors = [PermissionError(13, "Permission denied", "DIR"), FileNotFoundError(2, "None", "DIR")]
    assert [(str(tmp_path), [])] == [*walk(str(tmp_path), ALWAYS)]
    with pytest.raises(TcptraceError, match="cannot read DIR: Permission denied"):
        list(walk(str(tmp_path), ALWAYS))


def test_the_directories_of_other_hosts_may_be_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a host is named, they are not read."""
    for name in ("host=a%2Fb", "host=other"):
        (tmp_path / name).mkdir()
    scandir = os.scandir

    def scan(path: str) -> Any:
        assert "host=other" not in str(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    expected = [str(tmp_path), f"{tmp_path}/host=a%2Fb"]
    assert expected == [place for place, _ in walk(str(tmp_path), ALWAYS, "a/b")]


def test_a_directory_that_is_removed_is_made_again(tmp_path: Path, clocks: Clocks) -> None:
    """What is written from then on is kept."""
    recorder = Recorder(tmp_path / "rec")
    recorder.write(accepts(5))
    next(tmp_path.rglob(".*")).unlink()
    for path in ("rec/date=2026-09-21/host=host", "rec/date=2026-09-21", "rec"):
        (tmp_path / path).rmdir()
    recorder.write(accepts(3))
    clocks.pass_by(groups.GROUP_S)
    recorder.sink.flush()
    recorder.close()
    assert 3 == len(read(opened(tmp_path / "rec")))


def aged(path: Path, days: int, *, host: str = "host", probe: str = "accept") -> Path:
    """Make a file that was begun so many days before the rows; return its path."""
    begun_ns = START_NS - days * DAY_NS
    place = path / filenames.date_directory(begun_ns) / filenames.host_directory(host)
    place.mkdir(parents=True, exist_ok=True)
    file = place / filenames.file_name(probe, begun_ns, 1)
    file.write_bytes(bytes(1000))
    return file


def test_what_is_too_old_is_removed(tmp_path: Path, clocks: Clocks) -> None:
    """With the directories that are empty then; what is another's is let alone."""
    mine, young = aged(tmp_path, 8), aged(tmp_path, 6)
    others = [aged(tmp_path, 8, host="other"), aged(tmp_path, 9, probe="connect")]
    note = aged(tmp_path, 10).rename(tmp_path / "date=2026-09-11/host=host/notes.parquet")
    Recorder(tmp_path, Limits(kept_s=7 * 86_400)).close()
    assert not mine.exists()
    assert all(path.exists() for path in (young, note, *others))
    others[0].unlink()
    aged(tmp_path, 8, host="third").rename(tmp_path / "x")
    (tmp_path / "date=2026-09-13/host=other").rmdir()
    (tmp_path / "date=2026-09-13/host=third").rmdir()
    aged(tmp_path, 8)
    Recorder(tmp_path, Limits(kept_s=7 * 86_400)).close()
    assert not (tmp_path / "date=2026-09-13").exists()


def test_what_is_too_much_is_removed(tmp_path: Path, clocks: Clocks) -> None:
    """The oldest first; hidden files do not count, as they are not there to stay."""
    files = [aged(tmp_path, days) for days in (5, 4, 3, 2)]
    Recorder(tmp_path, Limits(kept_bytes=2500)).close()
    assert [False, False, True, True] == [file.exists() for file in files]


def test_a_clock_that_was_set_removes_nothing(tmp_path: Path, clocks: Clocks) -> None:
    """For an hour; if it still says so then, it is believed."""
    file = aged(tmp_path, 1)
    recorder = Recorder(tmp_path, Limits(file_bytes=1, kept_s=7 * 86_400))
    clocks.wall_s += 365 * 86_400
    recorder.write(accepts(1))
    assert file.exists()
    clocks.pass_by(retention.DOUBT_S - 1)
    recorder.write(accepts(1))
    assert file.exists()
    clocks.pass_by(2)
    recorder.write(accepts(1))
    assert not file.exists()
    recorder.close()


def test_weeks_take_no_more_than_minutes(tmp_path: Path) -> None:
    """After many files no more descriptors are open than after one."""
    recorder = Recorder(tmp_path, Limits(file_bytes=1, kept_bytes=30_000))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(40):
        recorder.write(accepts(5))
    assert before == len(list(Path("/proc/self/fd").iterdir()))
    assert len(whole(tmp_path)) < 10
    recorder.close()


def test_losses_are_those_of_each_file(tmp_path: Path) -> None:
    """What is missing is told where it is missing, and adds up."""
    recorder = Recorder(tmp_path, Limits(file_bytes=1))
    for missed in (2, 2, 5):
        recorder.sink.note(Losses(missed))
        recorder.write(accepts(1))
    recorder.close(Losses(6))
    source = opened(tmp_path)
    read(source)
    assert Losses(5) == source.losses()


def test_a_time_is_asked_for(tmp_path: Path) -> None:
    """Rows since and until a moment; other files are not read, other days not looked at."""
    recorder = Recorder(tmp_path, Limits(file_bytes=1))
    rows = accepts(9)
    for number, row in enumerate(rows):
        row.wall_ns = START_NS + number * DAY_NS
        recorder.write([row])
    recorder.close()
    window = Window(rows[3].wall_ns, rows[5].wall_ns)
    assert jsons(rows[3:5]) == jsons(read(opened(tmp_path, window)))
    assert 5 >= len(list(find(walk(str(tmp_path), window), "accept")))


def test_filters_hold_for_directories(tmp_path: Path) -> None:
    """As for a single file."""
    recorder = Recorder(tmp_path, Limits(file_bytes=1))
    for _ in range(3):
        recorder.write(accepts(10))
    recorder.close()
    assert 30 == len(read(opened(tmp_path, family=4)))
    assert [] == read(opened(tmp_path, family=6))


def test_hosts_are_not_mixed(tmp_path: Path) -> None:
    """Rows do not say which host they are of: where there are several, one is to be named."""
    for host in ("web/1", "db1"):
        recorder = Recorder(tmp_path, meta=Meta("accept", "b", host, "boot", "6.1", START_NS))
        recorder.write(accepts(2))
        recorder.close()
    with pytest.raises(TcptraceError, match=r"2 hosts: db1, web/1[.]\nGive --host"):
        opened(tmp_path)
    assert 2 == len(read(opened(tmp_path, host="web/1")))
    with pytest.raises(TcptraceError, match="no recording of db2"):
        opened(tmp_path, host="db2")


def test_a_place_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    """Before anything is traced."""
    (tmp_path / "file").touch()
    with pytest.raises(TcptraceError, match="cannot write to"):
        Recorder(tmp_path / "file" / "rec")


def test_links_are_not_followed(tmp_path: Path) -> None:
    """What others put into a directory does not say where root writes."""
    day = filenames.date_directory(accepts(1)[0].wall_ns)
    (tmp_path / "other").mkdir()
    (tmp_path / "rec").mkdir()
    (tmp_path / "rec" / day).symlink_to(tmp_path / "other")
    recorder = Recorder(tmp_path / "rec")
    recorder.write(accepts(1))
    assert "Not a directory" in recorder.said[0]
    recorder.close()
    assert [] == names(tmp_path)


@pytest.mark.parametrize("name", ["x", "accept-20260921T000000Z-1.parquet", "", ".part"])
def test_other_names_are_no_recordings(name: str) -> None:
    """Only names that tcptrace gives are read, and removed."""
    assert filenames.place_of(name) is None
    assert filenames.shown(name) is None


def test_names_say_who_and_when() -> None:
    """Whatever a probe is called, its name can be read."""
    for probe in ("accept", "a-b", "x/y z"):
        place = filenames.place_of(filenames.file_name(probe, START_NS, 7))
        assert place
        assert (probe, START_NS // 10**9) == (place.probe, int(place.begun.timestamp()))


def test_all_that_is_read_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each group is synced before the next is begun: a power failure costs ten seconds."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    recorder = Recorder(tmp_path)
    recorder.write(accepts(1))
    recorder.write(accepts(1))
    assert 2 == len(synced)
    recorder.close()


def test_a_directory_is_kept_and_read(run: Run, recorded: Path) -> None:  # noqa: F811 - a fixture
    """-w with a directory, -r with it, a span of time, and the host."""
    done = run("accept", "-r", "x.jsonl", "--failed", "-w", "rec/", "--rotate", "1h,1M")
    assert (0, "") == (done.returncode, done.stdout), done.stderr
    assert 1 == len(whole(recorded.parent / "rec"))
    lines = run("accept", "-r", "rec", "--json", "--failed").stdout.splitlines()
    assert 10 == len(lines)
    third = sorted(json.loads(line)["time"] for line in lines)[3]
    for options, count in (
        (["--since", third], 7),
        (["--until", third], 3),
        (["--host", "host"], 10),
    ):
        done = run("accept", "-r", "rec", "--json", "--failed", *options)
        assert count == len(done.stdout.splitlines()), done.stderr
    done = run("accept", "-r", "x.jsonl", "--json", "--failed", "--since", third)
    assert 7 == len(done.stdout.splitlines()), done.stderr
    done = run("connect", "-r", "rec")
    assert (1, True) == (done.returncode, "no recording" in done.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-w", "y.parquet", "--rotate", "1h"], ["--rotate", "y.parquet/"]),
        (["-w", "y.jsonl", "--keep", "1d"], ["--keep"]),
        (["--keep", "1d"], ["--keep needs -w"]),
        (["-w", "rec/", "--force"], ["--force"]),
        (["-w", "rec/", "--rotate", "10"], ["10m or 10M"]),
        (["--since", "lately"], ["lately", "09:30"]),
    ],
)
def test_what_makes_no_sense_for_a_directory_is_refused(
    run: Run,
    recorded: Path,  # noqa: F811 - a fixture
    arguments: list[str],
    words: list[str],
) -> None:
    """By name, and nothing is made."""
    refused(run("accept", "-r", "x.jsonl", *arguments), *words)
    assert not (recorded.parent / "rec").exists()


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("10m", Amount(600)),
        ("100M", Amount(size=100_000_000)),
        ("1h,1.5G", Amount(3600, 1_500_000_000)),
        ("1KB", Amount(size=1000)),
    ],
)
def test_amounts_are_times_and_sizes(text: str, amount: Amount) -> None:
    """Small letters are times, large ones sizes; with a comma both."""
    assert amount == parse_amount(text, "1s")


@pytest.mark.parametrize("text", ["10", "", "1m,", "0M", "5x", "M", "1ms"])
def test_what_is_no_amount_is_refused(text: str) -> None:
    """Whatever it is."""
    with pytest.raises(ValueError, match=r"."):
        parse_amount(text, "1s")
