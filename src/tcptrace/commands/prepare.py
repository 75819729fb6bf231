"""``tcptrace prepare``."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from tcptrace.errors import RightsError, TcptraceError
from tcptrace.shell.command import SEPARATOR, TraceCommand
from tcptrace.shell.options import OWN, TraceOption
from tcptrace.shell.say import say
from tcptrace.shell.stop import Stop
from tcptrace.sources.bpf.prepare import Prepared, export, import_
from tcptrace.sources.bpf.prepare import prepare as prepare_plan


def tracing_commands(context: click.Context) -> Mapping[str, TraceCommand]:
    """Return the subcommands that trace, by name."""
    group = context.find_root().command
    if not isinstance(group, click.Group):
        return {}
    commands = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {
        name: command for name, command in commands.items() if isinstance(command, TraceCommand)
    }


def usual_options(command: TraceCommand) -> Iterator[list[str]]:
    """Yield what a command is usually given, as far as it decides what is compiled."""
    yield []
    filters = {"pid": ["-p", str(os.getpid())], "port": ["-P", "1"], "uid": ["-u", "0"]}
    yield from (arguments for name, arguments in filters.items() if name in command.probe.filters)
    own = {option.name: option for option in command.params if isinstance(option, TraceOption)}
    for option in own.values():
        if option.section == OWN and (option.switches or option.probes):
            together = (*(own[name] for name in option.needs), option)
            yield [word for given in together for word in _given(given)]
    if command.shows_events:
        more = [[], *(_given(option) for option in own.values() if _is_more(option))]
        yield from more[1:]
        yield from ([*arguments, SEPARATOR, "true"] for arguments in more if "follow" in own)


def _is_more(option: TraceOption) -> bool:
    """Tell whether a flag is usual, though it is not the command's own, or turns others on."""
    is_usual = option.name == "who" or bool(option.prefers or option.implies)
    return option.is_flag and is_usual and not option.needs


def _given(option: TraceOption) -> list[str]:
    """Return an option as it is given; what numbers there are is not compiled."""
    return [option.opts[0]] if option.is_flag else [option.opts[0], "1"]


def _wanted(
    commands: Mapping[str, TraceCommand], given: Sequence[str]
) -> Iterator[tuple[TraceCommand, list[str]]]:
    """Yield what is to be prepared. Raises UsageError."""
    for text in given or commands:
        name, *arguments = shlex.split(text) or [""]
        if name not in commands:
            known = ", ".join(commands)
            raise click.UsageError(f"There is no command {name!r}; there are {known}.")
        ways = [arguments] if arguments else usual_options(commands[name])
        yield from ((commands[name], way) for way in ways)


def _prepare(
    command: TraceCommand, arguments: list[str], stopped: Callable[[], bool]
) -> Prepared | None:
    """Prepare one way to run a command, and say what became of it; None where it was stopped."""
    name = shlex.join([command.name or "", *arguments])
    started = time.monotonic()
    prepared = prepare_plan(command.plan(arguments), stopped)
    if prepared is None:
        return None
    took = f"compiled in {time.monotonic() - started:.1f} s" if prepared.compiled else "kept"
    click.echo(f"{name:32} {prepared.backend:12} {took}")
    return prepared


def _prepare_all(
    wanted: Sequence[tuple[TraceCommand, list[str]]], stopped: Callable[[], bool]
) -> list[Prepared]:
    """Prepare what is wanted, and say what cannot be; return the rest.

    Raises RightsError: then nothing can be prepared.
    """
    found = []
    for command, arguments in wanted:
        if stopped():
            break
        try:
            found.append(_prepare(command, arguments, stopped))
        except RightsError:
            raise
        except TcptraceError as error:
            say(f"{shlex.join([command.name or '', *arguments])}: {error}")
    return [prepared for prepared in found if prepared]


def _names(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the commands that a shell may complete."""
    names = tracing_commands(context)
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


@click.command
@click.argument("commands", nargs=-1, metavar="[COMMAND]...", shell_complete=_names)
@click.option(
    "--export",
    "export_to",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the programs to a file, for other hosts with the same kernel.",
)
@click.option(
    "--import",
    "import_from",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Keep the programs of such a file, and compile nothing.",
)
@click.pass_context
def prepare(
    context: click.Context,
    *,
    commands: tuple[str, ...],
    export_to: Path | None,
    import_from: Path | None,
) -> None:
    """Compile ahead what commands need, so that they start at once.

    Without COMMAND, it is all of them. A command is prepared as it is usually run: alone, with -p,
    -P or -u, with each of its own options, with --who, and with a command to run. Another way to
    run it is given with its options, as one word. Exits with 1 when one cannot be prepared.

    \b
    Examples:
      tcptrace prepare                             all commands
      tcptrace prepare connect 'accept -P 80,443'  one, and one with its options
      tcptrace prepare 'connect -d --who -- true'  whatever the command is
      tcptrace prepare --export programs           for hosts without bcc and LLVM
      tcptrace prepare --import programs           on these
    """  # noqa: D301 - click's own mark for lines that stay as they are
    if import_from:
        if commands or export_to:
            raise click.UsageError("--import takes neither commands nor --export.")
        _import(import_from)
        return
    wanted = [*_wanted(tracing_commands(context), commands)]
    stop = Stop()
    stop.take_signals()
    prepared = _prepare_all(wanted, stop.is_asked)
    if stop.is_asked():
        say("stopped before all was prepared")
        context.exit(1)
    if export_to and prepared:
        number = export((name for programs in prepared for name in programs.names), export_to)
        click.echo(f"{number} files are in {export_to}")
    context.exit(0 if len(prepared) == len(wanted) else 1)


def _import(file: Path) -> None:
    imported = import_(file)
    click.echo(f"{imported.files} files are kept")
    if not imported.is_for_this_kernel:
        say("they are for another kernel, machine or version than those that run here")
