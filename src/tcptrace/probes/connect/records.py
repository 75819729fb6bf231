"""Records of attempts to connect."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from tcptrace.model.events import U32, Event, Milliseconds, Sequence32, error_name, one_of

OUTCOMES = {
    None: "aborted",
    "ECONNREFUSED": "refused",
    "ETIMEDOUT": "timeout",
    "EHOSTUNREACH": "unreachable",
    "ENETUNREACH": "unreachable",
}
"""What became of an attempt that ended without a connection, by its error."""
ENDS = (None, "established", "closed")
"""How an attempt that was followed left SYN_SENT, by number."""


@dataclasses.dataclass(slots=True, eq=False)
class Connect(Event):
    """One attempt to connect; `struct connect_event` in connect.bpf.c."""

    type = "connect"
    nullable = frozenset({"error"})
    derives_steadily = True

    latency_ms: Milliseconds
    """From the SYN to the end, where the attempt was followed."""
    iss: Sequence32
    """Initial send sequence number: of our end, once it is established (RFC 9293)."""
    irs: Sequence32
    """Initial receive sequence number: of the peer's end."""
    error: Annotated[str | None, "i", error_name]
    """Why it failed: inside the host, or where it was followed, in the end."""
    _end: Annotated[str | None, "I", one_of(*ENDS)]
    retransmits: U32 | None
    """SYN retransmissions, where it was followed."""
    outcome: str | None = None
    query: str | None = None
    query_age_ms: float | None = None

    def __post_init__(self) -> None:
        """Name the outcome."""
        if self._end is None:
            self.retransmits = None
        elif self._end == "established":
            self.outcome = "established"
        else:
            self.outcome = OUTCOMES.get(self.error, "error")
