"""The event records: their binary layout and their decoding.

A record class is the twin of a C struct. Each binary field is annotated with its `struct` format
and, where the wire form is not the wanted one, a converter; a `Tail` may follow, and then fields
with a default, which are filled later, by a command. Names with a leading underscore are not shown.
Layouts use native alignment and are padded to 8 bytes, as the C compiler does; bytes that are no
field's stand in the format of the field behind them, as ``4x``. The size is handed to the C source,
which asserts it when it is compiled.
"""

from __future__ import annotations

import calendar
import dataclasses
import errno
import re
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from operator import attrgetter
from socket import AF_INET, AF_INET6, inet_ntop
from typing import Annotated, Any, ClassVar, NamedTuple, Protocol, get_args, get_type_hints

from tcptrace.errors import TcptraceError
from tcptrace.model.generate import function
from tcptrace.model.identity import NO_PROGRAM, UNKNOWN, Identity, Program

SECOND = 1_000_000_000
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}[.][0-9]{9}Z")
SCHEMA_VERSION = 1
"""Of schema.json, which says what `objects.object_of` makes."""


@lru_cache(maxsize=4096)
def decode_text(raw: bytes) -> str:
    r"""Decode a NUL-terminated name; bytes that are not UTF-8 become ``\xNN``."""
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


@lru_cache(maxsize=16384)
def address_text(raw: bytes, family: int) -> str:
    """Return the text of 16 bytes in network order; `family` is 4 or 6."""
    return inet_ntop(AF_INET, raw[:4]) if family == 4 else inet_ntop(AF_INET6, raw)


def error_name(result: int) -> str | None:
    """Return the name of a negative errno, such as EMFILE; None for success."""
    return errno.errorcode.get(-result, str(-result)) if result < 0 else None


def one_of(*names: str | None) -> Callable[[int], str | None]:
    """Return a converter from a number, as a C enum has it, to its name; None beyond the last."""

    def name(number: int) -> str | None:
        return names[number] if number < len(names) else None

    return name


def _milliseconds(ns: int) -> float | None:
    return ns / 1e6 if ns else None


def _unless_zero(value: int) -> int | None:
    return value or None


def _unless_all_ones(value: int) -> int | None:
    return None if value == 0xFFFFFFFF else value


FRESH = "fresh"
"""Says of a field that it has another value in nearly each record, as a time or a port has."""
U16 = Annotated[int, "H", FRESH]
U32 = Annotated[int, "I"]
U64 = Annotated[int, "Q", FRESH]
S32 = Annotated[int, "i"]
OptionalU32 = Annotated["int | None", "I", _unless_all_ones]
"""Absent when all bits are set."""
Inode = Annotated["int | None", "I", _unless_zero]
"""A namespace's inode number; absent when 0."""
Sequence32 = Annotated["int | None", "I", FRESH, _unless_zero]
"""A TCP sequence number; absent when 0, which is one of four billion."""
CgroupId = Annotated["int | None", "Q", _unless_zero]
"""A cgroup v2 id, which is its directory's inode number; absent when 0."""
Milliseconds = Annotated["float | None", "Q", FRESH, _milliseconds]
"""Nanoseconds in the record; absent when 0."""
Tail = Annotated[bytes, ""]
"""All that the kernel sent behind the struct, of any length; the last of the binary fields."""
Address = Annotated[str, "16s", FRESH]
"""Network order; IPv4 takes the first four bytes."""
BehindKind = Annotated[int, "4xI"]
"""A number behind the record's kind, which `Decoder` reads."""
BehindFamily = Annotated[str, "2x16s", decode_text]
"""A process name of at most 15 bytes, aligned to 8."""
KIND = slice(16, 20)
"""Where `struct event` says which of the session's records it begins."""


@lru_cache(maxsize=4096)
def lineage(path: str | None) -> tuple[str, ...]:
    """Return a path and those above it, up to the root."""
    if path is None:
        return ()
    parts = path.strip("/").split("/")
    return ("/", *("/" + "/".join(parts[:end]) for end in range(1, len(parts) + 1)))


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class Row:
    """What every row has, be it an event or what a command makes of events.

    Not frozen: that would triple the time that a record takes to make. A command sets the fields
    that have defaults, and no others. Rows are compared by identity.
    """

    type: ClassVar[str] = "row"
    nullable: ClassVar[frozenset[str]] = frozenset()
    """JSON keys that are null, not absent, when there is no value."""
    derives_steadily: ClassVar[bool] = False
    """Whether `__post_init__`, where there is one, looks at no field that is `FRESH`: only then
    can lines be made straight of a record's bytes."""

    wall_ns: int = 0
    """When it happened by the wall clock, in nanoseconds since 1970; set when it comes in."""

    @property
    def weight(self) -> int:
        """How many of what is counted it stands for."""
        return 1


class _KnowsCgroup(Protocol):
    identity: Identity

    @property
    def cgroup_id(self) -> int | None: ...


def _of(part: str, key: str) -> Any:
    """Return a property that reads one of what is known of who it was."""
    return property(attrgetter(f"{part}.{key}"))


@dataclasses.dataclass(slots=True, eq=False, kw_only=True)
class InCgroup(Row):
    """A row that knows the id of a cgroup, and what was known of who it was when it came in."""

    identity: Identity = UNKNOWN
    """Who is in the cgroup."""
    program: Program = NO_PROGRAM
    """What the process runs, where that was asked for."""

    cgroup = _of("identity", "cgroup")
    unit = _of("identity", "unit")
    container = _of("identity", "container")
    container_name = _of("identity", "container_name")
    runtime = _of("identity", "runtime")
    pod = _of("identity", "pod")
    pod_namespace = _of("identity", "pod_namespace")
    pod_container = _of("identity", "pod_container")
    pod_uid = _of("identity", "pod_uid")
    outer_containers = _of("identity", "outer_containers")
    ppid = _of("program", "ppid")
    parent_comm = _of("program", "parent_comm")
    exe = _of("program", "exe")
    args = _of("program", "args")
    args_cut = _of("program", "args_cut")

    @property
    def cgroups(self: _KnowsCgroup) -> tuple[int | str | None, ...]:
        """What names the cgroup and those above it, as far as known: its id, and paths."""
        return (self.cgroup_id, *lineage(self.identity.cgroup))


class OnLink:
    """A row that knows which network interface its socket is bound to."""

    __slots__ = ()
    _link: int

    @property
    def link(self) -> int:
        """Index of the interface; 0 for any."""
        return self._link


@dataclasses.dataclass(slots=True, eq=False)
class Event(InCgroup):
    """What every record begins with: `struct event` in probes/c/event.h."""

    type: ClassVar[str] = "event"

    ts_ns: U64
    """CLOCK_MONOTONIC of the initial time namespace, nanoseconds."""
    cgroup_id: CgroupId
    pid: BehindKind | None
    """Thread group id, in the initial PID namespace; absent, with tid, uid and comm, when the
    probe left it 0: in softirq context the current task is any."""
    tid: U32 | None
    uid: U32 | None
    netns: Inode
    mntns: Inode
    laddr: Address | None
    raddr: Address | None
    lport: U16 | None
    rport: U16 | None
    """An end without address and port is absent."""
    family: U16
    """4 or 6; IPv4-mapped IPv6 is 4."""
    comm: BehindFamily | None
    who: U64
    """Stands for the process until its next execve; see `tcptrace.probes.programs`."""

    @property
    def origins(self) -> tuple[int, ...]:
        """The cgroups by which filters by unit, container and pod judge it: one kept will do.

        Empty where the kernel has judged it.
        """
        return () if self.cgroup_id is None else (self.cgroup_id,)

    def fail(self) -> bool:
        """Take note that these filters do not keep it; tell whether it is wanted all the same."""
        return False


_NO_KEYS = ("ts_ns", "wall_ns", "identity", "program", "who")
"""Fields whose content has keys of its own."""
_LEADING_KEYS = (
    *("pid", "tid", "uid", "comm", "family", "laddr", "lport", "raddr", "rport"),
    *("netns", "mntns", "cgroup_id"),
    *Identity._fields,
    *Program._fields,
)


class BinaryField(NamedTuple):
    """A field of the C struct."""

    name: str
    form: str
    """Of `struct`; bytes that are no field's stand in front."""
    convert: Callable[[Any], Any] | None
    is_fresh: bool


def _binary_fields(record: type[Event]) -> list[BinaryField]:
    """Return the binary fields in the struct's order."""
    hints = get_type_hints(record, include_extras=True)
    fields = []
    for field in dataclasses.fields(record):
        if field.default is not dataclasses.MISSING:
            continue
        hint = hints[field.name]
        metadata = getattr(hint, "__metadata__", None)
        if metadata is None:  # a union such as `Address | None`
            metadata = next(
                arg.__metadata__ for arg in get_args(hint) if hasattr(arg, "__metadata__")
            )
        form, *rest = metadata
        convert = next(filter(callable, rest), None)
        fields.append(BinaryField(field.name, form, convert, FRESH in rest))
    return fields


_AT_ONCE: dict[Any, str] = {
    _unless_zero: "{0} or None",
    _unless_all_ones: "None if {0} == 0xFFFFFFFF else {0}",
    _milliseconds: "{0} / 1e6 if {0} else None",
}
"""Converters that a decoder has in its own text; others are called."""
_OF_TASK = ("pid", "tid", "uid", "comm")
_NOWHERE = bytes(16)


class Layout:
    """How one record class is read from bytes, and which JSON keys it has."""

    decode: Callable[[bytes], Event]
    """Returns the record in bytes, which `fits`."""

    def __init__(self, record: type[Event]) -> None:
        """Work out the layout of `record` from its annotations."""
        fields = _binary_fields(record)
        self.has_tail = fields[-1].form == ""
        if self.has_tail:
            fields.pop()
        self.fields = tuple(fields)
        self.record = record
        self.struct = struct.Struct("@" + "".join(field.form for field in fields) + "0Q")
        self.size = self.struct.size
        self.decode = self._decoder()

    def fits(self, data: bytes) -> bool:
        """Tell whether `data` is as long as this record is."""
        return len(data) == self.size or (self.has_tail and len(data) > self.size)

    def _decoder(self) -> Any:
        """Return the function that decodes, whose variables are the fields, with `v_` in front."""
        values = [f"v_{field.name}" for field in self.fields]
        body, names = conversions(self.fields)
        task = f" {' = '.join(f'v_{name}' for name in _OF_TASK)} = None"
        tail = [f"data[{self.size}:]"] if self.has_tail else []
        return function(
            "data",
            [
                f"{', '.join(values)}, = unpack_from(data)",
                *body,
                "if not v_pid:",
                task,
                f"return record({', '.join([*values, *tail])})",
            ],
            {**names, "unpack_from": self.struct.unpack_from, "record": self.record},
        )


def conversions(fields: Iterable[BinaryField]) -> tuple[list[str], dict[str, Any]]:
    """Return lines that make values of what stands in the bytes, and the names that they use.

    Their variables are the fields, with `v_` in front; both ends are among them.
    """
    body = []
    names: dict[str, Any] = {"address_text": address_text, "nowhere": _NOWHERE}
    for name, _, convert, _ in fields:
        if convert:
            names[f"convert_{name}"] = convert
            form = _AT_ONCE.get(convert, f"convert_{name}({{0}})")
            body.append(f"v_{name} = {form.format(f'v_{name}')}")
    for end in "lr":
        body += [
            f"if v_{end}port or v_{end}addr != nowhere:",
            f" v_{end}addr = address_text(v_{end}addr, v_family)",
            "else:",
            f" v_{end}addr = v_{end}port = None",
        ]
    body.append("v_lport = v_lport or None")  # before a connect has found one
    return body, names


class Decoder:
    """Decodes the records of one session; a record's kind is its place in `records`, from 1."""

    def __init__(self, records: Sequence[type[Event]]) -> None:
        """Prepare to decode `records`."""
        self.layouts = [Layout(record) for record in records]
        self.by_kind = {
            kind.to_bytes(4, sys.byteorder): layout for kind, layout in enumerate(self.layouts, 1)
        }
        """The layouts by what stands in the records."""

    def defines(self) -> dict[str, str]:
        """Return the kinds and sizes that the C source stores and asserts."""
        defines = {}
        for kind, layout in enumerate(self.layouts, 1):
            name = layout.record.__name__.upper()
            defines[f"KIND_{name}"] = str(kind)
            defines[f"SIZE_{name}"] = str(layout.size)
        return defines

    def decode(self, data: bytes) -> Event:
        """Return the event in `data`.

        Raises:
            TcptraceError: no record has this kind and size; the buffer cannot be trusted.

        """
        layout = self.by_kind.get(data[KIND])
        if layout and layout.fits(data):
            return layout.decode(data)
        kind = int.from_bytes(data[KIND], sys.byteorder)
        msg = (
            f"a record of {len(data)} bytes and kind {kind} is in the ring buffer; please report it"
        )
        raise TcptraceError(msg)


@dataclasses.dataclass(frozen=True, slots=True)
class NewTable:
    """Comes between rows where a new table begins."""

    weight: ClassVar[int] = 0

    wall_ns: int | None = None
    """Nanoseconds since 1970: the time that is shown with it."""


def weight(row: Any) -> int:
    """Return of how many events a row tells; the beginning of a table of none."""
    return int(getattr(row, "weight", 1))


@cache
def json_keys(record: Any) -> tuple[str, ...]:
    """Return the keys of a record class that are not common to all, in JSON's order."""
    names = [field.name for field in dataclasses.fields(record)]
    leading = [name for name in _LEADING_KEYS if hasattr(record, name)]
    own = [name for name in names if name not in (*_LEADING_KEYS, *_NO_KEYS)]
    return (*leading, *(name for name in own if not name.startswith("_")))


@lru_cache(maxsize=4)
def rfc3339_second(second: int) -> str:
    """Return a second since 1970 as RFC 3339 has it, without a zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def time_text(wall_ns: int) -> str:
    """Return a time as JSON has it: RFC 3339 in UTC, with nanoseconds."""
    second, ns = divmod(wall_ns, SECOND)
    return f"{rfc3339_second(second)}.{ns:09d}Z"


@lru_cache(maxsize=64)
def _second_of(text: str) -> int:
    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))


def wall_ns_of(text: str) -> int:
    """Return the nanoseconds since 1970 of a `time_text`. Raises ValueError."""
    if not _TIME.fullmatch(text):
        msg = f"{text!r} is not a time such as {time_text(0)}"
        raise ValueError(msg)
    return _second_of(text[:19]) * SECOND + int(text[20:29])
