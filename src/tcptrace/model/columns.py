"""What a column of text or CSV is, and the columns that every command can show."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tcptrace.model.events import Clock

Value = Callable[[Any, Clock], object]


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column: `value` gives the cell of an event, None where there is nothing to show."""

    key: str
    """Its name in ``--columns`` and CSV."""
    heading: str
    width: int
    """The least width of a cell in text; what is wider is not cut in a file or pipe."""
    value: Value
    style: str = ""
    """Colour on a terminal, in rich's terms."""
    after: str | None = None
    """Where it goes when it is added: behind the column of this key, "" for the front, None for
    the end."""
    cut: bool = False
    """Whether a narrow terminal may cut it."""


def field(
    key: str,
    heading: str,
    width: int,
    style: str = "",
    *,
    name: str = "",
    after: str | None = None,
    cut: bool = False,
) -> Column:
    """Return a column that shows the event's field `name`, or `key`."""
    attribute = name or key

    def value(event: Any, _clock: Clock) -> object:
        return getattr(event, attribute)

    return Column(key, heading, width, value, style, after, cut)


def milliseconds(key: str, heading: str, width: int, *, name: str) -> Column:
    """Return a column that shows the event's field `name`, in milliseconds, to the microsecond."""

    def value(event: Any, _clock: Clock) -> str | None:
        ms = getattr(event, name)
        return None if ms is None else f"{ms:.3f}"

    return Column(key, heading, width, value, "cyan")


@lru_cache(maxsize=4)
def _local_second(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def _time(event: Any, clock: Clock) -> str:
    return _local_second(clock.wall_ns(event.ts_ns) // 1_000_000_000)


CONTAINER_DIGITS = 12
"""Of a container's id, as the runtimes themselves list them."""


def _container(event: Any, _clock: Clock) -> str | None:
    container: str | None = event.container
    return container and container[:CONTAINER_DIGITS]


def _seconds(event: Any, clock: Clock) -> str:
    return f"{clock.since_first_ns(event.ts_ns) / 1e9:.3f}"


TIME = Column("time", "TIME", 8, _time, "dim", after="")
TIME_S = Column("time_s", "TIME(s)", 8, _seconds, "dim", after="")
UID = field("uid", "UID", 5, "yellow", after="")
PID = field("pid", "PID", 7, "cyan")
TID = field("tid", "TID", 7, "cyan")
COMM = field("comm", "COMM", 12, "bold", cut=True)
IP = field("ip", "IP", 2, "dim", name="family")
LADDR = field("laddr", "LADDR", 16, cut=True)
LPORT = field("lport", "LPORT", 5, "magenta")
RADDR = field("raddr", "RADDR", 16, "green", cut=True)
RPORT = field("rport", "RPORT", 5, "magenta")
NETNS = field("netns", "NETNS", 10, "dim")
MNTNS = field("mntns", "MNTNS", 10, "dim")
CGROUP_ID = field("cgroup_id", "CGROUPID", 8, "dim")
CGROUP = field("cgroup", "CGROUP", 24, "dim", cut=True)
CONTAINER = Column("container", "CONTAINER", CONTAINER_DIGITS, _container, "dim")
ERR = field("err", "ERR", 12, "red", name="error", cut=True)

OF_TASK = (TIME, TIME_S, PID, TID, UID, COMM)
OF_SOCKET = (IP, RADDR, RPORT, LADDR, LPORT)
OF_CONTAINER = (NETNS, MNTNS, CGROUP_ID, CGROUP, CONTAINER)
COMMON = (*OF_TASK, *OF_SOCKET, *OF_CONTAINER)


class Table(NamedTuple):
    """Columns for rows that are no events, such as counts."""

    shown: Sequence[Column]
    more: Sequence[Column]
    """What ``--columns`` can add."""


def choose(
    shown: Sequence[Column], more: Sequence[Column], spec: str, added: Iterable[str]
) -> list[Column]:
    """Return the columns to show.

    Args:
        shown: what is shown when nothing is said.
        more: what else there is.
        spec: ``--columns``: keys to show in that order, or changes: ``+key``, ``-key``.
        added: keys that options such as ``-T`` add.

    Raises:
        ValueError: with a message for the user.

    """
    known = {column.key: column for column in (*shown, *more)}
    items = [item.strip() for item in spec.split(",") if item.strip()]
    for key in (item[1:] if item[0] in "+-" else item for item in items):
        if key not in known:
            msg = f"there is no column {key!r}; there are {', '.join(known)}"
            raise ValueError(msg)
    picked = [known[item] for item in items if item[0] not in "+-"]
    plus = {*added, *(item[1:] for item in items if item[0] == "+")}
    minus = {item[1:] for item in items if item[0] == "-"}
    chosen = picked or list(shown)
    for key, column in reversed(known.items()):
        if key in plus and column not in chosen and column.after == "":
            chosen.insert(0, column)
    for key, column in known.items():
        if key in plus and column not in chosen:
            keys = [one.key for one in chosen]
            at = keys.index(column.after) + 1 if column.after in keys else len(chosen)
            chosen.insert(at, column)
    left = [column for column in chosen if column.key not in minus]
    if not left:
        msg = f"no column is left; there are {', '.join(known)}"
        raise ValueError(msg)
    return left
