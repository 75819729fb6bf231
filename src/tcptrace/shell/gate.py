"""``--only`` and its like: whether all attempts to connect were permitted."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tcptrace.errors import ForbiddenError, UncertainError
from tcptrace.model.destinations import Destinations
from tcptrace.model.events import NewTable
from tcptrace.model.losses import NOTHING_LOST, Losses
from tcptrace.model.meta import Meta
from tcptrace.sinks.color import PLAIN
from tcptrace.sinks.layout import Cell
from tcptrace.sinks.table import write_plain
from tcptrace.sinks.text import texts

MOST_KEPT = 10_000
"""How many different offenders are told apart."""
MOST_SHOWN = 100
FORBIDDEN, NEW = "what is not permitted", "what BASE does not have"
"""What messages call other destinations: those not in a list, or not in BASE."""
HEADINGS = ("PROGRAM", "PID", "NAME", "ADDRESS", "PORT", "RESULT", "TIMES")


class Offender(NamedTuple):
    """An attempt that was not permitted: who made it, to what, and how it ended."""

    program: str | None
    pid: int | None
    name: str | None
    address: str | None
    port: int | None
    result: str


def _offender(row: Any) -> Offender:
    program = row.exe or row.comm
    return Offender(program, row.pid, row.query, row.raddr, row.rport, _result(row))


def _result(row: Any) -> str:
    if row.outcome in {None, "error"}:
        return row.error or "not known"
    return str(row.outcome)


class Gate:
    """Looks at all rows, as a sink, for attempts to connect that are not permitted."""

    def __init__(self, permitted: Destinations, others: str = FORBIDDEN) -> None:
        """Let attempts to these destinations pass; `others` is what people call all others."""
        self._permitted = permitted
        self._others = others
        self._offenders: Counter[Offender] = Counter()
        self._untold = 0
        """Attempts of offenders that were too many to be told apart."""

    def open(self, meta: Meta) -> None:
        """Do nothing: the rows are enough."""

    def write(self, rows: Sequence[Any]) -> None:
        """Look at rows."""
        for row in rows:
            if row.__class__ is not NewTable and row.type == "connect":
                self._look(row)

    def _look(self, row: Any) -> None:
        if self._permitted.have(row):
            return
        offender = _offender(row)
        if offender in self._offenders or len(self._offenders) < MOST_KEPT:
            self._offenders[offender] += 1
        else:
            self._untold += 1

    def note(self, losses: Losses) -> None:
        """Do nothing: `judge` is given the losses."""

    def flush(self, _seconds: float = 0) -> bool:
        """Return true: no row waits here."""
        return True

    def drop(self) -> int:
        """Return 0: no row waits here."""
        return 0

    def is_closed(self) -> bool:
        """Return false: it looks at rows whether or not somebody reads them."""
        return False

    def close(self, losses: Losses) -> None:
        """Do nothing: `judge` comes later."""

    def judge(self, losses: Losses, doubt: str | None, status: int | None) -> None:
        """Raise an error unless all attempts were seen, and permitted.

        Args:
            losses: what may be missing.
            doubt: why attempts may not have been seen, beside that.
            status: with which the command has ended.

        Raises:
            ForbiddenError: something was not permitted.
            UncertainError: nothing was found, but something may have been missed.

        """
        ended = f"\nThe command itself has ended with {status}" if status else ""
        if self._offenders:
            raise ForbiddenError("\n".join(self._verdict()) + ended)
        if doubt is None and losses != NOTHING_LOST:
            doubt = str(losses)
        if doubt:
            raise UncertainError(
                f"no attempt to connect to {self._others} was seen, but not all was seen: "
                f"{doubt}{ended}"
            )

    def _verdict(self) -> Iterator[str]:
        """Yield lines that tell what was found."""
        number = self._offenders.total() + self._untold
        attempts = "1 attempt" if number == 1 else f"{number} attempts"
        yield f"{attempts} to connect to {self._others}:"
        shown = [*self._offenders.items()][:MOST_SHOWN]
        table = io.StringIO()
        rows = [tuple(map(Cell, texts((*offender, times)))) for offender, times in shown]
        write_plain(HEADINGS, rows, table, PLAIN)
        yield table.getvalue().rstrip("\n")
        more = number - sum(times for _, times in shown)
        if more:
            yield f"and {more} more"
