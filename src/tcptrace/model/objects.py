"""Rows as JSON objects with the keys of schema.json, by a function made for each record class.

What is not known is left out. An encoder that is given a dictionary takes three times as long, most
of it for what is known beforehand: names, their order, and that most values are numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from json.encoder import encode_basestring_ascii
from math import isfinite
from typing import Any

from tcptrace.model.events import InCgroup, json_keys, rfc3339_second
from tcptrace.model.generate import function
from tcptrace.model.identity import Identity, Program

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


def _member(key: str, *, is_nullable: bool) -> str:
    """Return the expression of a member, with a comma in front; what is absent has no text."""
    absent = f',"{key}":null' if is_nullable else ""
    return (
        f"({absent!r} if (v := row.{key}) is None else "
        f"""f',"{key}":{{v}}' if v.__class__ is int else """
        f"""',"{key}":' + (string(v) if v.__class__ is str else encode(v)))"""
    )


def _members(record: Any) -> Iterator[str]:
    """Yield the expressions of a record's members, in JSON's order."""
    whole = {field: part._fields for field, part in PARTS.items() if _is_in(part, record)}
    at_once = {keys[0]: f"known(row.{field})" for field, keys in whole.items()}
    others = {key for keys in whole.values() for key in keys[1:]}
    for key in json_keys(record):
        if key in at_once:
            yield at_once[key]
        elif key not in others:
            yield _member(key, is_nullable=key in record.nullable)


@cache
def object_of(record: Any) -> Callable[[Any, str], str]:
    """Return what makes a line of a row of this class and of its backend's name in JSON."""
    members = [_member("ts_ns", is_nullable=True), *_members(record)]
    texts = "".join(f"{{m{at}}}" for at in range(len(members)))
    made: Callable[[Any, str], str] = function(
        "row, backend",
        (
            "second, ns = divmod(row.wall_ns, 1_000_000_000)",
            "time = rfc3339_second(second)",
            *(f"m{at} = {member}" for at, member in enumerate(members)),
            """return (f'{{"type":{encode(row.type)},"time":"{time}.{ns:09d}Z"'""",
            f""" f'{texts},"backend":{{backend}}}}}}\\n')""",
        ),
        {
            "encode": encode,
            "known": _known,
            "rfc3339_second": rfc3339_second,
            "string": _string,
        },
    )
    return made
