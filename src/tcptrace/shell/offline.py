"""Commands about what was recorded, which trace nothing: their options."""

from __future__ import annotations

import functools
import inspect
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from tcptrace.map.place import ending_at_signals
from tcptrace.model.filters import FILTERS, Filters
from tcptrace.model.systems import Recorded
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.shell.help import WIDTH, help_all_option, write_sections, write_text
from tcptrace.shell.keeping import is_bucket
from tcptrace.shell.options import FILTER, HOST, OUTPUT, OWN, TraceOption, shared_options

LIVE = frozenset({"cgroupmap", "mntnsmap", "follow"})
"""Filters that ask a running kernel."""

option = functools.partial(click.option, cls=TraceOption)
"""Gives a command an option, as `tcptrace.shell.options.option` does for those that trace."""


def paths_argument(metavar: str) -> Callable[[Any], Any]:
    """Give a command the recordings that it is about, as `paths`."""
    place = _Place(path_type=Path, exists=True)
    return click.argument("paths", nargs=-1, required=True, metavar=metavar, type=place)


class _Place(click.Path):
    """Where recordings are: a path that is there, or a URL, which stays a text."""

    def convert(self, value: Any, *context: Any) -> Any:
        """Return a Path, or a URL."""
        return value if is_bucket(value) else super().convert(value, *context)


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

    def invoke(self, ctx: click.Context) -> Any:
        """Run it, until it is done or a signal comes: a status of 0 says that it is done."""
        try:
            with ending_at_signals():
                return super().invoke(ctx)
        except KeyboardInterrupt:  # of an engine that has its own handler
            raise click.exceptions.Exit(128 + signal.SIGINT) from None

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
