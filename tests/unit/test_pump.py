"""The pump between a source and sinks, on plain lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import pytest

from tcptrace.model.batch import Batch
from tcptrace.model.events import NewTable, Row
from tcptrace.model.lines import Lines
from tcptrace.model.losses import Losses
from tcptrace.model.meta import Meta
from tcptrace.shell import pump as pumps
from tcptrace.shell.pump import MOST_EVENTS, MOST_ROWS, Pump
from tcptrace.shell.stop import GRACE_S, Stop, Why


class Numbers:
    """A source of numbers: batches that are given, then empty ones until it is finished."""

    meta = Meta("numbers", "list", "host", "boot", "6.1", 0)
    warning = ""
    given_up = 0

    def __init__(self, *batches: Sequence[int], waiting: int = 0) -> None:
        """Have these batches; `waiting` more would wait if the pump gave up."""
        self.notes: list[str] = []
        self.lost = Losses()
        self.finished = False
        self._given = list(batches)
        self._waiting = waiting

    def batches(self) -> Iterator[Batch]:
        """Yield what is given; when it is finished, one more."""
        number = 0
        while True:
            last = self.finished
            events = self._given.pop(0) if self._given else ()
            yield Batch(iter(events), number)
            number += 1
            if last:
                return

    def finish(self) -> None:
        """Remember it."""
        self.finished = True

    def abandon(self) -> None:
        """Count what waits."""
        self.lost = self.lost._replace(unread=self._waiting)

    def losses(self) -> Losses:
        """Return what was set."""
        return self.lost

    def table(self, _name: str, _key_size: int, _value_size: int) -> dict[bytes, bytes]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Close nothing."""


@dataclasses.dataclass
class Kept:
    """A sink that keeps what it is given, write for write."""

    writes: list[list[Any]] = dataclasses.field(default_factory=list)
    flushed: int = 0
    closed: Losses | None = None
    is_gone: bool = False
    noted: list[Losses] = dataclasses.field(default_factory=list)
    is_stalled: bool = False
    error: OSError | None = None
    attempts: int = 0
    on_flush: Callable[[Kept], None] = lambda _: None

    def open(self, _meta: Meta) -> None:
        """Do nothing."""

    def write(self, rows: Sequence[Any]) -> None:
        """Keep rows."""
        if self.is_gone:
            raise BrokenPipeError
        self.writes.append([*rows])

    def note(self, losses: Losses) -> None:
        """Keep the losses."""
        self.noted.append(losses)

    def flush(self, _seconds: float = 0) -> bool:
        """Remember how many writes were flushed, unless the reader stands still."""
        if self.error:
            raise self.error
        self.attempts += 1
        self.on_flush(self)
        if not self.is_stalled:
            self.flushed = len(self.writes)
        return self.flushed == len(self.writes)

    def drop(self) -> int:
        """Forget the writes that were not flushed."""
        dropped = self.writes[self.flushed :]
        del self.writes[self.flushed :]
        return sum(map(len, dropped))

    def is_closed(self) -> bool:
        """Tell whether the reader is said to be gone."""
        return self.is_gone

    def close(self, losses: Losses) -> None:
        """Keep the losses."""
        self.closed = losses

    @property
    def rows(self) -> list[Any]:
        """All that was written."""
        return [row for write in self.writes for row in write]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        """Begin at 0."""
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock."""
    return Clock()


@pytest.fixture
def stop(clock: Clock) -> Stop:
    """What says when to stop, by the clock."""
    return Stop(clock)


def every(batches: Iterator[Batch]) -> Iterator[int]:
    """Return all events as they are."""
    return (event for batch in batches for event in batch.events)


def asking(stop: Stop, at: int) -> Callable[[Iterator[Batch]], Iterator[int]]:
    """Return a function as `every` that asks to stop when it gets an event."""

    def rows(batches: Iterator[Batch]) -> Iterator[int]:
        for event in every(batches):
            if event == at:
                stop.ask(Why.SIGNAL)
            yield event

    return rows


def test_a_batch_is_one_write(stop: Stop) -> None:
    """The rows of a batch are written at once, and flushed before the next is waited for."""
    source, sink = Numbers([1, 2], [], [3]), Kept()
    Pump(source, [sink], stop, print).run(asking(stop, 3))
    assert ([[1, 2], [3]], 2) == (sink.writes, sink.flushed)


def test_a_burst_does_not_wait_in_memory(stop: Stop) -> None:
    """Of a batch with many rows, some are written while the others are made."""
    source, sink = Numbers(range(2 * MOST_ROWS + 1)), Kept()
    Pump(source, [sink], stop, print).run(asking(stop, 2 * MOST_ROWS))
    assert [MOST_ROWS, MOST_ROWS, 1] == [len(write) for write in sink.writes]


def test_lines_are_rows_each(stop: Stop) -> None:
    """They count, and do not wait in memory, as rows that come one by one."""
    sink = Kept()
    some = Lines(["x\n"] * (MOST_ROWS // 2))
    pump = Pump(Numbers(), [sink], stop, print)
    pump.run(lambda _: iter([some, some, some]))
    assert ([[some, some], [some]], 3 * len(some.texts)) == (sink.writes, pump.shown)


def test_every_sink_gets_all_rows(stop: Stop) -> None:
    """What begins comes first, and is no row that counts."""
    table, sinks = NewTable(), [Kept(), Kept()]
    pump = Pump(Numbers([1], [2]), sinks, stop, print)
    pump.run(asking(stop, 2), begin=[table])
    assert [[table, 1, 2]] * 2 == [sink.rows for sink in sinks]
    assert 2 == pump.shown


def test_rows_that_are_no_events_count(stop: Stop) -> None:
    """A function may make of batches what it likes, also rows at the end."""

    def rows(batches: Iterator[Batch]) -> Iterator[Any]:
        for batch in batches:
            total = sum(batch.events)
            yield NewTable()
            yield Row(wall_ns=total)
            stop.ask(Why.SIGNAL)
        yield Row(wall_ns=7)

    sink = Kept()
    pump = Pump(Numbers([1, 2], [3]), [sink], stop, print)
    pump.run(rows)
    assert [3, 3, 7] == [row.wall_ns for row in sink.rows if isinstance(row, Row)]
    assert "2 totals in 1.0 s, 0 lost" == pump.summary("total", 1.0)  # of the last table


def test_what_waits_at_the_end_still_comes(stop: Stop) -> None:
    """After a signal the source is told to finish, and its last batch is shown."""
    source, sink = Numbers([1], [2], [3]), Kept()
    Pump(source, [sink], stop, print).run(asking(stop, 1))
    assert ([1, 2], True, Why.SIGNAL) == (sink.rows, source.finished, stop.why)


def test_a_duration_stops(stop: Stop, clock: Clock) -> None:
    """When the time is over, what waits is read, and that is the end."""

    def rows(batches: Iterator[Batch]) -> Iterator[int]:
        for batch in batches:
            clock.now += 0.1
            yield from batch.events

    source, sink = Numbers([1], [2], [3], [4], [5]), Kept()
    stop.after(0.25)
    Pump(source, [sink], stop, print).run(rows)
    assert ([1, 2, 3, 4], Why.DURATION) == (sink.rows, stop.why)


def test_a_count_stops_at_once(stop: Stop) -> None:
    """After so many rows no more is read, though there is more."""
    source, sink = Numbers([1, 2, 3], [4]), Kept()
    pump = Pump(source, [sink], stop, print, count=2)
    pump.run(every, begin=[NewTable()])
    assert ([1, 2], Why.COUNT) == (sink.rows[1:], stop.why)
    assert (2, False) == (pump.shown, source.finished)


def test_the_first_reason_to_stop_holds(stop: Stop, clock: Clock) -> None:
    """Who asks later changes neither why nor since when."""
    stop.ask(Why.SIGNAL)
    clock.now = 2 * GRACE_S
    stop.ask(Why.CLOSED)
    assert Why.SIGNAL is stop.why
    assert stop.is_overdue()


def test_too_much_to_read_is_given_up_and_counted(stop: Stop, clock: Clock) -> None:
    """When the grace is over, the rest of the buffer is lost, and that is said."""
    said: list[str] = []
    source, sink = Numbers(range(1000), [1000], waiting=17), Kept()

    def rows(batches: Iterator[Batch]) -> Iterator[int]:
        for event in every(batches):
            stop.ask(Why.SIGNAL)
            clock.now += GRACE_S / MOST_EVENTS / 2
            yield event

    pump = Pump(source, [sink], stop, said.append)
    pump.run(rows)
    pump.close()
    assert list(range(2 * MOST_EVENTS)) == sink.rows
    assert ["17 events were lost: too many waited at the end to be read"] == said
    assert Losses(unread=17) == sink.closed


def test_losses_are_said_while_it_runs_and_at_the_end(
    stop: Stop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loss is said once; the sinks learn of all when they are closed."""
    monkeypatch.setattr(pumps, "LOSS_REPORT_S", 0)
    said: list[str] = []
    source, sink = Numbers([1], [2], [3]), Kept()

    def rows(batches: Iterator[Batch]) -> Iterator[int]:
        for event in every(batches):
            source.lost = Losses(no_room=min(event, 2))
            yield event
            if event == 2:
                stop.ask(Why.SIGNAL)
        source.lost = Losses(no_room=3)

    pump = Pump(source, [sink], stop, said.append)
    pump.run(rows)
    pump.close()
    assert ["1 event was lost; try a larger --buffer-mb"] * 3 == said
    assert Losses(no_room=3) == sink.closed
    assert [1, 2, 3] == [losses.no_room for losses in sink.noted]


def test_losses_are_said_once_a_second_at_most(stop: Stop) -> None:
    """A storm of losses is no storm of lines."""
    said: list[str] = []
    source = Numbers(*([number] for number in range(50)))

    def rows(batches: Iterator[Batch]) -> Iterator[int]:
        for event in asking(stop, 49)(batches):
            source.lost = Losses(no_room=event)
            yield event

    pump = Pump(source, [Kept()], stop, said.append)
    pump.run(rows)
    assert len(said) < 10


@pytest.mark.parametrize("others", [0, 1])
def test_a_sink_that_nobody_reads_ends_the_run(stop: Stop, others: int) -> None:
    """Without an error; another sink gets what was under way."""
    source, gone, kept = Numbers([1], [2], [3]), Kept(is_gone=True), [Kept()] * others
    pump = Pump(source, [gone, *kept], stop, print)
    pump.run(every)
    pump.close()
    assert (Why.CLOSED, []) == (stop.why, gone.writes)
    assert [[1, 2]] * others == [sink.rows for sink in kept]
    assert gone.closed is None


def test_a_reader_that_goes_while_nothing_comes_ends_the_run(stop: Stop) -> None:
    """It is asked between batches, not only when there is something to write."""
    source, sink = Numbers(), Kept()

    def rows(batches: Iterator[Batch]) -> Iterable[int]:
        for number, _ in enumerate(batches):
            sink.is_gone = number == 2
        return ()

    Pump(source, [sink], stop, print).run(rows)
    assert (Why.CLOSED, True) == (stop.why, source.finished)


def test_rows_before_an_error_are_written(stop: Stop) -> None:
    """A function that fails ends the run with its error; nothing that was there before is gone."""

    def rows(batches: Iterator[Batch]) -> Iterator[int]:
        yield from next(batches).events
        raise ValueError("no luck")

    sink = Kept()
    pump = Pump(Numbers([1, 2]), [sink], stop, print)
    with pytest.raises(ValueError, match="no luck"):
        pump.run(rows)
    pump.close()
    assert ([1, 2], Losses()) == (sink.rows, sink.closed)


def test_events_that_a_function_leaves_are_no_rows(stop: Stop) -> None:
    """A function may take but some of a batch."""

    def rows(batches: Iterator[Batch]) -> Iterator[int]:
        for batch in batches:
            yield from (event for event in batch.events if event % 2)
            stop.ask(Why.SIGNAL)

    sink = Kept()
    Pump(Numbers([1, 2, 3], [4, 5]), [sink], stop, print).run(rows)
    assert [1, 3, 5] == sink.rows


def stalled(clock: Clock, **attributes: Any) -> Kept:
    """Return a sink whose reader stands still; each time that it is asked, time goes by."""

    def tick(_sink: Kept) -> None:
        clock.now += 0.03

    return Kept(is_stalled=True, on_flush=tick, **attributes)


def test_a_reader_that_stands_still_keeps_no_run_from_stopping(stop: Stop, clock: Clock) -> None:
    """A signal ends it after the grace; what nobody took is lost, and the source is not read on."""
    said: list[str] = []
    source, sink = Numbers([1, 2, 3], [4, 5], waiting=2), stalled(clock)
    pump = Pump(source, [sink], stop, said.append)
    pump.run(asking(stop, 3))
    pump.close()
    assert GRACE_S <= clock.now <= GRACE_S + 0.2
    assert (0, []) == (pump.shown, sink.rows)
    assert Losses(unread=2, unwritten=3) == pump.losses() == sink.closed
    assert "3 events were lost: nobody took their rows" in said[-1]
    assert "0 events in 1.0 s, 5 lost" == pump.summary("event", 1.0)


def test_a_duration_ends_before_a_reader_that_stands_still(stop: Stop, clock: Clock) -> None:
    """Its time is over, whatever the reader does."""
    stop.after(1.0)
    Pump(Numbers([1]), [stalled(clock)], stop, print).run(every)
    assert (Why.DURATION, True) == (stop.why, clock.now <= 1.2 + GRACE_S)


def test_a_reader_that_was_slow_gets_all(stop: Stop, clock: Clock) -> None:
    """Who stands still for a while is waited for; the source waits as well."""
    sink = stalled(clock)

    def awake(sink: Kept) -> None:
        clock.now += 1
        sink.is_stalled = sink.attempts < 10

    sink.on_flush = awake
    pump = Pump(Numbers([1, 2], [3]), [sink], stop, print)
    pump.run(asking(stop, 3))
    assert ([1, 2, 3], Losses()) == (sink.rows, pump.losses())


def test_losses_are_said_while_a_reader_stands_still(
    stop: Stop, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has to wait for the end to learn of them."""
    monkeypatch.setattr(pumps, "LOSS_REPORT_S", 0)
    said: list[str] = []
    source = Numbers([1])

    def lose(sink: Kept) -> None:
        source.lost = Losses(no_room=min(sink.attempts, 2))
        sink.is_stalled = sink.attempts < 5

    pump = Pump(source, [Kept(is_stalled=True, on_flush=lose)], stop, said.append)
    pump.run(asking(stop, 1))
    assert ["1 event was lost; try a larger --buffer-mb"] * 2 == said


def test_rows_that_cannot_be_written_are_lost(stop: Stop) -> None:
    """A full disk ends the run; shown and lost are all that happened."""
    sink = Kept(error=OSError(28, "No space left on device"))
    pump = Pump(Numbers([1, 2], [3], waiting=0), [sink], stop, print)
    pump.run(every)
    pump.close()
    assert (Why.FAILED, sink.error) == (stop.why, pump.error)
    assert (0, Losses(unwritten=3)) == (pump.shown, pump.losses())
