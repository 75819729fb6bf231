"""Rows that were kept: what their fields hold, and how they are made again.

A row that was read has the class that it was written from, so whatever shows rows shows it alike.
Its fields are set one by one, since what its class makes of binary fields has been made of them.
"""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from tcptrace.model import objects
from tcptrace.model.events import Event, json_keys, wall_ns_of

PARTS: dict[str, Any] = {name: kind() for name, kind in objects.PARTS.items()}
"""Fields whose content has keys of its own; what they hold when nothing is known."""


class Kind(NamedTuple):
    """What a field holds where it holds anything."""

    base: type
    """int, float, str or bool."""
    is_list: bool = False
    form: str = ""
    """Of a number its `struct` format, where it has one."""

    def holds(self, value: Any) -> bool:
        """Tell whether a value is of this kind."""
        if self.is_list:
            return isinstance(value, list) and all(type(item) is self.base for item in value)
        return type(value) is self.base or (self.base is float and type(value) is int)


def _kind(hint: Any, form: str = "") -> Kind:
    """Return the kind of a field that is annotated with `hint`."""
    if hasattr(hint, "__metadata__"):
        return _kind(hint.__origin__, hint.__metadata__[0])
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        (inner,) = (kind for kind in get_args(hint) if kind is not type(None))
        return _kind(inner, form)
    if origin in {list, tuple}:
        return Kind(get_args(hint)[0], is_list=True)
    if hint in {int, float, bool}:
        return Kind(hint, form=form)
    return Kind(str)


@cache
def kinds(record: Any) -> dict[str, Kind]:
    """Return the kinds of what a class of rows has, by JSON key; in JSON's order."""
    hints = get_type_hints(record, include_extras=True)
    for each in (Event, *map(type, PARTS.values())):
        hints |= get_type_hints(each, include_extras=True)
    return {key: _kind(hints[key]) for key in ("ts_ns", *json_keys(record))}


@cache
def kept_class(record: Any) -> Any:
    """Return a class like `record` whose fields are None, or 0 if not shown, until they are set."""
    names = {field.name for field in dataclasses.fields(record)}

    def unset(_row: Any, name: str) -> Any:
        if name not in names:
            raise AttributeError(name)
        return 0 if name.startswith("_") else None

    namespace = {"__slots__": (), "__getattr__": unset, "__doc__": record.__doc__}
    return type(record.__name__, (record,), namespace)


@lru_cache(maxsize=4096)
def _part(part: str, *values: Any) -> Any:
    return type(PARTS[part])(*values)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class Classes:
    """The classes of a command's rows, by their types."""

    def __init__(self, records: Iterable[Any]) -> None:
        """Take the classes; of several of one type, that which has a row's keys is its."""
        self._by_type: dict[str, list[Any]] = collections.defaultdict(list)
        for record in records:
            self._by_type[record.type].append(record)

    def of(self, kind: str, keys: Iterable[str]) -> Any:
        """Return the class of rows of a type that have these keys. Raises ValueError."""
        if kind not in self._by_type:
            msg = f"a row of type {kind!r}; there are {', '.join(self._by_type)}"
            raise ValueError(msg)
        first, *others = self._by_type[kind]
        asked = set(keys)
        return next(
            (record for record in (first, *others) if asked <= kinds(record).keys()),
            first,
        )

    def __iter__(self) -> Any:
        """Yield the classes."""
        return (record for records in self._by_type.values() for record in records)


def from_json(values: Mapping[str, Any], classes: Classes) -> Any:
    """Return the row of a JSON object; keys that its class does not have are passed over.

    Raises:
        ValueError: it is none of a command's rows.

    """
    own = {key: value for key, value in values.items() if key not in _OF_ALL}
    record = classes.of(str(values.get("type")), own)
    row = new_row(record)
    row.wall_ns = wall_ns_of(str(values.get("time")))
    known = kinds(record)
    for key, value in own.items():
        if value is None or key not in known:
            continue
        if not known[key].holds(value):
            msg = f"{key} is {value!r}"
            raise ValueError(msg)
        if key not in _OF_PARTS:
            setattr(row, key, value)
    if row.ts_ns is None:
        msg = "a row has no ts_ns"
        raise ValueError(msg)
    if not _OF_PARTS.isdisjoint(own):
        for name, unknown in PARTS.items():
            values_of_part = [_hashable(own.get(key)) for key in unknown._fields]
            setattr(row, name, _part(name, *values_of_part))
    return row


META_KEY, END_KEY, CUT_KEY = b"tcptrace", b"tcptrace.losses", b"tcptrace.cut"
"""Under these keys the end of a Parquet file says what holds for all rows; if these are all, what
may be missing; and that they are all that was left by a writer that was killed."""
OFFSET, BOOT = "clock_offset_ns", "boot_id"
"""Columns of such a file: what `wall_ns` is ahead of `ts_ns`, and whose clock that is."""


def is_milliseconds(key: str, kind: Kind) -> bool:
    """Tell whether values are milliseconds, which are known to the nanosecond."""
    return kind.base is float and not kind.is_list and key.endswith("_ms")


_OF_ALL = frozenset({"type", "time", "backend"})
_OF_PARTS = frozenset(key for unknown in PARTS.values() for key in unknown._fields)


def new_row(record: Any) -> Any:
    """Return a row of a class with nothing set."""
    kept = kept_class(record)
    row = object.__new__(kept)
    for name, unknown in PARTS.items():
        setattr(row, name, unknown)
    return row


def from_columns(record: Any, columns: Mapping[str, Sequence[Any]], count: int) -> list[Any]:
    """Return so many rows of a class from the values of their fields, by JSON key and ``wall_ns``.

    A column of nothing can be left out.
    """
    kept = kept_class(record)
    make = object.__new__
    rows = [make(kept) for _ in range(count)]
    for name in PARTS:
        _set_all(record, name, rows, _parts(record, name, columns, count))
    for key, values in columns.items():
        if key not in _OF_PARTS:
            _set_all(record, key, rows, values)
    return rows


def _parts(
    record: Any, name: str, columns: Mapping[str, Sequence[Any]], count: int
) -> Sequence[Any]:
    """Return a part of each row; rows with the same values have the same part."""
    unknown, missing = PARTS[name], (None,) * count
    if not any(map(columns.get, unknown._fields)):
        return (unknown,) * count
    known = kinds(record)
    of_keys = (
        map(_hashable, columns.get(key, missing))
        if known[key].is_list
        else columns.get(key, missing)
        for key in unknown._fields
    )
    whole = list(zip(*of_keys, strict=True))
    parts = {values: type(unknown)(*values) for values in set(whole)}
    return [*map(parts.__getitem__, whole)]


def _set_all(record: Any, name: str, rows: Sequence[Any], values: Sequence[Any]) -> None:
    """Set a field of each row, without a loop in Python."""
    collections.deque(map(getattr(record, name).__set__, rows, values), maxlen=0)
