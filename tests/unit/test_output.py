"""Writing to a stream without waiting for its reader."""

from __future__ import annotations

import contextlib
import io
import os
import select
import socket
import threading
import tty
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import pytest

from tcptrace.model.losses import NOTHING_LOST
from tcptrace.sinks.output import Output
from tcptrace.sinks.stream import StreamSink

LINE = "x" * 99 + "\n"
Ends = tuple[int, TextIO]


def pipe() -> tuple[int, int]:
    """Return both ends of a pipe."""
    return os.pipe()


def terminal() -> tuple[int, int]:
    """Return both sides of a terminal."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    return ours, theirs


def sockets() -> tuple[int, int]:
    """Return both ends of a socket pair."""
    ours, theirs = socket.socketpair()
    return ours.detach(), theirs.detach()


KINDS = [pipe, terminal, sockets]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """The end of a reader, and a stream to it, of each kind that can be full."""
    reading, writing = request.param()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        yield reading, stream
    os.close(reading)


def fill(output: Output) -> int:
    """Put lines until nothing is taken any more; return how many were put."""
    count = 0
    while output.push():
        output.put(LINE, rows=1)
        count += 1
    return count


def read(descriptor: int, least: int = 0) -> bytes:
    """Return what is there now, or comes until so many bytes are there."""
    data = b""
    while select.select([descriptor], [], [], 60 if len(data) < least else 0)[0]:
        part = os.read(descriptor, 1 << 16)
        if not part:
            break
        data += part
    return data


def test_a_reader_that_stands_still_is_not_waited_for(ends: Ends) -> None:
    """What it has no room for stays, and is written, whole and in order, when it reads on."""
    reading, stream = ends
    output = Output(stream)
    count = fill(output)
    data = read(reading)
    while not output.push():
        data += read(reading)
    data += read(reading, count * len(LINE) - len(data))
    assert LINE.encode() * count == data
    output.close()


@pytest.mark.parametrize("ends", [pipe, sockets], indirect=True)  # a terminal takes its time
def test_what_is_dropped_and_what_is_read_are_all(ends: Ends) -> None:
    """Rows that were written in part count as lost."""
    reading, stream = ends
    output = Output(stream)
    count = fill(output)
    for _ in range(50):
        output.put(LINE, rows=1)
    output.push()
    dropped = output.drop()
    assert count + 50 == read(reading).count(b"\n") + dropped
    assert output.push()
    output.close()


@pytest.mark.parametrize("ends", [pipe, sockets], indirect=True)
def test_of_many_rows_at_once_those_that_were_read_are_known(ends: Ends) -> None:
    """Rows that are put together are counted one by one where their reader stands still."""
    reading, stream = ends
    output = Output(stream)
    output.put_all([(LINE, 1)] * 20_000)
    assert not output.push()
    data = read(reading)
    assert not output.push()
    dropped = output.drop()
    data += read(reading)
    assert 20_000 == dropped + data.count(b"\n")
    output.close()


class Lines(StreamSink):
    """Writes rows that are texts."""

    def _pieces(self, rows: Sequence[str]) -> Iterator[tuple[str, int]]:
        return ((row, 1) for row in rows)


def test_a_reader_who_reads_on_gets_all() -> None:
    """However much there is, it is handed over in one go; who takes nothing is not waited for."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        sink = Lines(stream)
        sink.write([LINE] * 50_000)
        assert not sink.flush(0.001)
        reader = threading.Thread(target=lambda: read(reading, 50_000 * len(LINE)))
        reader.start()
        assert sink.flush(60)
        reader.join()
        sink.close(NOTHING_LOST)
    os.close(reading)


def test_a_pipe_takes_whole_rows() -> None:
    """At the end of what a reader finds stands no half line."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", encoding="utf-8") as stream:
        output = Output(stream)
        fill(output)
        output.drop()
        assert read(reading).endswith(LINE.encode())
        output.close()
    os.close(reading)


def test_others_flags_stay(ends: Ends) -> None:
    """Who shares the stream still waits in a write, as before."""
    _, stream = ends
    output = Output(stream)
    fill(output)
    assert os.get_blocking(stream.fileno())
    output.close()


def test_a_stream_that_does_not_wait_by_itself(ends: Ends) -> None:
    """A stdout that others have made non-blocking is a stdout."""
    reading, stream = ends
    os.set_blocking(stream.fileno(), False)
    test_a_reader_that_stands_still_is_not_waited_for((reading, stream))


def test_a_pipe_that_cannot_be_opened_again(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be another user's: then it is written to when it says that there is room."""

    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(os, "open", refused)
    reading, stream = ends
    test_a_reader_that_stands_still_is_not_waited_for((reading, stream))


def test_to_wait_ends_when_there_is_room(ends: Ends) -> None:
    """However long it would be."""
    reading, stream = ends
    output = Output(stream)
    fill(output)
    read(reading)
    output.wait(60)
    before = output.drop()
    output.put(LINE, rows=before)
    assert output.push()
    output.close()


def test_a_reader_that_is_gone_is_noticed() -> None:
    """Also when there is nothing to write."""
    reading, writing = os.pipe()
    with contextlib.suppress(BrokenPipeError), os.fdopen(writing, "w") as stream:
        output = Output(stream)
        assert output.has_reader()
        os.close(reading)
        assert not output.has_reader()
        output.put(LINE)
        with pytest.raises(BrokenPipeError):
            output.push()
        output.close()


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """What was written before, by others or through the stream, stays."""
    file = tmp_path / "rows"
    file.write_text("first\n")
    with file.open("a", encoding="utf-8") as stream:
        stream.write("second\n")
        output = Output(stream)
        output.put("third\n", rows=1)
        assert output.push()
        assert 0 == output.drop()
        output.close()
    assert ["first", "second", "third"] == file.read_text().split()


def test_a_full_device_is_an_error() -> None:
    """It is raised, and what could not be written is still known."""
    with Path("/dev/full").open("w", encoding="utf-8") as stream:
        output = Output(stream)
        output.put(LINE, rows=3)
        with pytest.raises(OSError, match="No space"):
            output.push()
        assert 3 == output.drop()


def test_a_buffer_is_a_stream() -> None:
    """Text goes straight to what is no file."""
    stream = io.StringIO()
    output = Output(stream)
    output.put("a\n")
    assert output.push()
    assert output.has_reader()
    assert "a\n" == stream.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_encoding_is_escaped(kind: Callable[[], tuple[int, int]]) -> None:
    """A surrogate is no reason to end."""
    reading, writing = kind()
    with os.fdopen(writing, "w", encoding="ascii") as stream:
        output = Output(stream)
        output.put("\udcff\u2026\n")
        assert output.push()
        assert rb"\udcff\u2026" in read(reading, 1)
        output.close()
    os.close(reading)
