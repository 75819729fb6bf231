"""Times as they are typed: how long (``10``, ``500ms``, ``1m30s``, ``1d``), and when."""

from __future__ import annotations

import datetime as dt
import re

import click

_CLOCK = re.compile("[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")
_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}
_NUMBER = "[0-9]+(?:[.][0-9]+)?|[.][0-9]+"
_TIME = re.compile("".join(f"(?:({_NUMBER}){unit})?" for unit in _SECONDS))
MOST = "10000d"
MOST_SHOWN = 32
"""How many characters of an unreadable text an error repeats."""


def _seconds(text: str, alone: str) -> float | None:
    """Return how many seconds a text stands for; None where it is no time."""
    match = _TIME.fullmatch(text + alone if re.fullmatch(_NUMBER, text) else text)
    if not match or not text:
        return None
    parts = zip(match.groups(), _SECONDS.values(), strict=True)
    return sum(float(number) * factor for number, factor in parts if number)


def parse_time(text: str, alone: str = "s", least: str = "1ms") -> float:
    """Return how many seconds a text stands for.

    Args:
        text: numbers with units, the longest unit first, or a number alone.
        alone: the unit of a number alone.
        least: the shortest time that makes sense.

    Raises:
        ValueError: with a message for the user.

    """
    shown = repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…")
    seconds = _seconds(text, alone)
    if seconds is None:
        msg = f"{shown} is not a time such as 10, 500ms, 1m30s, 2h or 1d"
    elif seconds == 0:
        msg = f"{shown} is no time at all; the least is {least}"
    elif seconds < (_seconds(least, "") or 0):
        msg = f"{shown} is too short; the least is {least}"
    elif seconds > (_seconds(MOST, "") or 0):
        msg = f"{shown} is too long; the most is {MOST}"
    else:
        return seconds
    raise ValueError(msg)


def parse_seconds(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Read an option's value; a number alone is of seconds."""
    try:
        return None if value is None else parse_time(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def parse_nanoseconds(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> int:
    """Read an option's value as nanoseconds, 0 for none; a number alone is of milliseconds."""
    try:
        return 0 if value is None else round(parse_time(value, "ms", "1us") * 1e9)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def parse_moment(text: str, now: dt.datetime) -> dt.datetime:
    """Return when a text says: ``2h`` ago, ``09:30`` of today, ``2026-11-30T09:30:00Z``.

    Args:
        text: without a zone it is in local time.
        now: with its zone, the local one.

    Raises:
        ValueError: with a message for the user.

    """
    seconds = None if text.isdigit() else _seconds(text, "")
    if seconds is not None:
        return now - dt.timedelta(seconds=seconds)
    if _CLOCK.fullmatch(text):
        text = f"{now:%Y-%m-%d}T{text:0>{5 if text.count(':') == 1 else 8}}"
    zone = "+00:00" if text.endswith("Z") else ""
    try:
        moment = dt.datetime.fromisoformat(text.removesuffix("Z") + zone)
    except ValueError:
        shown = repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…")
        msg = f"{shown} is no moment such as 2h (ago), 09:30, 2026-11-30 or 2026-11-30T09:30Z"
        raise ValueError(msg) from None
    return moment.astimezone()


def parse_wall_ns(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """Read an option's value as a moment, in nanoseconds since 1970."""
    if value is None:
        return None
    try:
        moment = parse_moment(value, dt.datetime.now().astimezone())
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error), param=parameter) from None
    return round(moment.timestamp() * 1e6) * 1000
