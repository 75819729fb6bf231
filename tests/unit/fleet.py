"""Recordings of a fleet that is made up, for the tests of what joins them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tcptrace.model.kept import END_KEY, META_KEY
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta, meta_to_json
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.sinks.groups import schema_of

SECOND = 1_000_000_000
START_NS = 1_796_040_000 * SECOND
NETNS = 4026531840
OF_FLEETS = {"boot_id": pa.string(), "iss": pa.uint32(), "irs": pa.uint32()}
"""Columns without which recordings are read, too."""


def schema(*, numbers: bool = True) -> pa.Schema:
    """Return the columns of recordings, with sequence numbers or as they were before."""
    known = {field.name: field.type for field in schema_of(TRACER.row_classes)}
    more = OF_FLEETS if numbers else {}
    rest = {name: kind for name, kind in known.items() if name not in OF_FLEETS}
    return pa.schema([*rest.items(), *more.items()])


class Host:
    """A host that records, with a clock and an address of its own."""

    def __init__(self, name: str, address: str = "", *, ahead_s: float = 0, **known: Any) -> None:
        """Take what all of its rows have."""
        self.name = name
        self.address = address
        self.rows: list[dict[str, Any]] = []
        """What its recordings have."""
        self._ahead_ns = int(ahead_s * SECOND)
        self.known = {"netns": NETNS, "boot_id": f"boot of {name}", "family": 4, **known}

    def add(self, kind: str, at_s: float, ends: tuple[Any, ...], **values: Any) -> None:
        """Keep a row."""
        names = ("laddr", "lport", "raddr", "rport")
        at_ns = int(at_s * SECOND)
        self.rows.append(
            {
                "type": kind,
                "time": START_NS + at_ns + self._ahead_ns,
                "clock_offset_ns": START_NS + self._ahead_ns - 1,
                **self.known,
                **dict(zip(names, ends, strict=True)),
                **values,
            }
        )


class Fleet:
    """Hosts and what passes between them."""

    def __init__(self, root: Path) -> None:
        """Keep recordings below `root`."""
        self.root = root
        self._numbers = count(1000)
        self._ports = count(40_000)

    def connect(
        self,
        client: Host | None,
        server: Host | None,
        port: int,
        *,
        at_s: float = 1.0,
        programs: Sequence[str] = ("curl", "nginx"),
        seen: Sequence[tuple[Any, ...]] = (),
        numbers: bool = True,
        name: str | None = None,
        accepted_s: float = 0.0002,
        bytes_: tuple[int, int] | None = (100, 2000),
        address: str = "",
    ) -> None:
        """Make a connection, as each of its hosts sees it that is recorded.

        Args:
            client: who connects; None for somebody who is not recorded.
            server: who accepts, or None.
            port: of the server.
            at_s: seconds after `START_NS` by the true time.
            programs: the client's and the server's.
            seen: what translation has made of the ends: the client's view, then the server's, each
                with its own end first.
            numbers: whether sequence numbers are known.
            name: what the client has asked for.
            accepted_s: so long after it was established it was accepted.
            bytes_: what the client has sent and received; None where it did not end.
            address: of a client or server that is not recorded.

        """
        mine = (client.address if client else address, next(self._ports))
        peer = (server.address if server else address, port)
        views = seen or ((*mine, *peer), (*peer, *mine))
        iss, irs = next(self._numbers), next(self._numbers)
        if client:
            known = {"comm": programs[0]} | ({"iss": iss, "irs": irs} if numbers else {})
            client.add(
                "connect",
                at_s,
                views[0],
                outcome="established",
                latency_ms=Decimal("0.5"),
                query=name,
                **known,
            )
            if bytes_:
                tx, rx = bytes_
                client.add("close", at_s + 1, views[0], tx_bytes=tx, rx_bytes=rx, **known)
        if server:
            known = {"comm": programs[1]} | ({"iss": irs, "irs": iss} if numbers else {})
            server.add("accept", at_s + accepted_s, views[1], **known)
            if bytes_:
                rx, tx = bytes_
                server.add("close", at_s + 1, views[1], tx_bytes=tx, rx_bytes=rx, **known)

    def fail(
        self, client: Host, address: str, port: int, outcome: str = "refused", **values: Any
    ) -> None:
        """Make an attempt that fails."""
        ends = (None, None, address, port)
        values = {"comm": "curl", "at_s": 2.0, **values}
        client.add("connect", values.pop("at_s"), ends, outcome=outcome, **values)

    def keep(self, *hosts: Host, numbers: bool = True) -> Path:
        """Write what hosts have recorded, as a directory; return it."""
        for host in hosts:
            place = self.root / "date=2026-11-30" / f"host={host.name}"
            place.mkdir(parents=True, exist_ok=True)
            write(place / f"tracer-{len(list(place.iterdir()))}.parquet", host, numbers=numbers)
        return self.root


def write(
    path: Path, host: Host, *, numbers: bool = True, losses: Losses = NOTHING_LOST, at_s: float = 0
) -> None:
    """Write a host's recording to a file that was begun so long after `START_NS`."""
    boot = str(host.known["boot_id"])
    begun_ns = START_NS + int(at_s * SECOND)
    meta = Meta("tracer", "tracepoint", host.name, boot, "6.1", begun_ns)
    known = {
        META_KEY: json.dumps(meta_to_json(meta)).encode(),
        END_KEY: json.dumps(losses._asdict()).encode(),
    }
    columns = schema(numbers=numbers).with_metadata(known)
    table = pa.Table.from_pylist(list(_ordered(host.rows)), schema=columns)
    pq.write_table(table, path, compression="zstd")


def _ordered(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    yield from sorted(rows, key=lambda row: int(row["time"]))
