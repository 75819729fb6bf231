"""Where the recordings of many hosts and days are: ``date=2026-11-30/host=web1/NAME.parquet``.

A name says who wrote the file and when it was begun; what is still being written is hidden, and has
another ending, so that other programs pass it over.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

_NAME = re.compile(r"([A-Za-z0-9_.~%]+)-([0-9]{8}T[0-9]{6}Z)-[0-9a-f]{8}[.]parquet")
_DATE = re.compile(r"date=([0-9]{4}-[0-9]{2}-[0-9]{2})")
_HOST = re.compile(r"host=(.+)", re.DOTALL)
_STAMP = "%Y%m%dT%H%M%SZ"
GROWING, MERGED = ".part", ".merge"
"""Endings of hidden files: what grows by groups, and what is made of it when it has ended."""


class Place(NamedTuple):
    """What a file's name says."""

    probe: str
    begun: dt.datetime
    """In UTC."""


def _moment(wall_ns: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(wall_ns // 1_000_000_000, dt.timezone.utc)


def date_directory(wall_ns: int) -> str:
    """Return the name of the directory for files that are begun on this day, in UTC."""
    return f"date={_moment(wall_ns):%Y-%m-%d}"


def host_directory(host: str) -> str:
    """Return the name of the directory for a host's files."""
    return f"host={quote(host, safe='')}"


def file_name(probe: str, wall_ns: int, token: int) -> str:
    """Return the name of a file that is begun now; `token` of 32 bits makes it the only one."""
    own = quote(probe, safe="").replace("-", "%2D")
    return f"{own}-{_moment(wall_ns):{_STAMP}}-{token:08x}.parquet"


def hidden(name: str, ending: str) -> str:
    """Return the name of what belongs to a file and is not to be read by others."""
    return f".{name}{ending}"


def shown(name: str, ending: str = GROWING) -> str | None:
    """Return the name of the file that a hidden one belongs to; None where it is not such."""
    inner = name[1 : -len(ending)]
    is_hidden = name.startswith(".") and name.endswith(ending)
    return inner if is_hidden and place_of(inner) else None


def place_of(name: str) -> Place | None:
    """Return what the name of a file says; None where tcptrace does not name its files so."""
    match = _NAME.fullmatch(name)
    if not match:
        return None
    try:
        begun = dt.datetime.strptime(match[2], _STAMP).replace(tzinfo=dt.timezone.utc)
    except ValueError:
        return None
    return Place(unquote(match[1]), begun)


def date_of(directory: str) -> dt.date | None:
    """Return the day that a directory is for; None where it is for none."""
    match = _DATE.fullmatch(directory)
    try:
        return dt.date.fromisoformat(match[1]) if match else None
    except ValueError:
        return None


def host_of(directory: str) -> str | None:
    """Return the host that a directory is for; None where it is for none."""
    match = _HOST.fullmatch(directory)
    return unquote(match[1]) if match else None
