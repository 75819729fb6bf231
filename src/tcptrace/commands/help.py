"""``tcptrace help``."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from tcptrace.shell.help import HELP_ALL, show_all


def _names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the commands that a shell may complete."""
    top = context.find_root()
    names = top.command.list_commands(top) if isinstance(top.command, click.Group) else []
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command
@click.argument("command", required=False, shell_complete=_names)
@click.option(HELP_ALL, "everything", is_flag=True, help="Show rare options, too.")
@click.pass_context
def help(context: click.Context, command: str | None, *, everything: bool) -> None:  # noqa: A001 - the command's name
    """Show the help of tcptrace, or of one of its commands."""
    top = context.find_root()
    if command is None or not isinstance(top.command, click.Group):
        click.echo(top.get_help())
        return
    _, found, _ = top.command.resolve_command(top, [command])
    if found is None:
        raise click.UsageError(f"No such command {command!r}.", top)
    own = click.Context(found, info_name=command, parent=top)
    if everything:
        show_all(own)
    click.echo(found.get_help(own))
