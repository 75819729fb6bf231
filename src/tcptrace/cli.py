"""The command group: subcommands come from entry points and are imported only when used."""

from __future__ import annotations

import functools
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from tcptrace.errors import PluginError

GROUP = "tcptrace.commands"
BUILT_IN = "tcptrace.commands."


class BrokenCommand(click.Command):
    """Stands for a plugin that cannot be used: shown in the help, and failing when called."""

    def __init__(self, name: str, reason: str) -> None:
        """Remember why the plugin `name` cannot be used."""
        super().__init__(
            name,
            short_help=f"(broken plugin: {reason})",
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


@functools.cache
def _entries() -> dict[str, list[EntryPoint]]:
    """Return the entry points by name, a built-in before those that take its name."""
    entries: dict[str, list[EntryPoint]] = {}
    for entry in sorted(
        entry_points(group=GROUP), key=lambda one: not one.value.startswith(BUILT_IN)
    ):
        entries.setdefault(entry.name, []).append(entry)
    return entries


def _load(entry: EntryPoint) -> click.Command:
    try:
        loaded = entry.load()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may raise anything; the rest must work
        return BrokenCommand(entry.name, f"{type(error).__name__}: {error}".splitlines()[0])
    if not isinstance(loaded, click.Command):
        return BrokenCommand(entry.name, f"{entry.value} is not a command")
    return loaded


class Commands(click.Group):
    """The subcommands that are installed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names; a name that is taken shows once more, with where it comes from."""
        names = list(_entries())
        for name, entries in _entries().items():
            names += [f"{name}@{_origin(entry)}" for entry in entries[1:]]
        return sorted(names)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand."""
        name, _, origin = cmd_name.partition("@")
        entries = _entries().get(name, [])
        if origin:
            taken = any(_origin(entry) == origin for entry in entries[1:])
            return BrokenCommand(cmd_name, f"the name {name} is taken") if taken else None
        return _load(entries[0]) if entries else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggest the nearest name for one that does not exist."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            names = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{error.message} There are: {names}.", ctx) from None


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value.partition(".")[0]


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`tcptrace COMMAND --help` has a command's options; `tcptrace doctor` checks this host.",
)
@click.version_option(package_name="tcptrace", message="%(prog)s %(version)s")
def cli() -> None:
    """Who connects to whom on this host, right now: trace TCP with process, user and container."""
