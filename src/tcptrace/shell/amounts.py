"""How long or how much, as it is typed: ``10m``, ``100M``, ``1h,100M``."""

from __future__ import annotations

import re
from typing import NamedTuple

import click

from tcptrace.shell.times import MOST_SHOWN, parse_time

_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile("([0-9]+(?:[.][0-9]+)?)([KMGT])B?")


class Amount(NamedTuple):
    """A time, a number of bytes, or both; None without a limit."""

    seconds: float | None = None
    size: int | None = None


NO_LIMIT = Amount()


def parse_amount(text: str, least: str) -> Amount:
    """Return what a text stands for: times, and sizes with K, M, G or T. Raises ValueError."""
    seconds, size = None, None
    for item in text.split(","):
        match = _SIZE.fullmatch(item)
        if match:
            size = int(float(match[1]) * _UNITS[match[2]])
        elif item.isdigit():
            msg = f"{item} is no time and no size: give a unit, as in {item}m or {item}M"
            raise ValueError(msg)
        else:
            seconds = parse_time(item, least=least)
    if size == 0:
        msg = f"{text!r} is no size at all"
        raise ValueError(msg)
    return Amount(seconds, size)


def parse_limits(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> Amount | None:
    """Read an option's value."""
    try:
        return None if value is None else parse_amount(value, "1s")
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def parse_size(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """Read an option's value as bytes; letters can be small."""
    match = _SIZE.fullmatch(value.strip().upper()) if value is not None else None
    size = int(float(match[1]) * _UNITS[match[2]]) if match else 0
    if value is not None and not size:
        msg = f"{value[:MOST_SHOWN]!r} is no size such as 500MB or 4GB"
        raise click.BadParameter(msg, param=parameter)
    return size or None
