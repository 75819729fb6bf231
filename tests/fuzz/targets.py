"""What strangers choose the bytes of, and what must hold for any bytes.

A target takes bytes. It raises where tcptrace does anything but read them, or refuse them with the
error that is meant for that. What it reads must be fit for a terminal and for JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests.unit.dns import answer, message, opt, packet_bytes, record_bytes
from tests.unit.dns import asked as question_bytes
from tests.unit.records import accept_bytes, json_line
from tests.unit.test_kept import NOBODY_S, PROGRAMS
from tests.unit.test_recordings import META, PROBES, any_row, recording, seeded
from tests.unit.test_trace_buffer import FORMAT, HEADER_PAGE, large, small

from tcptrace.errors import TcptraceError
from tcptrace.kernel import cgroups, keeper, runtimes
from tcptrace.kernel.cgroup_paths import Place, owner_of, read_path
from tcptrace.kernel.trace_buffer import Page
from tcptrace.model.columns import values_of
from tcptrace.model.events import KIND, Decoder
from tcptrace.model.filters import BY_NAME, Filters
from tcptrace.model.identity import NO_PROGRAM, UNKNOWN
from tcptrace.model.kept import Classes
from tcptrace.model.losses import NOTHING_LOST
from tcptrace.model.systems import Recorded
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.dns.messages import is_header, read_packet
from tcptrace.probes.dns.probe import DNS, SENT, TCP
from tcptrace.probes.dns.transactions import Transactions
from tcptrace.probes.probe import Probe
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sinks.text import texts
from tcptrace.sources.arrivals import Arrivals
from tcptrace.sources.bpf import kept, store
from tcptrace.sources.recording.jsonl import JsonLines
from tcptrace.sources.recording.kept import KeptSource
from tcptrace.sources.recording.parquet import ParquetRows
from tcptrace.sources.tracefs.session import Layout

CONTAINER = "0123456789abcdef" * 4
DECODER = Decoder([record for probe in (ACCEPT, CONNECT, TRACER, DNS) for record in probe.records])
QUESTION = packet_bytes(0x0100, (question_bytes("a.test"),))
ANSWER = answer("a.test", "a.test. IN A 192.0.2.1")
LEAST_PIECE = 16
NUL = "\0"
_PLACE = tempfile.TemporaryDirectory(prefix="tcptrace-fuzz-")
"""For files; it goes with this process."""


class Target(NamedTuple):
    """What is fuzzed."""

    check: Callable[[bytes], None]
    """Raises for bytes that show a fault."""
    seeds: Callable[[], Iterable[bytes]]
    """Returns bytes that it reads to their end."""


def _is_shown(row: Any, probe: Probe) -> None:
    """Raise AssertionError where a row is not fit to be shown."""
    columns = (*probe.columns, *probe.extra_columns)
    for text in texts(values_of(columns)(row, row.ts_ns)):
        assert text.isprintable(), text
    assert isinstance(json.loads(json_line(row, "tracepoint")), dict)


def dns_message(data: bytes) -> None:
    """A DNS message as a packet has it; the first byte says how much was not captured."""
    length = len(data[1:]) + data[0] if data else 0
    is_header(data[1:], length)
    packet = read_packet(data[1:], length)
    assert packet.query is None or packet.query.isprintable()
    assert all(text.isprintable() for text in packet.answers)
    assert len(packet.addresses) <= len(data)


def _dns_messages() -> Iterator[bytes]:
    records = ("a.test. IN CNAME b.test.", "b.test. IN AAAA 2001:db8::1", 'b.test. IN TXT "x"')
    yield b"\0" + QUESTION
    yield b"\0" + ANSWER
    yield b"\0" + answer("a.test", *records)
    yield b"\x20" + answer("_x._tcp.test", "_x._tcp.test. IN SRV 1 2 80 a.test.", kind="SRV")
    loop = record_bytes(b"\xc0\x0c", 5, b"\xc0\x0c")
    yield b"\0" + packet_bytes(0x8183, (question_bytes("a.test"),), (loop,), (opt(1),))


def dns_stream(data: bytes) -> None:
    """Pieces of sockets' streams and packets, in any order: what is asked, answered, missed."""
    exchanges, at, ts_ns = Transactions(1_000), 0, 0
    while at + LEAST_PIECE // 4 <= len(data):
        way, size, more, step = data[at : at + 4]
        at, ts_ns = at + 4, ts_ns + step
        piece = data[at : at + size]
        at += size
        values: dict[str, Any] = {
            "flags": (SENT if way & 1 else 0) | (TCP if way & 2 else 0),
            "socket": 1 + (way >> 2 & 1),
            "error": 111 if way & 8 else 0,
            "tid": 1 + (way >> 4 & 1),
            "ts_ns": ts_ns,
            "wall_ns": ts_ns,
            "length": len(piece) + more,
            "family": 4,
            "laddr": "192.0.2.1",
            "lport": 4000,
            "raddr": "192.0.2.53",
            "rport": 53,
            "sent": 0,
            "comm": "client",
            "identity": UNKNOWN,
            "program": NO_PROGRAM,
        }
        for row in exchanges.rows([message(piece, **values)]):
            _is_shown(row, DNS)
        if way & 128:
            exchanges.note_lost(step, ts_ns)
        for row in exchanges.timed_out(ts_ns):
            _is_shown(row, DNS)


def _dns_streams() -> Iterator[bytes]:
    def piece(way: int, data: bytes, more: int = 0) -> bytes:
        return bytes([way, len(data), more, 1]) + data

    framed = struct.pack("!H", len(ANSWER)) + ANSWER
    yield piece(1, QUESTION) + piece(0, ANSWER)
    yield piece(3, struct.pack("!H", len(QUESTION)) + QUESTION) + piece(2, framed)
    yield piece(2, framed[:9]) + piece(2, framed[9:]) + piece(2, framed[:20], 14) + piece(2, framed)
    yield piece(1, QUESTION) + piece(9, QUESTION) + piece(129, QUESTION)


def ring_records(data: bytes) -> None:
    """A record of the ring buffer: of any kind, size and content."""
    try:
        event = DECODER.decode(data)
    except TcptraceError as refused:
        assert "please report it" in str(refused)  # noqa: PT017 - the error is the answer
        return
    for filled in Arrivals().fill([event], 0):
        if not hasattr(filled, "payload"):
            probe = next(each for each in PROBES.values() if type(event) in each.records)
            _is_shown(filled, probe)


def _ring_records() -> Iterator[bytes]:
    yield accept_bytes()
    for kind, layout in enumerate(DECODER.layouts, 1):
        data = bytearray(number % 256 for number in range(layout.size))
        data[KIND] = kind.to_bytes(4, sys.byteorder)
        yield bytes(data)


def tracefs_page(data: bytes) -> None:
    """A page of tracefs' buffer, and the fields of what it holds."""
    layout = Layout("accept", FORMAT)
    with contextlib.suppress(struct.error):  # the end of a page that is no page
        for record in Page(HEADER_PAGE).records(data):
            assert isinstance(layout.fields(record.data)["comm"], bytes)


def _tracefs_pages() -> Iterator[bytes]:
    event = bytes(range(48))
    for body in (small(event), large(event) + small(event), b""):
        yield struct.pack("=QQ", 7, len(body)) + body


def _read_all(source: KeptSource, probe: Probe) -> None:
    with contextlib.closing(source):
        for batch in source.batches():
            for row in batch.events:
                _is_shown(row, probe)


def _in_file(data: bytes, suffix: str) -> str:
    """Return the path of a file with this content."""
    path = Path(_PLACE.name) / f"file{suffix}"
    path.write_bytes(data)
    return str(path)


def recording_jsonl(data: bytes) -> None:
    """A recording in JSON Lines."""
    path = _in_file(data, ".jsonl")
    for probe in (ACCEPT, TRACER):
        with contextlib.suppress(TcptraceError):
            _read_all(JsonLines(path, Classes(probe.row_classes), []), probe)


def recording_parquet(data: bytes) -> None:
    """A recording in a Parquet file."""
    path = _in_file(data, ".parquet")
    with contextlib.suppress(TcptraceError):
        filters = Filters({}, ACCEPT.port_fields)
        _read_all(ParquetRows(path, Classes(ACCEPT.row_classes), filters, []), ACCEPT)


def _recordings(suffix: str, probes: Sequence[Probe]) -> Iterator[bytes]:
    for probe in probes:
        for count in (0, 3):
            with tempfile.TemporaryDirectory() as directory:
                path = Path(directory) / f"recording{suffix}"
                sink = recording(path, probe)
                sink.open(META)
                chance = seeded(probe.name)
                sink.write([any_row(probe.row_classes[0], chance) for _ in range(count)])
                sink.flush()
                sink.close(NOTHING_LOST)
                yield path.read_bytes()


def kept_programs(data: bytes) -> None:
    """A file of kept programs, with a checksum of its own and with one that is right."""
    rightly = data + blake2b(data, digest_size=store._CHECKSUM).digest()
    for file in (data, rightly):
        with contextlib.suppress(store.DamagedError):
            kept.check(store.unpack(file))


def _kept_programs() -> Iterator[bytes]:
    fields = kept.encode_programs(PROGRAMS, NOBODY_S)
    whole = store.pack([kept._KIND_PROGRAMS, *fields])
    yield whole
    yield whole[: -store._CHECKSUM]


def filter_expressions(data: bytes) -> None:
    """What is typed behind a filter's option; the first byte says which."""
    name = sorted(BY_NAME)[data[0] % len(BY_NAME)] if data else "port"
    text = os.fsdecode(data[1:].replace(b"\0", b""))  # no argument of a process has a NUL
    entry = BY_NAME[name]
    try:
        value = entry.parse([text] if entry.multiple else text, Recorded())
    except ValueError as refused:
        assert str(refused)  # noqa: PT017 - the error is the answer
        return
    filters = Filters({name: value}, ("lport",))
    for given in filters.defines().values():
        assert NUL not in str(given)
    assert NUL not in filters.expression(("lport",))
    assert filters.texts()


def _filter_expressions() -> Iterator[bytes]:
    for number in range(len(BY_NAME)):
        for text in ("80,8000-8100", "!22", "1000", "nginx,!sh*", "/system.slice", "4", "[::1]/64"):
            yield bytes([number]) + text.encode()


def cgroup_paths(data: bytes) -> None:
    """The path of a cgroup, and a line of mountinfo."""
    path = os.fsdecode(data)
    place = read_path(path)
    owner_of(path)
    assert place.container is None or place.container
    with mock.patch.object(cgroups, "MOUNTS") as mounts:
        mounts.read_bytes.return_value = data
        with contextlib.suppress(ValueError):  # fewer fields than the kernel has written
            list(cgroups._mounts())


def _cgroup_paths() -> Iterator[bytes]:
    yield b"/system.slice/nginx.service"
    yield b"/user.slice/user-1000.slice/user@1000.service/app.slice/app-my\\x2dapp@1.service"
    yield f"/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{CONTAINER}.scope".encode()
    yield f"/machine.slice/libpod-{CONTAINER}.scope/container".encode()
    yield b"/machine.slice/systemd-nspawn@a\\x2db.service/payload"
    yield b"/lxc.payload/web/system.slice/x.service"
    yield b"30 23 0:26 / /sys/fs/cgroup\\040two rw - cgroup2 cgroup2 rw\n"


def container_files(data: bytes) -> None:
    """What a runtime keeps about a container, or somebody has put in its place."""
    root = Path(_PLACE.name)
    files = (
        root / "docker/containers" / CONTAINER / "config.v2.json",
        root / "storage/overlay-containers/containers.json",
        root / "storage/overlay-containers" / CONTAINER / "userdata/config.json",
        root / "tasks/k8s.io" / CONTAINER / "config.json",
    )
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    where = runtimes.Places([root / "docker"], [root / "storage"], [root / "tasks"])
    for runtime in (None, "docker", "podman", "containerd", "cri-o"):
        names = runtimes.names_of(Place(None, CONTAINER, runtime, None), where)
        assert all(name is None or isinstance(name, str) for name in names)


def _container_files() -> Iterator[bytes]:
    labels = {
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.container.manager": "cri-o",
    }
    yield json.dumps({"Name": "/web", "Config": {"Labels": labels}}).encode()
    yield json.dumps([{"id": CONTAINER, "names": ["web"]}]).encode()
    yield json.dumps({"annotations": labels}).encode()


class _Followed:
    """Stands for what is made in tracefs; takes nothing but ids of threads."""

    def follow(self, thread: int) -> None:
        """Raise AssertionError where no thread can have this id."""
        assert type(thread) is int
        assert 0 <= thread < 1 << 22

    def stop(self) -> None:
        """Do nothing."""

    def missed(self) -> int:
        """Return nothing."""
        return 0


def keeper_questions(data: bytes) -> None:
    """What somebody asks the keeper who has taken the tracing process over."""
    held: Any = keeper.Holdings(instance=_Followed())  # type: ignore[arg-type]
    refusals = (OSError, ValueError, TypeError, KeyError, RecursionError)
    with contextlib.suppress(*refusals):  # at the last four it ends
        assert isinstance(keeper._Office(held).answer(data), bytes)


def _keeper_questions() -> Iterator[bytes]:
    questions = (
        ("path_of", 1),
        ("names", f"/user.slice/user-1000.slice/libpod-{CONTAINER}.scope"),
        ("user", 0),
        ("is_running", 1),
        ("skipped",),
        ("table", "a", 4, 8),
        ("put", "a", "00", "00"),
        ("signal", 15),
        ("missed",),
        ("stop",),
        ("follow", 1),
        ("detach",),
    )
    yield from (json.dumps(question).encode() for question in questions)


TARGETS = {
    "dns-message": Target(dns_message, _dns_messages),
    "dns-stream": Target(dns_stream, _dns_streams),
    "ring-records": Target(ring_records, _ring_records),
    "tracefs-page": Target(tracefs_page, _tracefs_pages),
    "recording-jsonl": Target(recording_jsonl, lambda: _recordings(".jsonl", (ACCEPT, TRACER))),
    "recording-parquet": Target(recording_parquet, lambda: _recordings(".parquet", (ACCEPT,))),
    "kept-programs": Target(kept_programs, _kept_programs),
    "filter-expressions": Target(filter_expressions, _filter_expressions),
    "cgroup-paths": Target(cgroup_paths, _cgroup_paths),
    "container-files": Target(container_files, _container_files),
    "keeper-questions": Target(keeper_questions, _keeper_questions),
}
