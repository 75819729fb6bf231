"""Which rows of connections filters keep, as the kernel judges them: `Kept`."""

from __future__ import annotations

from typing import Any

from tcptrace.model.filters import Filters


class Kept:
    """Judges the rows of a trace, or of a recording, in their order.

    The end of a connection is kept where its beginning was, whoever closed it: an X follows its C
    or A.
    """

    def __init__(self, filters: Filters) -> None:
        """Judge by `filters`; what they ask of the system, they ask now."""
        self._keeps = filters.predicate()
        self._begun: set[tuple[Any, ...]] = set()

    def __call__(self, row: Any) -> bool:
        """Tell whether a row is kept."""
        ends = (row.netns, row.laddr, row.lport, row.raddr, row.rport, row.link)
        keeps = self._keeps(row)
        if row.type == "close":
            keeps = keeps or ends in self._begun
            self._begun.discard(ends)
        elif keeps:
            self._begun.add(ends)
        else:
            self._begun.discard(ends)
        return keeps
