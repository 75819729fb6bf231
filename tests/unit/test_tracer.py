"""Connections' records, their columns, and the connections that are open at the start."""

from __future__ import annotations

import errno
import os
import platform
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.unit.records import HEAD, packed, to_json

from tcptrace.commands.tracer import tracer as command
from tcptrace.kernel import sockets
from tcptrace.kernel.sockets import Connection, Ends, Process
from tcptrace.model.columns import Column
from tcptrace.model.events import Decoder, Event
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.model.systems import Cgroup, PinnedMap
from tcptrace.probes.connect.probe import FAILED
from tcptrace.probes.tracer.open_connections import OpenConnections
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.probes.tracer.records import BY_OWNER, OLDER, PASSED, Closed, Connected, Open
from tcptrace.shell.host import Host
from tcptrace.shell.plan import make_output

Found = Callable[..., OpenConnections]
DECODER, FAILED_DECODER = Decoder(TRACER.records), Decoder(FAILED.records)
SERVER, CLIENT, NETNS = "192.0.2.1", "192.0.2.2", 4026531840


def head(kind: int, *, pid: int = 181, lport: int = 40000, ts_ns: int = 1_500_000_000) -> bytes:
    """Return a `struct event` of a client's connection."""
    ids = (ts_ns, 4242, kind, pid, pid, 1000, NETNS, 4026531841)
    ends = (packed(CLIENT), packed(SERVER), lport, 443, 4, 0)
    return struct.pack(HEAD, *ids, *ends, b"curl", 0)


def connected(*, link: int = 0, **changes: int) -> Event:
    """Return a connection's beginning."""
    return DECODER.decode(head(1, **changes) + struct.pack("=QIIII", 1_500_000, 7, 8, link, 0))


def closed(
    *,
    flags: int = PASSED,
    ended_by: int = 1,
    error: int = 0,
    ns: int = 2_500_000,
    link: int = 0,
    **changes: int,
) -> Event:
    """Return a connection's end."""
    counters = struct.pack(
        "=QQQIIiIIIIIQ", ns, 1000, 2000, 3, ended_by, error, flags, 7, 8, link, 0, 4242
    )
    return DECODER.decode(head(2, **changes) + counters)


def as_json(event: Event) -> dict[str, Any]:
    """Return what JSON has of an event, but for its head."""
    whole = to_json(event, "tracepoint")
    of_head = to_json(connected(), "tracepoint").keys() - {"type", "latency_ms", "iss", "irs"}
    own = {"error", "outcome"}
    return {key: value for key, value in whole.items() if key not in of_head - own}


def test_a_connect_says_that_it_succeeded() -> None:
    """A connect has what `tcptrace connect --outcome` says of one."""
    expected = {
        "type": "connect",
        "latency_ms": 1.5,
        "iss": 7,
        "irs": 8,
        "error": None,
        "outcome": "established",
    }
    assert expected == as_json(connected())


def test_a_close_has_its_figures() -> None:
    """A close has duration, bytes, retransmitted segments, and who ended it."""
    figures = {"duration_ms": 2.5, "tx_bytes": 1000, "rx_bytes": 2000, "retransmits": 3}
    figures |= {"iss": 7, "irs": 8}
    assert {"type": "close", **figures, "ended_by": "local"} == as_json(closed())
    reset = closed(flags=PASSED | BY_OWNER, ended_by=3, error=-errno.ECONNRESET)
    more = {"ended_by": "reset", "error": "ECONNRESET", "closer": "owner"}
    assert {"type": "close", **figures, **more} == as_json(reset)


def test_a_close_of_an_older_connection_has_no_duration() -> None:
    """What is not known is absent."""
    actual = as_json(closed(ns=0, flags=OLDER | PASSED))
    assert "duration_ms" not in actual


def shown(*arguments: str) -> Sequence[Column]:
    """Return the columns that a command line shows."""
    context = command.make_context("tracer", list(arguments))
    return make_output(TRACER, command.params, context.params).columns


@pytest.mark.parametrize(
    ("arguments", "headings"),
    [
        ([], "T PID COMM IP SADDR DADDR SPORT DPORT"),
        (["-t"], "TIME(s) T PID COMM IP SADDR DADDR SPORT DPORT"),
        (["-v"], "TYPE PID COMM IP SADDR DADDR SPORT DPORT NETNS"),
        (["-v", "-t"], "TIME(ns) TYPE PID COMM IP SADDR DADDR SPORT DPORT NETNS"),
        (["--stats"], "T PID COMM IP SADDR DADDR SPORT DPORT MS TX RX RETR"),
        (["-U"], "UID T PID COMM IP SADDR DADDR SPORT DPORT"),
        (["--failed", "-d"], "T PID COMM IP SADDR DADDR SPORT DPORT RESULT LAT(ms) QUERY"),
    ],
)
def test_columns(arguments: Sequence[str], headings: str) -> None:
    """Columns are those of bcc's tcptracer, in its order."""
    assert headings.split() == [column.heading for column in shown(*arguments)]


def cells(event: Event, *arguments: str) -> list[object]:
    """Return an event's cells."""
    return [column.value(event, event.ts_ns) for column in shown(*arguments)]


def test_cells() -> None:
    """Figures stand in rows of closed connections only; -v spells the type out."""
    ends = [4, CLIENT, SERVER, 40000, 443]
    assert ["C", 181, "curl", *ends, None, None, None, None] == cells(connected(), "--stats")
    assert ["X", 181, "curl", *ends, "2.500", 1000, 2000, 3] == cells(closed(), "--stats")
    assert [0, "close", 181, "curl", *ends, NETNS] == cells(closed(), "-v", "-t")


def test_cells_of_attempts_and_names() -> None:
    """F is an attempt that failed, with its outcome; C and O have names, other rows none."""
    failed = FAILED_DECODER.decode(
        head(1, lport=0) + struct.pack("=QIIiIII", 0, 0, 0, -errno.EACCES, 2, 0, 0)
    )
    options = ("--failed", "-d", "--columns", "type,result,lat,err,query")
    assert ["F", "EACCES", None, "EACCES", "No DNS Query"] == cells(failed, *options)
    begin: Any = connected()
    begin.query, begin.query_age_ms = "web.test", 1.0
    assert ["C", "established", "1.500", None, "web.test"] == cells(begin, *options)
    assert ["X", None, None, None, None] == cells(closed(), *options)
    assert "failed" == cells(failed, "-v")[0]


def test_v_is_one_option() -> None:
    """-v is in place of the shared option, not beside it."""
    assert 1 == sum("-v" in option.opts for option in command.params)


PROCESS = Process(181, b"curl", 4026531841, (4242, 1))
OTHER = Process(182, b"wget", 4026531842, (4243, 1))
ENDS = Ends(NETNS, CLIENT, 40000, SERVER, 443, 0)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    """Return a function that finds one connection, which two processes have, under filters."""

    def find(*held: Connection, **filters: object) -> OpenConnections:
        monkeypatch.setattr(sockets, "connections", lambda _: list(held))
        monkeypatch.setattr(sockets, "holders", lambda inodes: {5: [181, 182]} if inodes else {})
        monkeypatch.setattr(sockets, "process", {181: PROCESS, 182: OTHER}.get)
        return OpenConnections(Filters(filters))

    return find


HELD = Connection(ENDS, 1000, 5)


@pytest.mark.parametrize(
    ("name", "value", "pid"),
    [
        ("pid", ["181-183"], 181),
        ("pid", ["182"], 182),
        ("pid", ["!181"], 182),
        ("pid", ["183"], None),
        ("uid", ["1000"], 181),
        ("uid", ["!1000"], None),
        ("port", ["443"], 181),
        ("port", ["40000"], 181),
        ("port", ["80"], None),
        ("port", ["!443"], None),
        ("comm", ["wget"], 182),
        ("comm", ["nginx"], None),
        ("netns", [str(NETNS)], 181),
        ("netns", ["1"], None),
    ],
)
def test_filters_hold_for_what_is_open(
    found: Found, name: str, value: list[str], pid: int | None
) -> None:
    """An open connection is shown with the first process that passes, or not at all."""
    rows = list(found(HELD, **{name: BY_NAME[name].parse(value, Host())}).rows([]))
    assert ([pid] if pid else []) == [row.pid for row in rows]


@pytest.mark.parametrize(
    ("name", "value", "pid"),
    [
        ("family", 4, 181),
        ("family", 6, None),
        ("cgroup", (Cgroup(4243, None),), 182),
        ("cgroup", (Cgroup(1, None),), 181),
        ("cgroup", (Cgroup(7, None),), None),
        ("cgroupmap", PinnedMap("", lambda: {4243}), 182),
        ("cgroupmap", PinnedMap("", lambda: {1}), None),
        ("mntnsmap", PinnedMap("", lambda: {4026531842}), 182),
        ("mntnsmap", PinnedMap("", lambda: {7}), None),
    ],
)
def test_container_filters_hold_for_what_is_open(
    found: Found, name: str, value: object, pid: int | None
) -> None:
    """--cgroup is for those below, too; the maps are for the very ids."""
    rows = list(found(HELD, **{name: value}).rows([]))
    assert ([pid] if pid else []) == [row.pid for row in rows]


def test_an_open_connection_has_its_holders(found: Found) -> None:
    """JSON has what is known of the process, and the ids of all that hold the socket."""
    (row,) = found(HELD).rows([])
    actual = to_json(row, "tracepoint")
    assert [181, 182] == actual["holders"]
    assert ("open", 181, "curl", 1000, 4242) == tuple(
        actual[key] for key in ("type", "pid", "comm", "uid", "cgroup_id")
    )
    assert "tid" not in actual


def test_a_connection_without_process_is_shown_without(
    found: Found,
) -> None:
    """Of what the kernel itself holds, nothing is guessed; a filter on processes drops it."""
    nobody = Connection(ENDS, 1000, 6)
    (row,) = found(nobody).rows([])
    actual = to_json(row, "tracepoint")
    assert not {"pid", "tid", "uid", "comm", "mntns", "cgroup_id", "holders"} & actual.keys()
    assert [] == list(found(nobody, pid=BY_NAME["pid"].parse(["181"], Host())).rows([]))


def types(rows: Sequence[Event]) -> list[tuple[str, int | None]]:
    """Return types and process ids of rows."""
    return [(row.type, row.pid) for row in rows]


def test_what_events_tell_is_not_shown_again(found: Found) -> None:
    """A connection that began after the probes were attached is shown as that alone."""
    assert [("connect", 181)] == types(list(found(HELD).rows([connected()])))


def test_what_was_connecting_is_shown_as_open(found: Found) -> None:
    """A connect that began before the trace has no process; the open connection has."""
    assert [("open", 181)] == types(list(found(HELD).rows([connected(pid=0)])))


def test_what_ended_meanwhile_was_open(found: Found) -> None:
    """A connection that ends before it can be found has a beginning, without a process."""
    rows = list(found().rows([closed(flags=OLDER | PASSED), connected()]))
    assert [("open", None), ("close", 181), ("connect", 181)] == types(rows)


def test_a_socket_that_was_closed_meanwhile_has_no_holder(
    found: Found,
) -> None:
    """By the time that holders are looked for, the number of its socket may be another's."""
    rows = list(found(HELD).rows([closed(flags=OLDER | PASSED)]))
    assert [("open", None), ("close", 181)] == types(rows)
    assert [] == list(found(HELD).rows([closed(flags=OLDER)]))


def test_what_is_shown_as_open_is_not_shown_to_begin(found: Found) -> None:
    """A task can be about to return from accept when its connection is found."""
    rows = found(HELD)
    events = [*rows.rows([]), *rows.follow([connected(), closed(), connected()])]
    assert ["open", "close", "connect"] == [event.type for event in events]


def test_the_owner_of_an_open_connection_is_named(found: Found) -> None:
    """Where the kernel does not know who had it, the process that was found does."""
    rows = found(HELD)
    opened, ended = [*rows.rows([]), *rows.follow([closed(pid=0, flags=OLDER, ended_by=3)])]
    assert isinstance(opened, Open)
    assert isinstance(ended, Closed)
    assert (181, "owner", "curl") == (ended.pid, ended.closer, ended.comm)


def test_the_same_ends_on_another_link_are_another_connection(
    found: Found,
) -> None:
    """Sockets that are bound to interfaces can have the same addresses and ports."""
    connections = found(*(Connection(ENDS._replace(link=link), 1000, 5) for link in (2, 3)))
    rows = list(connections.rows([closed(link=2, flags=OLDER | PASSED), connected(link=4)]))
    assert ["open", "open", "close", "connect"] == [row.type for row in rows]
    assert [("close", 181)] == types(list(connections.follow([closed(link=3, pid=0, flags=OLDER)])))


def test_what_was_open_has_no_time_after_what_follows(
    found: Found,
) -> None:
    """Events can come before the open connections have been found."""
    other = connected(lport=40001, ts_ns=7)
    assert [7, 7] == [row.ts_ns for row in found(HELD).rows([other])]


def test_only_ends_of_what_was_shown_are_shown(found: Found) -> None:
    """The kernel sends the ends of all older connections; those that filters drop are not shown."""
    entry = found(HELD, pid=BY_NAME["pid"].parse(["7"], Host()))
    assert [] == list(entry.rows([closed(flags=OLDER)]))
    assert [] == list(entry.follow([closed(flags=OLDER)]))
    assert [("close", 181)] == types(list(entry.follow([closed(flags=OLDER | PASSED)])))


def test_who_holds_a_socket() -> None:
    """Holders are found by the socket's inode number, and described."""
    with socket.socket() as one:
        inode = os.fstat(one.fileno()).st_ino
        assert os.getpid() in sockets.holders({inode})[inode]
    known = sockets.process(os.getpid())
    assert known
    assert Path("/proc/self/comm").read_bytes() == known.comm + b"\n"
    assert Path("/proc/self/ns/mnt").stat().st_ino == known.mntns


WITHOUT_FIRST_THREAD = """
import ctypes, os, socket, sys, threading

def hold():
    with socket.socket() as held:
        print(os.fstat(held.fileno()).st_ino, flush=True)
        sys.stdin.read()
    os._exit(0)

threading.Thread(target=hold).start()
ctypes.CDLL(None).syscall(int(sys.argv[1]), 0)
"""
SYS_EXIT = {"x86_64": 60, "aarch64": 93}


def test_a_process_whose_first_thread_has_ended_is_known() -> None:
    """Its other threads tell what it holds, and where it is."""
    command = [sys.executable, "-c", WITHOUT_FIRST_THREAD, str(SYS_EXIT[platform.machine()])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        inode = int(process.stdout.readline())
        stat = Path(f"/proc/{process.pid}/stat")
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert {inode: [process.pid]} == sockets.holders({inode})
        known = sockets.process(process.pid)
        process.communicate(timeout=20)
    assert known
    assert Path("/proc/self/ns/mnt").stat().st_ino == known.mntns


def test_a_process_that_has_ended_is_not_known() -> None:
    """Nothing is known of a process id that nobody has."""
    assert sockets.process(2**22 + 1) is None


def test_kinds_are_told_apart() -> None:
    """Both records come from one buffer."""
    assert (Connected, Closed) == (type(connected()), type(closed()))
