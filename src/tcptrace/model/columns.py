"""What a column of text or CSV is, and the columns that every command can show."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from tcptrace.model.generate import function

Value = Callable[[Any, int], object]
"""Gives the cell of a row, which may depend on when the first row that is shown happened (its
`ts_ns`); None where there is nothing to show."""
Mark = Literal["failure", "slow", "unusual"]
"""Why a cell deserves a look; a terminal colours it."""
Concern = Callable[[Any], "Mark | None"]

SLOW_MS = 100


def no_concern(_event: Any) -> None:
    """Find nothing that deserves a look."""


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column of text and CSV."""

    key: str
    """Its name in ``--columns`` and CSV."""
    heading: str
    width: int
    """The least width of a cell in text; what is wider is not cut in a file or pipe."""
    value: Value
    style: str = ""
    """How a terminal shows a cell that deserves no look: "bold", "dim" or ""."""
    after: str | None = None
    """Where it goes when it is added: behind the column of this key, "" for the front, None for
    the end."""
    concern: Concern = no_concern
    """From the event: whether its cell deserves a look, and why."""
    sizes: tuple[int, ...] = ()
    """The widths that its values come in, ascending, for a terminal: of addresses IPv4's, then
    IPv6's. `width` if there are none."""
    joins: bool = False
    """Whether it stays on the line of the column before it, as a port does with its address."""
    meaning: str = ""
    """What a cell says, for ``--columns help`` and the documentation."""
    is_spare: bool = False
    """Whether a narrow terminal leaves it out: others tell the same, or what is wanted more."""
    asks: tuple[str, ...] | None = None
    """The fields of a row that `value`, a function, asks for; None if that is not known."""

    def reads(self) -> tuple[str, ...] | None:
        """Return the fields of a row that its values depend on; None if they are not known."""
        return (self.value.name,) if isinstance(self.value, Field) else self.asks

    def roomy(self, needed: int) -> int:
        """Return a width for cells of `needed` that will do for most that follow."""
        return next((size for size in self.sizes or (self.width,) if size >= needed), needed)


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """A column's value that is a field of the row."""

    name: str

    def __call__(self, row: Any, _first_ns: int) -> object:
        """Return the field."""
        return getattr(row, self.name)


def expressions(columns: Sequence[Column]) -> list[str]:
    """Return what gives the values of columns: expressions over `row` and `first_ns`.

    They use `functions`.
    """
    return [
        f"row.{value.name}" if isinstance(value, Field) else f"value_{at}(row, first_ns)"
        for at, value in enumerate(column.value for column in columns)
    ]


def functions(columns: Sequence[Column]) -> dict[str, Value]:
    """Return the functions that `expressions` call, by name."""
    return {f"value_{at}": column.value for at, column in enumerate(columns)}


def values_of(columns: Sequence[Column]) -> Callable[[Any, int], tuple[object, ...]]:
    """Return what gives the values of all columns, of a row and `first_ns`."""
    made: Callable[[Any, int], tuple[object, ...]] = function(
        "row, first_ns", [f"return ({', '.join(expressions(columns))},)"], functions(columns)
    )
    return made


def field(
    key: str,
    heading: str,
    width: int,
    style: str = "",
    *,
    name: str = "",
    **attributes: Any,
) -> Column:
    """Return a column that shows the row's field `name`, or `key`.

    `attributes` are `Column`'s.
    """
    return Column(key, heading, width, Field(name or key), style, **attributes)


def milliseconds(
    key: str,
    heading: str,
    width: int,
    *,
    name: str,
    slow_ms: float = float("inf"),
    meaning: str = "",
) -> Column:
    """Return a column that shows the row's field `name`, in milliseconds, to the microsecond.

    What takes `slow_ms` or longer is slow.
    """

    def value(row: Any, _first_ns: int) -> str | None:
        ms = getattr(row, name)
        return None if ms is None else f"{ms:.3f}"

    def concern(event: Any) -> Mark | None:
        ms = getattr(event, name)
        return "slow" if ms is not None and ms >= slow_ms else None

    return Column(key, heading, width, value, concern=concern, meaning=meaning, asks=(name,))


@lru_cache(maxsize=4)
def _local_second(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


def clock_time(wall_ns: int) -> str:
    """Return a time of day, HH:MM:SS, of nanoseconds since 1970."""
    return _local_second(wall_ns // 1_000_000_000)


def _time(row: Any, _first_ns: int) -> str:
    return clock_time(row.wall_ns)


CUT = " …"
"""Stands behind arguments that go on."""
CONTAINER_DIGITS = 12
"""Of a container's id, as the runtimes themselves list them."""


def _container(row: Any, _first_ns: int) -> str | None:
    container: str | None = row.container
    return container and container[:CONTAINER_DIGITS]


def _args(row: Any, _first_ns: int) -> str | None:
    """Return the arguments as a shell would take them."""
    if row.args is None:
        return None
    return shlex.join(row.args) + (CUT if row.args_cut else "")


def _pod(row: Any, _first_ns: int) -> str | None:
    return row.pod and f"{row.pod_namespace or ''}/{row.pod}"


def since(row: Any, first_ns: int) -> int:
    """Return nanoseconds since the first row; 0 for what began before.

    Rows can come in another order than their events: attempts are shown as they end, and each
    processor has its own view of the order in which two things happened.
    """
    return max(0, int(row.ts_ns - first_ns))


def _seconds(row: Any, first_ns: int) -> str:
    return f"{since(row, first_ns) / 1e9:.3f}"


def failed(event: Any) -> Mark | None:
    """Find that an event is of something that failed."""
    return "failure" if event.error is not None else None


def repeated(event: Any) -> Mark | None:
    """Find that segments had to be sent again."""
    return "unusual" if event.retransmits else None


ADDRESS = (len("255.255.255.255"), len("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))

TIME = Column(
    "time", "TIME", 8, _time, "dim", after="", meaning="wall clock, local time", asks=("wall_ns",)
)
TIME_S = Column(
    "time_s",
    "TIME(s)",
    8,
    _seconds,
    "dim",
    after="",
    meaning="seconds since the first row",
    asks=("ts_ns",),
)
UID = field("uid", "UID", 5, after="", meaning="real user id, in the initial user namespace")
PID = field("pid", "PID", 7, meaning="process (thread group), in the initial PID namespace")
TID = field("tid", "TID", 7, meaning="thread")
COMM = field(
    "comm", "COMM", 12, "bold", sizes=(12, 15), meaning="name of the thread; at most 15 bytes"
)
IP = field("ip", "IP", 2, "dim", name="family", is_spare=True, meaning="4 or 6")
LADDR = field("laddr", "LADDR", 16, sizes=ADDRESS, meaning="local address")
LPORT = field("lport", "LPORT", 5, joins=True, meaning="local port")
RADDR = field("raddr", "RADDR", 16, sizes=ADDRESS, meaning="remote address")
RPORT = field("rport", "RPORT", 5, joins=True, meaning="remote port")
NETNS = field("netns", "NETNS", 10, "dim", meaning="inode number of the socket's network namespace")
MNTNS = field("mntns", "MNTNS", 10, "dim", meaning="inode number of the process's mount namespace")
CGROUP_ID = field(
    "cgroup_id",
    "CGROUPID",
    8,
    "dim",
    meaning="id of the process's cgroup v2, its directory's inode number",
)
CGROUP = field(
    "cgroup",
    "CGROUP",
    24,
    "dim",
    sizes=(24, 48, 96),
    meaning="path of the process's cgroup from the root of cgroup v2",
)
UNIT = field(
    "unit", "UNIT", 20, sizes=(20, 32, 48), meaning="systemd unit, or user's unit, of the cgroup"
)
CNAME = field(
    "cname",
    "CNAME",
    16,
    name="container_name",
    sizes=(16, 32, 64),
    meaning="the container's name, as its runtime has it",
)
POD = Column(
    "pod",
    "POD",
    32,
    _pod,
    sizes=(32, 64),
    asks=("pod", "pod_namespace"),
    meaning="the pod's namespace and name, of Kubernetes",
)
CONTAINER = Column(
    "container",
    "CONTAINER",
    CONTAINER_DIGITS,
    _container,
    "dim",
    asks=("container",),
    meaning="first 12 digits of the container's id, as the cgroup's path has it",
)
ERR = field(
    "err", "ERR", 12, name="error", concern=failed, meaning="why it failed: the name of an errno"
)

PPID = field("ppid", "PPID", 7, meaning="process id of the process's parent")
PCOMM = field(
    "pcomm", "PCOMM", 12, name="parent_comm", sizes=(12, 15), meaning="name of the parent"
)
EXE = field("exe", "EXE", 24, sizes=(24, 48), meaning="path of the process's program")
ARGS = Column(
    "args",
    "ARGS",
    32,
    _args,
    asks=("args", "args_cut"),
    meaning="the program's arguments, as a shell would take them",
)

OF_TASK = (TIME, TIME_S, PID, TID, UID, COMM)
OF_SOCKET = (IP, RADDR, RPORT, LADDR, LPORT)
OF_CONTAINER = (NETNS, MNTNS, CGROUP_ID, CGROUP, UNIT, CONTAINER, CNAME, POD)
OF_PROGRAM = (PPID, PCOMM, EXE, ARGS)
"""They are asked for when one of them is shown."""
COMMON = (*OF_TASK, *OF_SOCKET, *OF_CONTAINER, *OF_PROGRAM)


class Table(NamedTuple):
    """Columns for rows that are no events, such as counts."""

    columns: Sequence[Column]
    extra_columns: Sequence[Column]
    """What ``--columns`` can add."""
    of: str = "event"
    """What a row is a count of, in the summary."""


def _by_name(all_columns: Iterable[Column]) -> dict[str, Column]:
    """Return columns by what the user may call them, in small letters: keys, then headings."""
    known = {column.key: column for column in all_columns}
    return {column.heading.lower(): column for column in known.values()} | known


def choose(
    shown: Sequence[Column], more: Sequence[Column], spec: str, added: Iterable[str]
) -> list[Column]:
    """Return the columns to show.

    Args:
        shown: what is shown when nothing is said.
        more: what else there is; of two columns of one key, the one in `shown` is taken.
        spec: ``--columns``: keys or headings, in any case, to show in that order, or changes:
            ``+key``, ``-key``. One that is named twice is shown once.
        added: keys that options such as ``-T`` add.

    Raises:
        ValueError: with a message for the user.

    """
    known = {column.key: column for column in (*shown, *more)}
    known |= {column.key: column for column in shown}  # the command's own, not the common one
    names = _by_name(known.values())
    picked: dict[str, Column] = {}
    plus, minus = {*added}, set()
    for item in filter(None, map(str.strip, spec.split(","))):
        name = item[1:].strip() if item[0] in "+-" else item
        column = names.get(name.lower())
        if column is None:
            msg = f"there is no column {name!r}; there are {', '.join(known)}"
            raise ValueError(msg)
        if item[0] == "+":
            plus.add(column.key)
        elif item[0] == "-":
            minus.add(column.key)
        else:
            picked[column.key] = column
    chosen = [*picked.values()] or list(shown)
    for key, column in reversed(known.items()):
        if key in plus and column not in chosen and column.after == "":
            chosen.insert(0, column)
    for key, column in known.items():
        if key in plus and column not in chosen:
            keys = [shown.key for shown in chosen]
            at = keys.index(column.after) + 1 if column.after in keys else len(chosen)
            chosen.insert(at, column)
    left = [column for column in chosen if column.key not in minus]
    if not left:
        msg = f"no column is left; there are {', '.join(known)}"
        raise ValueError(msg)
    return left
