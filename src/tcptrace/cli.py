"""The command group: subcommands are imported only when used, plugins' also for their help."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import click

from tcptrace.commands import SHORT_HELP
from tcptrace.errors import PluginError
from tcptrace.model.text import printable
from tcptrace.version import VERSION

GROUP = "tcptrace.commands"
BUILT_IN = "tcptrace.commands."
NAME = re.compile(r"[a-z0-9][\w.-]*", re.ASCII | re.IGNORECASE)
VALUE = re.compile(r"([\w.]+)\s*:\s*([\w.]+)(?:\s*\[.*\])?")


class BrokenCommand(click.Command):
    """Stands for a plugin that cannot be used: shown in the help, and failing when called."""

    def __init__(self, name: str, reason: str) -> None:
        """Remember why the plugin `name` cannot be used."""
        super().__init__(
            name,
            short_help=f"(broken plugin: {printable(reason)})",
            add_help_option=False,
            context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
        )
        self._reason = reason

    def invoke(self, ctx: click.Context) -> Any:
        """Fail."""
        raise PluginError(
            f"the plugin {self.name} is broken: {self._reason}.\n"
            "Upgrade it or uninstall it; everything else works without it"
        )


class Entry(NamedTuple):
    """A line that some distribution has in the entry point group."""

    name: str
    """As it is shown: escaped."""
    value: str
    """The module and what it has, such as ``tcptrace.commands.accept:accept``."""
    origin: str
    """Whose it is, escaped."""


def _lines(text: str) -> Iterator[tuple[str, str]]:
    """Yield name and value of each entry in the group; what other groups have may be anything."""
    section = ""
    for line in map(str.strip, text.split("\n")):
        if line.startswith("["):
            section = line.strip("[]")
        elif section == GROUP and line and line[0] not in "#;":
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def _of_distribution(place: str, metadata: str) -> Iterator[Entry]:
    """Yield the entries of a distribution; one that cannot be read has none."""
    try:
        path = f"{place}/{metadata}/entry_points.txt"
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is slow to import
            text = file.read()
    except (OSError, ValueError):
        return
    for name, value in _lines(text) if GROUP in text else ():
        yield Entry(printable(name), value, _origin(f"{place}/{metadata}") or "?")


def _origin(metadata: str) -> str:
    """Return a distribution's name; it may lack metadata, or have any."""
    for name in ("METADATA", "PKG-INFO"):
        with (
            contextlib.suppress(OSError, ValueError),
            open(f"{metadata}/{name}", encoding="utf-8") as file,  # noqa: PTH123 - as above
        ):
            headers = (line.partition(":") for line in file)
            return next((printable(text.strip()) for key, _, text in headers if key == "Name"), "")
    return ""


def _installed() -> Iterator[Entry]:
    """Yield the entries of all distributions.

    importlib.metadata would take ten times as long to import as this takes.
    """
    for place in dict.fromkeys(sys.path):
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(place or ".")):  # noqa: PTH208 - as above
                if name.endswith((".dist-info", ".egg-info")):
                    yield from _of_distribution(place, name)


@functools.cache
def _entries() -> dict[str, list[Entry]]:
    """Return the entries by name, a built-in before those that take its name."""
    built_in = (Entry(name, f"{BUILT_IN}{name}:{name}", "tcptrace") for name in SHORT_HELP)
    unique = {(entry.name, entry.value): entry for entry in chain(built_in, _installed())}.values()
    entries: dict[str, list[Entry]] = {}
    for entry in sorted(unique, key=lambda entry: not entry.value.startswith(BUILT_IN)):
        entries.setdefault(entry.name, []).append(entry)
    return entries


def _load(entry: Entry) -> click.Command:
    if not NAME.fullmatch(entry.name):
        return BrokenCommand(entry.name, "its name is not one that could be typed")
    match = VALUE.fullmatch(entry.value)
    if not match:
        return BrokenCommand(entry.name, f"{entry.value!r} is not module:command")
    try:
        loaded = attrgetter(match[2])(importlib.import_module(match[1]))
    except BaseException as error:  # noqa: BLE001 - a plugin may raise anything; the rest must work
        return BrokenCommand(entry.name, _told(error))
    if not isinstance(loaded, click.Command):
        return BrokenCommand(entry.name, f"{entry.value} is not a command")
    return loaded


def _told(error: BaseException) -> str:
    """Return the first line of what an error says, if it can say it."""
    try:
        text = str(error).partition("\n")[0]
    except Exception:  # noqa: BLE001 - it may raise anything, too
        text = "(its message cannot be had)"
    return f"{type(error).__name__}: {text}"


class Commands(click.Group):
    """The subcommands that are installed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names; a name that is taken shows once more, with where it comes from."""
        names = list(_entries())
        for name, entries in _entries().items():
            names += [f"{name}@{entry.origin}" for entry in entries[1:]]
        return sorted(names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand."""
        if cmd_name in SHORT_HELP:
            return _load(Entry(cmd_name, f"{BUILT_IN}{cmd_name}:{cmd_name}", "tcptrace"))
        if cmd_name in _entries():
            return _load(_entries()[cmd_name][0])
        name, _, origin = cmd_name.partition("@")
        taken = any(entry.origin == origin for entry in _entries().get(name, [])[1:])
        return BrokenCommand(cmd_name, f"the name {name} is taken") if taken else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the names with what they do, which is data where it comes from plugins."""
        names = self.list_commands(ctx)
        room = formatter.width - 6 - max(map(len, names))
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._short_help(ctx, name, room)) for name in names])

    def _short_help(self, ctx: click.Context, name: str, room: int) -> str:
        if name in SHORT_HELP:
            return click.Command(name, help=SHORT_HELP[name]).get_short_help_str(room)
        command = self.get_command(ctx, name)
        return printable(command.get_short_help_str(room)) if command else ""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest name for one that does not exist."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches  # noqa: PLC0415 - for few runs

            names = self.list_commands(ctx)
            near = " or ".join(get_close_matches(args[0], names))
            hint = f" Did you mean {near}?" if near else ""
            message = f"{error.message}{hint} There are: {', '.join(names)}."
            raise click.UsageError(message, ctx) from None


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    epilog="`tcptrace COMMAND --help` has a command's options; `tcptrace doctor` checks this host.",
)
@click.version_option(VERSION, "-V", "--version", message="%(prog)s %(version)s")
def cli() -> None:
    """Tell who connects to whom on this host, right now.

    \b
    sudo tcptrace accept -t            connections that servers here accept
    sudo tcptrace connect --outcome    attempts to connect, and how they ended

    Each with its process, user and container.
    """  # noqa: D301 - click's own mark for lines that stay as they are
