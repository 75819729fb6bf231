"""Rows as JSON objects with the keys of schema.json, by a function made for each record class.

What is not known is left out. An encoder that is given a dictionary takes three times as long, most
of it for what is known beforehand: names, their order, and that most values are numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any

from tcptrace.model.events import InCgroup, json_keys, rfc3339_second
from tcptrace.model.identity import Identity, Program
from tcptrace.model.lines import Form, Line, Part, line_of

_other = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_string = lru_cache(maxsize=4096)(encode_basestring_ascii)
"""Encodes a text; control characters are escaped as JSON does."""


def encode(value: Any) -> str:
    """Return the JSON of a value."""
    if value.__class__ is str:
        return _string(value)
    if value.__class__ is float and isfinite(value):
        return repr(value)
    return _other(value)


@lru_cache(maxsize=512)
def _known(part: Identity | Program) -> str:
    """Return the members that tell what is known of somebody, each with a comma in front."""
    known = part._asdict().items()
    return "".join(f',"{key}":{encode(value)}' for key, value in known if value is not None)


PARTS: dict[str, type[Identity | Program]] = {"identity": Identity, "program": Program}
"""Fields of a row whose members are made at once, for it is the same in many rows."""


def _is_in(part: type[Identity | Program], record: type[Any]) -> bool:
    """Tell whether a record's keys of a part are those of its field."""
    return issubclass(record, InCgroup) and all(
        getattr(record, key) is getattr(InCgroup, key) for key in part._fields
    )


def _member(key: str, *, is_nullable: bool) -> Part:
    """Return a member, with a comma in front; what is absent has no text."""
    absent = f',"{key}":null' if is_nullable else ""
    return Part(
        f"({absent!r} if (v := row.{key}) is None else "
        f"""f',"{key}":{{v}}' if v.__class__ is int or v.__class__ is float and isfinite(v) else """
        f"""',"{key}":' + (string(v) if v.__class__ is str else encode(v)))""",
        fields=(key,),
        before_number=f',"{key}":',
    )


def _members(record: Any) -> Iterator[Part]:
    """Yield a record's members, in JSON's order."""
    whole = {field: part._fields for field, part in PARTS.items() if _is_in(part, record)}
    at_once = {
        keys[0]: Part(f"known(row.{field})", fields=(field,)) for field, keys in whole.items()
    }
    others = {key for keys in whole.values() for key in keys[1:]}
    for key in json_keys(record):
        if key in at_once:
            yield at_once[key]
        elif key not in others:
            yield _member(key, is_nullable=key in record.nullable)


_TIME = Part(
    "f'{rfc3339_second(row.wall_ns // 1000000000)}.{row.wall_ns % 1000000000:09d}Z'",
    fields=("wall_ns",),
)
_NAMES = {
    "encode": encode,
    "isfinite": isfinite,
    "known": _known,
    "rfc3339_second": rfc3339_second,
    "string": _string,
}


@cache
def form_of(record: Any, backend: str) -> Form:
    """Return what lines of JSON consist of, for rows of this class that came by a backend."""
    return Form(
        (
            f'{{"type":{encode(record.type)},"time":"',
            _TIME,
            '"',
            _member("ts_ns", is_nullable=True),
            *_members(record),
            f',"backend":{encode(backend)}}}\n',
        ),
        _NAMES,
    )


@cache
def object_of(record: Any, backend: str) -> Line:
    """Return what makes a line of JSON of a row of this class."""
    return line_of(form_of(record, backend))
