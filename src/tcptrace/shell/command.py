"""`command`: makes a subcommand of a probe and a function from events to rows."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import click

from tcptrace.errors import PluginError, RefusedError, TcptraceError
from tcptrace.kernel.headers import CHOICES
from tcptrace.kernel.privileges import require_tracing
from tcptrace.model import columns
from tcptrace.model.events import Event
from tcptrace.model.filters import BY_NAME, FILTERS, Filter
from tcptrace.probes.probe import Probe
from tcptrace.shell.run import Output, run
from tcptrace.sinks import FORMATS
from tcptrace.sources.bpf.choose import usable_variants
from tcptrace.sources.bpf.session import Session
from tcptrace.sources.plan import Plan, listing
from tcptrace.sources.tracefs.session import BACKEND

API_VERSION = 1
"""Raised when the interface for plugins changes incompatibly."""

RowFunction = Callable[..., Iterable[Any]]
OWN, FILTER, OUTPUT, TRACING = "Options", "Filters", "Output", "Tracing"


class TraceOption(click.Option):
    """A click option that knows its section of the help text and what it turns on."""

    def __init__(
        self,
        *args: Any,
        section: str = OWN,
        adds: Sequence[str] = (),
        switches: Sequence[str] = (),
        replaces: Sequence[columns.Column] = (),
        table: columns.Table | None = None,
        needs: Sequence[str] = (),
        excludes: Sequence[str] = (),
        probes: Sequence[Probe] = (),
        **kwargs: Any,
    ) -> None:
        """Say what the option does when it is given; see `option`."""
        self.section = section
        self.adds = adds
        self.switches = switches
        self.replaces = replaces
        self.table = table
        self.needs = needs
        self.excludes = excludes
        self.probes = probes
        super().__init__(*args, **kwargs)


def option(*flags: str, **attributes: Any) -> Callable[[RowFunction], RowFunction]:
    """Give a command an option of its own, or one in place of a shared one; below `command`.

    Args:
        flags: as in `click.option`.
        attributes: as in `click.option`, and ``needs`` and ``excludes``, names of options that must
            be given with it, or must not; ``adds``, keys of columns that the option shows, and
            ``switches``, defines that it sets for the C source, to its value or for a flag to 1,
            ``replaces``, columns that it shows in place of those with the same keys,
            and ``table``, columns in place of the probe's, for rows that come in tables, each
            behind a `NewTable`; ``probes``, whose events come among the others in the order in
            which they happened, see `tcptrace.sources.plan.Plan`. The function receives the
            option's value if it has a parameter of its name.

    """
    return click.option(*flags, cls=TraceOption, **attributes)


class TraceCommand(click.Command):
    """A click command that traces `probe`; its help lists the options by section."""

    def __init__(self, probe: Probe, **attributes: Any) -> None:
        """Remember `probe`; `attributes` are click's."""
        self.probe = probe
        super().__init__(**attributes)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list for each section."""
        sections: dict[str, list[tuple[str, str]]] = {OWN: [], FILTER: [], OUTPUT: [], TRACING: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                sections[getattr(parameter, "section", TRACING)].append(record)
        for name, records in sections.items():
            if records:
                with formatter.section(name):
                    formatter.write_dl(records)


def _filter_option(one: Filter, probe: Probe) -> TraceOption:
    default = probe.defaults.get(one.name)
    help_ = one.help.format(ports=probe.ports)
    if default:
        help_ += f" Default: {default}."

    def parse(_context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return None
        try:
            return one.parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error), param=parameter) from None

    return TraceOption(
        [*one.flags, one.name],
        metavar=one.metavar,
        multiple=one.multiple,
        callback=parse,
        help=help_,
        section=FILTER,
        default=[default] if default and one.multiple else default,
    )


def _family_options() -> list[TraceOption]:
    flag: dict[str, Any] = {"is_flag": True, "section": FILTER}
    return [
        TraceOption(["-4", "ipv4"], **flag, help="IPv4 only, IPv4-mapped included."),
        TraceOption(["-6", "ipv6"], **flag, help="IPv6 only."),
    ]


def parse_seconds(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Read ``10``, ``0.5s``, ``5m`` or ``1h`` as seconds."""
    if value is None:
        return None
    match = re.fullmatch(r"([0-9]+|[0-9]*\.[0-9]+)([smh]?)", value)
    if not match or not float(match[1]):
        raise click.BadParameter(
            f"{value!r} is not a time such as 10, 0.5s, 5m or 1h", param=parameter
        )
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _shared_options(probe: Probe) -> list[click.Parameter]:
    """Return the filters that `probe` can honour, and the output and tracing options."""
    flag: dict[str, Any] = {"is_flag": True}
    out: dict[str, Any] = {"section": OUTPUT}
    trace: dict[str, Any] = {"section": TRACING}
    keys = ", ".join(dict.fromkeys(one.key for one in (*probe.columns, *probe.more_columns)))
    return [
        *(_filter_option(one, probe) for one in FILTERS if one.name in probe.filters),
        *(_family_options() if "family" in probe.filters else ()),
        TraceOption(
            ["-T", "--time"], **flag, **out, adds=("time",), help="Add a TIME column (HH:MM:SS)."
        ),
        TraceOption(
            ["-t", "--timestamp"],
            **flag,
            **out,
            adds=("time_s",),
            help="Add a TIME(s) column: seconds since the first event.",
        ),
        TraceOption(
            ["-o", "--output", "form"], **out, type=click.Choice(FORMATS), help="Default: text."
        ),
        TraceOption(["--json"], **flag, **out, help="Short for -o json: one object a line."),
        TraceOption(
            ["--columns"],
            **out,
            metavar="LIST",
            default="",
            help=f"Pick columns (pid,comm), add (+netns) or drop (-ip), of: {keys}.",
        ),
        TraceOption(
            ["--backend"],
            **trace,
            type=click.Choice(("auto", *probe.backends)),
            default="auto",
            help="How the kernel is asked; see `tcptrace doctor`.",
        ),
        TraceOption(
            ["--headers"],
            **trace,
            type=click.Choice(CHOICES),
            default="auto",
            help="Where kernel types come from: its BTF, or installed kernel headers.",
        ),
        TraceOption(
            ["--duration"],
            **trace,
            metavar="TIME",
            callback=parse_seconds,
            help="Stop after 10, 5m or 1h.",
        ),
        TraceOption(
            ["--count-events"],
            **trace,
            type=click.IntRange(min=1),
            metavar="N",
            help="Stop after N events.",
        ),
        TraceOption(
            ["--buffer-mb"],
            **trace,
            type=click.Choice([str(1 << power) for power in range(11)]),
            default="4",
            metavar="MB",
            help="The event buffer: a power of 2 up to 1024. Default: 4.",
        ),
        TraceOption(["--fail-on-loss"], **flag, **trace, help="Exit with 1 if events were lost."),
        TraceOption(
            ["-v", "--verbose"], **flag, **trace, help="Say which backend was taken, and why."
        ),
        TraceOption(
            ["--dump-c"], **flag, **trace, help="Print the C that would be compiled, and end."
        ),
    ]


def _plan(probe: Probe, options: Sequence[click.Parameter], given: dict[str, Any]) -> Plan:
    family = {"ipv4": 4, "ipv6": 6}
    families = [number for name, number in family.items() if given.get(name)]
    if len(families) > 1:
        raise click.UsageError("-4 and -6 exclude each other.")
    names = [one.name for one in FILTERS if one.name in probe.filters]
    values = {name: given[name] for name in names if given[name] is not None}
    if families:
        values["family"] = families[0]
    switches = {
        define: str(int(given[one.name or ""]))
        for one in _turned_on(options, given)
        for define in one.switches
    }
    return Plan(
        probe,
        values,
        switches,
        given["backend"],
        int(given["buffer_mb"]),
        given["headers"],
        companions=tuple(two for one in _turned_on(options, given) for two in one.probes),
        not_in_ftrace=tuple(_not_in_ftrace(probe, values, list(_turned_on(options, given)))),
    )


def _not_in_ftrace(
    probe: Probe, filters: Iterable[str], options: Iterable[TraceOption]
) -> Iterator[str]:
    """Yield the options that the backend ftrace cannot honour."""
    yield from (BY_NAME[name].flags[0] for name in filters if not BY_NAME[name].expression)
    known = frozenset().union(*(variant.options for variant in probe.trace_variants))
    yield from (one.opts[0] for one in options if one.probes or not known.issuperset(one.switches))


def _turned_on(options: Sequence[click.Parameter], given: dict[str, Any]) -> Iterator[TraceOption]:
    for one in options:
        if isinstance(one, TraceOption) and one.name and given[one.name]:
            yield one


def _check_combination(options: Sequence[click.Parameter], given: dict[str, Any]) -> None:
    """Raise UsageError where an option misses one that it needs, or excludes another."""
    flags = {one.name: one.opts[0] for one in options}
    for one in _turned_on(options, given):
        for name in one.needs:
            if not given[name]:
                raise click.UsageError(f"{one.opts[0]} needs {flags[name]}.")
        for name in one.excludes:
            if given[name]:
                raise click.UsageError(f"{one.opts[0]} and {flags[name]} exclude each other.")


def _output(probe: Probe, options: Sequence[click.Parameter], given: dict[str, Any]) -> Output:
    if given["json"] and given["form"] not in (None, "json"):
        raise click.UsageError(f"--json and -o {given['form']} exclude each other.")
    form = "json" if given["json"] else given["form"] or "text"
    if form == "json" and given["columns"]:
        raise click.UsageError("--columns is for text and csv; JSON has all that is known.")
    on = list(_turned_on(options, given))
    adds = [key for one in on for key in one.adds]
    table = next((one.table for one in on if one.table), None)
    replaced = {new.key: new for one in on for new in one.replaces}
    shown, more = (
        [replaced.get(column.key, column) for column in group]
        for group in table or (probe.columns, probe.more_columns)
    )
    known = {column.key for column in (*shown, *more)}
    for one in on:
        if not known.issuperset(one.adds):
            raise click.UsageError(f"{one.opts[0]} adds a column that these rows do not have.")
    try:
        chosen = columns.choose(shown, more, given["columns"], adds)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--columns") from None
    return Output(
        form=form,
        columns=chosen,
        duration_s=given["duration"],
        count=given["count_events"],
        tables=bool(table),
        fail_on_loss=given["fail_on_loss"],
        verbose=given["verbose"],
    )


def _dump(plan: Plan) -> None:
    """Print the C of the first variant that the kernel permits, or of the one that was named."""
    if plan.backend == BACKEND:
        raise RefusedError("the backend ftrace compiles no C; -v names its probes")
    if plan.backend == "auto":
        require_tracing()
        variant = next(usable_variants(plan, lambda _: None), None)
    else:
        variant = plan.variants()[0]
    if variant is None:
        raise TcptraceError(
            f"this kernel permits no way to trace {plan.probe.name}.\n"
            "`tcptrace doctor` tells why; --backend NAME prints that backend's C"
        )
    sys.stdout.write(listing(plan, variant))


def command(probe: Probe, *, api: int = API_VERSION) -> Callable[[RowFunction], click.Command]:
    """Make a subcommand that traces `probe`.

    The decorated function gets an iterator of events, and the values of its own options by name; it
    returns an iterable of the events to show. Its docstring is the help text. For work that is not
    event by event it can have the parameters ``session``, a `Session`, ``filters``, the parsed
    values of `tcptrace.model.filters` by name, and ``batches``, an iterator over iterators of
    events that comes round some 30 times a second, to be used in place of the first argument.

    Args:
        probe: what to trace; its filters become options.
        api: the `API_VERSION` that a plugin was written for.

    Raises:
        PluginError: this tcptrace has another `API_VERSION`.

    """
    if api != API_VERSION:
        raise PluginError(f"made for plugin API {api}; this tcptrace has {API_VERSION}")

    def decorate(function: RowFunction) -> click.Command:
        own = list(reversed(getattr(function, "__click_params__", [])))
        taken = {one.name for one in own}
        options = [*own, *(one for one in _shared_options(probe) if one.name not in taken)]
        wanted = list(inspect.signature(function).parameters)[1:]

        def callback(**given: Any) -> None:
            _check_combination(options, given)
            plan = _plan(probe, options, given)
            output = _output(probe, options, given)
            if given["dump_c"]:
                _dump(plan)
                return

            def rows(session: Session, batches: Iterator[Iterator[Event]]) -> Iterable[Event]:
                more = {"session": session, "filters": plan.filters, "batches": batches}
                offered = {**given, **more}
                used = {name: offered[name] for name in wanted if name in offered}
                return function(chain.from_iterable(batches), **used)

            run(plan, rows, output)

        return TraceCommand(
            probe,
            name=function.__name__,
            params=options,
            callback=callback,
            help=inspect.getdoc(function),
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    return decorate
