"""Commands about what was recorded, which trace nothing: their options, and when things were."""

from __future__ import annotations

import datetime as dt
import functools
import inspect
import re
import time
from collections.abc import Iterator
from typing import Any

import click

from tcptrace.model.filters import FILTERS, Filters
from tcptrace.model.systems import Recorded
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.shell.help import WIDTH, help_all_option, write_sections, write_text
from tcptrace.shell.options import FILTER, HOST, OUTPUT, OWN, TraceOption, shared_options
from tcptrace.shell.times import parse_time

LIVE = frozenset({"cgroupmap", "mntnsmap", "follow"})
"""Filters that ask a running kernel."""
_SIZE = re.compile("([0-9]+(?:[.][0-9]+)?)([KMGT]?)I?B?")

option = functools.partial(click.option, cls=TraceOption)
"""Gives a command an option, as `tcptrace.shell.options.option` does for those that trace."""


class OfflineCommand(click.Command):
    """A command about recordings; its help lists the options by section."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        """Take click's arguments."""
        attributes.setdefault("context_settings", {})
        attributes["context_settings"] |= {
            "help_option_names": ["-h", "--help"],
            "max_content_width": WIDTH,
        }
        super().__init__(*args, **attributes)
        self.params.append(help_all_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; what filters name is of another time and place."""
        ctx.meta[HOST] = Recorded()
        return super().parse_args(ctx, args)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, and examples."""
        write_text(ctx, formatter, inspect.cleandoc(self.help or ""))

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section."""
        options = [
            parameter for parameter in self.get_params(ctx) if isinstance(parameter, click.Option)
        ]
        write_sections(ctx, formatter, options, (OWN, FILTER, OUTPUT))


def _shared(section: str) -> Iterator[click.Parameter]:
    """Yield the options of all commands of a section, as far as they ask no kernel."""
    for shared in shared_options(TRACER):
        is_of_it = isinstance(shared, TraceOption) and shared.section == section
        if is_of_it and shared.name not in LIVE:
            yield shared


def filter_options(command: click.Command) -> click.Command:
    """Give a command the filters of all commands."""
    command.params[:0] = _shared(FILTER)
    return command


def output_options(command: Any) -> Any:
    """Give a command the options of all commands that say how rows are written."""
    taken = [shared for shared in _shared(OUTPUT) if shared.name in {"form", "json", "color"}]
    command.__click_params__ = [*reversed(taken), *getattr(command, "__click_params__", [])]
    return command


def chosen_filters(given: dict[str, Any]) -> Filters:
    """Return the filters that the command line asks for. Raises UsageError."""
    families = [number for name, number in (("ipv4", 4), ("ipv6", 6)) if given.get(name)]
    if len(families) > 1:
        raise click.UsageError("-4 and -6 exclude each other.")
    values = {entry.name: given[entry.name] for entry in FILTERS if given.get(entry.name)}
    return Filters(values | ({"family": families[0]} if families else {}))


def parse_size(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """Read an option's value as bytes."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip().upper())
    size = int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " ")) if match else 0
    if not size:
        msg = f"{value[:32]!r} is no size such as 500MB or 4GB"
        raise click.BadParameter(msg, param=parameter)
    return size


def parse_moment(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> int | None:
    """Read a time as nanoseconds since 1970: of a day, or so long ago."""
    try:
        return None if value is None else _moment_ns(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _moment_ns(text: str) -> int:
    """Return when a text says. Raises ValueError, with a message for the user."""
    today = dt.date.today().isoformat()  # noqa: DTZ011 - as the user's clock has it
    zoned = text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text
    for form in (zoned, f"{today}T{zoned}"):
        try:
            moment = dt.datetime.fromisoformat(form)
        except ValueError:
            continue
        return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
    try:
        return time.time_ns() - int(parse_time(text) * 1e9)
    except ValueError:
        msg = (
            f"{text[:32]!r} is no time: give 2026-11-30T08:00 (also with Z for UTC), 08:00 for "
            "today, or 2h for two hours ago"
        )
        raise ValueError(msg) from None
