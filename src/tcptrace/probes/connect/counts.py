"""How many attempts there were: as the kernel counts them, and of attempts that come as events."""

from __future__ import annotations

import dataclasses
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from tcptrace.model.batch import Batch
from tcptrace.model.events import Row, address_text


@dataclasses.dataclass(slots=True, eq=False)
class Count(Row):
    """How many attempts there were between two addresses to one port; `struct count_key`."""

    type: ClassVar[str] = "count"

    ts_ns: int
    """When it was read."""
    family: int
    laddr: str | None
    lport: int | None
    """Absent unless they were counted by it."""
    raddr: str | None
    rport: int | None
    connects: int

    @property
    def weight(self) -> int:
        """How many attempts the row stands for."""
        return self.connects


COUNT_KEY = struct.Struct("=16s16sHHI")


def read_counts(table: Mapping[bytes, bytes], batch: Batch) -> list[Count]:
    """Return the entries of the map `counts`, as of the end of a batch."""
    rows = []
    for key, value in table.items():
        laddr, raddr, lport, rport, family = COUNT_KEY.unpack(key)
        rows.append(
            Count(
                ts_ns=batch.until_ns,
                wall_ns=batch.wall_ns(batch.until_ns),
                family=family,
                laddr=address_text(laddr, family) if any(laddr) else None,
                lport=lport or None,
                raddr=address_text(raddr, family),
                rport=rport,
                connects=int.from_bytes(value, sys.byteorder),
            )
        )
    return rows


def merged(rows: Iterable[Count]) -> list[Count]:
    """Return rows with those of the same ends added up."""
    known: dict[tuple[Any, ...], Count] = {}
    for row in rows:
        ends = row.family, row.laddr, row.lport, row.raddr, row.rport
        if ends in known:
            known[ends].connects += row.connects
        else:
            known[ends] = row
    return list(known.values())


class Counted:
    """Counts attempts that come as events, as the kernel counts them."""

    def __init__(self, *, by_lport: bool) -> None:
        """Have none; count by local port, too, where that is wanted."""
        self._by_lport = by_lport
        self._counts: Counter[tuple[Any, ...]] = Counter()

    def add(self, attempts: Iterable[Any]) -> None:
        """Count attempts."""
        self._counts.update(map(self._key, attempts))

    def _key(self, attempt: Any) -> tuple[Any, ...]:
        lport = attempt.lport if self._by_lport else None
        return attempt.family, attempt.laddr, lport, attempt.raddr, attempt.rport

    def rows(self, batch: Batch) -> list[Count]:
        """Return the counts, as of the end of a batch."""
        now_ns = batch.until_ns
        return [
            Count(
                ts_ns=now_ns,
                wall_ns=batch.wall_ns(now_ns),
                family=family,
                laddr=laddr,
                lport=lport,
                raddr=raddr,
                rport=rport,
                connects=count,
            )
            for (family, laddr, lport, raddr, rport), count in self._counts.items()
        ]
