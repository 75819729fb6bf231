"""``tcptrace completion``."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from tcptrace.shell.complete import INSTRUCTION

SHELLS = ("bash", "zsh", "fish")


@click.command(context_settings={"max_content_width": 80})
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what has a shell complete tcptrace's command lines.

    Commands and options are completed, and what is on this host: columns, processes by id and name,
    users, network namespaces, directories of cgroups.

    \b
    Examples:
      tcptrace completion bash | sudo tee /etc/bash_completion.d/tcptrace
      tcptrace completion zsh > ~/.zfunc/_tcptrace    a directory of $fpath
      tcptrace completion fish > ~/.config/fish/completions/tcptrace.fish
    """  # noqa: D301 - click's own mark for lines that stay as they are
    top = context.find_root()
    click.echo(script(top.command, shell, top.info_name or "tcptrace"))


def script(command: click.Command, shell: str, program: str) -> str:
    """Return what a shell reads to complete the command lines of a program of this name."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"This click knows no {shell}.")
    # Its own `source` would start bash to ask for its version.
    return ShellComplete.source(kind(command, {}, program, INSTRUCTION))
