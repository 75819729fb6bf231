"""Events for the unit tests, made from bytes as the kernel sends them."""

from __future__ import annotations

import json
import struct
from ipaddress import ip_address
from typing import Any

from tcptrace.model.events import Decoder
from tcptrace.model.objects import object_of
from tcptrace.probes.accept.probe import ACCEPT, Accept
from tcptrace.probes.places import PATH_BYTES, Made
from tcptrace.sources.arrivals import Arrivals

ABSENT = 0xFFFFFFFF
HEAD = "=QQIIIIII16s16sHHHH16sQ"
OFFSET_NS = 100_000_000_000
DECODER = Decoder(ACCEPT.records)


def packed(address: str) -> bytes:
    """Return an address as the kernel sends it: 16 bytes, IPv4 in the first four."""
    return ip_address(address).packed.ljust(16, b"\0")


def accept_bytes(
    *,
    kind: int = 1,
    ts_ns: int = 1_500_000_000,
    cgroup_id: int = 4242,
    pid: int = 181,
    tid: int = 182,
    uid: int = 1000,
    netns: int = 4026531840,
    mntns: int = 4026531841,
    laddr: str = "192.0.2.1",
    raddr: str = "192.0.2.2",
    lport: int = 80,
    rport: int = 40000,
    comm: bytes = b"nginx",
    backlog: int = 2,
    backlog_max: int = 128,
    error: int = 0,
    who: int = 0,
) -> bytes:
    """Return a `struct accept_event`."""
    ids = (ts_ns, cgroup_id, kind, pid, tid, uid, netns, mntns)
    family = ip_address(laddr).version
    ends = (packed(laddr), packed(raddr), lport, rport, family, 0)
    head = struct.pack(HEAD, *ids, *ends, comm, who)
    return head + struct.pack("=IIiI2I", backlog, backlog_max, error, 0, 7, 8)


def made(cgroup_id: int, path: str = "/x") -> Made:
    """Return what the kernel tells of a new cgroup."""
    decoder = Decoder((Made,))
    head = accept_bytes(cgroup_id=cgroup_id, pid=0)[: decoder.layouts[0].size - PATH_BYTES]
    event = decoder.decode(head + path.encode().ljust(PATH_BYTES, b"\0"))
    assert isinstance(event, Made)
    return event


def accepted(data: bytes) -> Accept:
    """Return the event in `data`, as a source hands it over."""
    (event,) = Arrivals().fill([DECODER.decode(data)], OFFSET_NS)
    assert isinstance(event, Accept)
    return event


def json_line(row: Any, backend: str) -> str:
    """Return a row's line of JSON."""
    record: Any = type(row)
    return object_of(record, backend)(row, 0)


def to_json(row: Any, backend: str) -> dict[str, Any]:
    """Return a row as whoever reads JSON gets it."""
    result: dict[str, Any] = json.loads(json_line(row, backend))
    return result
