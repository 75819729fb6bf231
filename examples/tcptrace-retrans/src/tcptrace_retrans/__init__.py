"""``tcptrace retrans``: TCP segments that are sent again.

A plugin with a probe of its own; docs/plugins.md in tcptrace's repository goes through it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from tcptrace import COMMON_COLUMNS, Event, Hook, Probe, Trace, Variant, command, field

# include/net/tcp_states.h, from 1
STATES = (
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
)


def state_name(number: int) -> str:
    """Return the name of a TCP state, or its number where it has none."""
    return STATES[number - 1] if 1 <= number <= len(STATES) else str(number)


@dataclasses.dataclass(slots=True)
class Retrans(Event):
    """One segment sent again; `struct retrans_event` in retrans.bpf.c."""

    type = "retrans"

    state: Annotated[str, "I", state_name]
    """The connection's state when the segment was sent again."""


COMMON = {column.key: column for column in COMMON_COLUMNS}

RETRANS = Probe(
    name="retrans",
    source=Path(__file__).with_name("retrans.bpf.c"),
    records=(Retrans,),
    variants=(
        Variant("tracepoint", (Hook("raw_tracepoint", "tcp_retransmit_skb", "on_retransmit"),)),
    ),
    # No filter by process: the timer that sends again runs in whatever process is there.
    filters=frozenset({"port", "netns", "family"}),
    columns=(
        *(COMMON[key] for key in ("ip", "laddr", "lport", "raddr", "rport")),
        field("state", "STATE", 12, meaning="the connection's state"),
    ),
    extra_columns=tuple(COMMON[key] for key in ("time", "time_s", "netns")),
)


@command(RETRANS, api=2)
def retrans(trace: Trace) -> Iterable[Event]:
    """Trace TCP segments that are sent again.

    The process is not shown: the kernel sends again from a timer or when an answer comes in, while
    any other process runs. -P matches either end's port.

    \b
    Examples:
      tcptrace retrans                 all
      tcptrace retrans -T -P 443       with the time, to or from this port
      tcptrace retrans --json          for a program
    """  # noqa: D301 - click's own mark for lines that stay as they are
    return trace.events
