"""What `TRACER` tells: connections that begin, end, or were open before."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from tcptrace.model.events import (
    U32,
    U64,
    Event,
    Milliseconds,
    OnLink,
    Sequence32,
    error_name,
    one_of,
)

BY_OWNER, OLDER, PASSED, BY_OPENER, BY_CLOSER, ASKED = 1, 2, 4, 8, 16, 32
ENDED_BY = (None, "local", "remote", "reset")


@dataclasses.dataclass(slots=True, eq=False)
class Connected(OnLink, Event):
    """A connection that a process of this host opened; `struct tracer_connect` in tracer.bpf.c.

    It has the keys of a `Connect`, so recordings have attempts that failed as rows of this class.
    """

    type = "connect"
    nullable = frozenset({"error"})

    latency_ms: Milliseconds
    """From the SYN to ESTABLISHED; absent where the trace began between them."""
    iss: Sequence32
    """Initial send sequence number: of our end (RFC 9293)."""
    irs: Sequence32
    """Initial receive sequence number: of the peer's end. Together they are the other end's, in
    turn, also where addresses are translated."""
    _link: U32
    error: None = None
    retransmits: int | None = None
    """Of an attempt that failed alone, which is a `Connect`."""
    outcome: str = "established"
    query: str | None = None
    query_age_ms: float | None = None


@dataclasses.dataclass(slots=True, eq=False)
class Closed(OnLink, Event):
    """A connection that has ended; `struct tracer_close` in tracer.bpf.c."""

    type = "close"
    derives_steadily = True

    duration_ms: Milliseconds
    """Since ESTABLISHED; absent where that was before the trace."""
    tx_bytes: U64
    """Payload that was sent, each byte counted once."""
    rx_bytes: U64
    """Payload that was received."""
    retransmits: U32
    """Segments."""
    ended_by: Annotated[str | None, "I", one_of(*ENDED_BY)]
    error: Annotated[str | None, "i", error_name]
    """Why the kernel ended it, where it did."""
    _flags: U32
    iss: Sequence32
    """As of the connection's beginning; absent where that was before the trace."""
    irs: Sequence32
    _link: U32
    _opened_in: Annotated[int, "4xQ"]
    closer: str | None = None

    def __post_init__(self) -> None:
        """Say where the task is not the one that closed it."""
        if self._flags & BY_OWNER:
            self.closer = "owner"

    @property
    def origins(self) -> tuple[int, ...]:
        """The cgroups of those for whom the other filters have kept it."""
        by_opener = (self._opened_in,) if self._flags & BY_OPENER else ()
        return (*by_opener, self.cgroup_id or 0) if self._flags & BY_CLOSER else by_opener

    def fail(self) -> bool:
        """Take note that the filters by place do not keep it."""
        self._flags &= ~PASSED
        return bool(self._flags & ASKED)

    @property
    def older(self) -> bool:
        """Whether the connection was open before the trace began."""
        return bool(self._flags & OLDER)

    @property
    def passed(self) -> bool:
        """Whether the filters let it pass, for what the kernel knew of it."""
        return bool(self._flags & PASSED)


@dataclasses.dataclass(slots=True, eq=False)
class Open(Event):
    """A connection that was open when the trace began; made by `open_connections`."""

    type = "open"

    holders: list[int] | None = None
    """Ids of all processes that have it open."""
    query: str | None = None
    query_age_ms: float | None = None
