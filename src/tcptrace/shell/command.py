"""`command`: makes a subcommand of a probe and a function from events to rows."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from tcptrace.errors import PluginError, RefusedError, TcptraceError
from tcptrace.kernel.privileges import require_tracing
from tcptrace.model.columns import Column
from tcptrace.probes.probe import FTRACE, Probe
from tcptrace.shell.complete import PATHS
from tcptrace.shell.help import WIDTH, help_all_option, write_sections, write_text
from tcptrace.shell.keeping import keeping
from tcptrace.shell.options import (
    FILTER,
    OUTPUT,
    OWN,
    PREFERRED,
    RECORDING,
    TRACING,
    RowFunction,
    check_combination,
    shared_options,
    turn_on_implied,
)
from tcptrace.shell.plan import (
    Output,
    Shown,
    make_filters,
    make_output,
    make_plan,
    offered_columns,
    with_following,
    with_programs,
)
from tcptrace.shell.recordings import reading
from tcptrace.shell.run import replay, run
from tcptrace.sources.bpf.choose import usable_variants
from tcptrace.sources.plan import Plan, listing

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

API_VERSION = 2
"""Raised when the interface for plugins changes incompatibly."""
CHANGES = {1: ", where the function gets a Trace: trace.events are what it got (docs/plugins.md)"}
"""What is to be done about a plugin that was made for an older version."""


NOTHING_REFUSED: Mapping[str, str] = MappingProxyType({})
Show = Callable[[dict[str, Any]], Shown]
SEPARATOR = "--"
COMMAND = "tcptrace.command"
"""Where click's context holds the command that is to be run."""
ELSEWHERE = {"-C": "--cgroupmap", "-M": "--mntnsmap"}
"""What options of libbpf-tools are called here."""


class TraceCommand(click.Command):
    """A click command that traces `probe`; its help lists the options by section."""

    def __init__(self, probe: Probe, show: Show | None = None, **attributes: Any) -> None:
        """Remember `probe` and `show`, see `command`; `attributes` are click's."""
        self.probe = probe
        self._show = show
        super().__init__(**attributes)

    @property
    def shows_events(self) -> bool:
        """Whether its rows are events, and no figures of its own."""
        return self._show is None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; what stands behind ``--`` is a command to run."""
        if SEPARATOR in args:
            at = args.index(SEPARATOR)
            args, command = args[:at], args[at + 1 :]
            if not (command or ctx.resilient_parsing):
                raise click.UsageError("A command is to stand behind --.", ctx)
            if "pid" not in self.probe.filters:
                raise click.UsageError("These events are of no process that can be followed.", ctx)
            ctx.meta[COMMAND] = command
        rest = self._read(ctx, args)
        if not ctx.resilient_parsing:
            check_combination(self.params, ctx.params)
            ctx.meta[PREFERRED] = turn_on_implied(self.params, ctx.params)
        return rest

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what a shell may complete; behind ``--`` these are paths."""
        if COMMAND in ctx.meta:
            return PATHS(ctx, self.params[0], incomplete)
        return super().shell_complete(ctx, incomplete)

    def _read(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the options; say what to do about a word that is none. Raises UsageError."""
        ctx.allow_extra_args = True
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            instead = ELSEWHERE.get(error.option_name, "")
            if not any(instead in option.opts for option in self.params):
                raise
            raise click.UsageError(f"{error.message} Here it is {instead}.", ctx) from None
        if rest and not ctx.resilient_parsing:
            raise click.UsageError(
                f"There is a word too many: {rest[0]!r}. "
                "A list takes commas (-P 80,443), and a command to run stands behind --.",
                ctx,
            )
        return rest

    def plan(self, arguments: Sequence[str]) -> Plan:
        """Return what a run with these arguments would trace. Raises UsageError."""
        with self.make_context(self.name, [*arguments]) as context:
            given = context.params
            shown = self._show(given) if self._show else None
            run_for = context.meta.get(COMMAND, ())
            output = make_output(self.probe, self.params, given, shown, run_for)
            return _planned(self.probe, self.params, given, output)

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the command does, and examples."""
        write_text(ctx, formatter, self.help or "")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section."""
        names = (OWN, FILTER, OUTPUT, RECORDING, TRACING)
        write_sections(ctx, formatter, self.get_params(ctx), names)


def _planned(
    probe: Probe, options: Sequence[click.Parameter], given: dict[str, Any], output: Output
) -> Plan:
    """Return what a run traces. Raises UsageError."""
    plan = with_programs(make_plan(probe, options, given), output.columns)
    return with_following(plan, output.following)


def _dump(plan: Plan) -> None:
    """Print the C of the first variant that the kernel permits, or of the one that was named."""
    if plan.backend == FTRACE:
        raise RefusedError("the backend ftrace compiles no C; -v names its probes")
    if plan.backend == "auto":
        require_tracing()
        variant = next(usable_variants(plan, lambda _: None), None)
    else:
        variant = plan.variants()[0]
    if variant is None:
        raise TcptraceError(
            f"{plan.probe.name} cannot trace: this kernel permits no set of its hooks.\n"
            "`tcptrace doctor` tells why; --backend NAME prints that backend's C"
        )
    sys.stdout.write(listing(plan, variant))


def _columns_help(shown: Sequence[Column], more: Sequence[Column]) -> str:
    """Return what ``--columns help`` prints: keys, headings and what they mean."""
    keys = {column.key for column in shown}
    rest = {column.key: column for column in more if column.key not in keys}
    width = max(map(len, (*keys, *rest)))
    formatter = click.HelpFormatter(max_width=WIDTH)
    for title, group in (("Shown", shown), ("More, with +KEY", [*rest.values()])):
        if group:
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{column.key:{width}}  {column.heading}", column.meaning)
                        for column in group
                    ]
                )
    return formatter.getvalue()


def _hide(options: Sequence[click.Parameter], refused: Collection[str]) -> None:
    """Leave options that are refused out of the help."""
    for parameter in options:
        if isinstance(parameter, click.Option) and parameter.name in refused:
            parameter.hidden = True


def _refuse(given: Mapping[str, Any], refused: Mapping[str, str]) -> None:
    """Raise UsageError where an option is given that is refused."""
    for name, instead in refused.items():
        if given[name]:
            raise click.UsageError(instead)


def command(
    probe: Probe,
    *,
    api: int = API_VERSION,
    show: Show | None = None,
    plays: Probe | None = None,
    refuses: Mapping[str, str] = NOTHING_REFUSED,
) -> Callable[[RowFunction], click.Command]:
    """Make a subcommand that traces `probe`.

    The decorated function gets a `Trace`, and the values of its own options by name; it returns an
    iterable of the rows to show. Its docstring is the help text.

    Args:
        probe: what to trace; its filters become options.
        api: the `API_VERSION` that a plugin was written for.
        show: from the options' values to what is shown, where rows are no events of the probe.
        plays: whose recordings ``-r`` reads, where that is another probe's command.
        refuses: shared options that this command does not have, by name, and what to do instead.

    Raises:
        PluginError: this tcptrace has another `API_VERSION`.

    """
    if api != API_VERSION:
        hint = CHANGES.get(api, "")
        raise PluginError(f"made for plugin API {api}; this tcptrace has {API_VERSION}{hint}")

    def decorate(function: RowFunction) -> click.Command:
        own = list(reversed(getattr(function, "__click_params__", [])))
        taken = {option.name for option in own}
        options = [*own, *(option for option in shared_options(probe) if option.name not in taken)]
        _hide(options, refuses)
        wanted = list(inspect.signature(function).parameters)[1:]

        def callback(**given: Any) -> None:
            _refuse(given, refuses)
            shown = show(given) if show else None
            if given["columns"].strip().lower() == "help":
                click.echo(_columns_help(*offered_columns(probe, options, given, shown)), nl=False)
                return
            run_for = click.get_current_context().meta.get(COMMAND, ())
            if run_for and given["read"] is not None:
                raise click.UsageError("-r shows what was; no command can be run for it.")
            output = make_output(probe, options, given, shown, run_for)
            kept = keeping(given, counts=output.tables and not output.summary)
            used = {name: given[name] for name in wanted if name in given}
            work = functools.partial(function, **used)
            if given["read"] is not None:
                filters = make_filters(probe, given)
                source = reading(click.get_current_context(), plays or probe, options, filters)
                replay(source, filters, work, output, probe, kept)
                return
            plan = _planned(probe, options, given, output)
            if given["dump_c"]:
                _dump(plan)
                return
            run(plan, work, output, kept)

        return TraceCommand(
            probe,
            show,
            name=function.__name__,
            params=[*options, help_all_option()],
            callback=callback,
            help=inspect.getdoc(function),
            options_metavar="[OPTIONS] [-- COMMAND [ARG]...]",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
        )

    return decorate
