"""The options of a tracing command: its own, the filters that its probe honours, and the shared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any

import click

from tcptrace.kernel.headers import CHOICES
from tcptrace.model import columns
from tcptrace.model.columns import ARGS
from tcptrace.model.filters import FILTERS, Filter
from tcptrace.model.systems import Recorded, System
from tcptrace.probes.follow import FOLLOW
from tcptrace.probes.probe import Probe
from tcptrace.probes.programs import WHO
from tcptrace.shell import complete
from tcptrace.shell.amounts import parse_limits
from tcptrace.shell.host import Host
from tcptrace.shell.times import parse_seconds, parse_wall_ns
from tcptrace.sinks.choose import FORMATS
from tcptrace.sinks.color import CHOICES as CHOICES_OF_COLOR

RowFunction = Callable[..., Iterable[Any]]
HOST = "tcptrace.host"
PREFERRED = "tcptrace.preferred"
"""Where click's context holds the names of the flags that a recording may lack."""
RARE_FILTERS = frozenset({"cgroupmap", "mntnsmap"})
OWN, FILTER, OUTPUT, RECORDING, TRACING = (
    "Options",
    "Filters",
    "Output",
    "Recordings",
    "Tracing",
)


class TraceOption(click.Option):
    """A click option that knows its section of the help text and what it turns on."""

    def __init__(
        self,
        *args: Any,
        section: str = OWN,
        adds: Sequence[str] = (),
        adds_to_csv: Sequence[str] = (),
        switches: Sequence[str] = (),
        replaces: Sequence[columns.Column] = (),
        table: columns.Table | None = None,
        needs: Sequence[str] = (),
        excludes: Sequence[str] = (),
        idle_with: Sequence[str] = (),
        probes: Sequence[Probe] = (),
        is_rare: bool = False,
        needs_kernel: bool = False,
        is_for_rows: bool = False,
        keeps: Callable[[Any], Callable[[Any], bool] | None] | None = None,
        narrows: Sequence[str] = (),
        implies: Callable[[Any], Sequence[str]] | None = None,
        prefers: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        """Say what the option does when it is given; see `option`."""
        self.section = section
        self.adds = adds
        self.adds_to_csv = adds_to_csv
        self.switches = switches
        self.replaces = replaces
        self.table = table
        self.needs = needs
        self.excludes = excludes
        self.idle_with = idle_with
        self.probes = probes
        self.is_rare = is_rare
        self.needs_kernel = needs_kernel
        self.is_for_rows = is_for_rows
        self.keeps = keeps
        self.narrows = narrows
        self.implies = implies
        self.prefers = prefers
        super().__init__(*args, **kwargs)


def option(*flags: str, **attributes: Any) -> Callable[[RowFunction], RowFunction]:
    """Give a command an option of its own, or one in place of a shared one; below `command`.

    Args:
        flags: as in `click.option`.
        attributes: as in `click.option`, and ``needs`` and ``excludes``, names of options that must
            be given with it, or must not; ``idle_with``, those with which it is taken and changes
            nothing; ``adds``, keys of columns that the option shows,
            ``adds_to_csv``, keys of those that it shows in CSV alone, and ``switches``, defines
            that it sets for the C source, to its value or for a flag to 1,
            ``replaces``, columns that it shows in place of those with the same keys,
            and ``table``, columns in place of the probe's, for rows that come in tables, each
            behind a `NewTable`; ``probes``, whose events come among the others in the order in
            which they happened, see `tcptrace.sources.plan.Plan`; ``is_rare``, whether the help
            shows it with ``--help-all`` alone. The function receives the option's value if it has
            a parameter of its name.

            How it is with a recording (``-r``): what was not recorded with the same switches and
            probes is refused, but for ``narrows``, those switches that only leave rows out;
            ``keeps``, a function from the option's value to a test of a row, or None, does that
            then. An option of which ``is_for_rows`` is true works on rows whatever the kernel did;
            one of which ``needs_kernel`` is, is refused.

            ``implies``, from the option's value to names of flags that are taken as given with it;
            and ``prefers``, names of those that are, but that a recording may lack.

    """
    return click.option(*flags, cls=TraceOption, **attributes)


def _system(context: click.Context) -> System:
    """Return what filters are about: this host, which holds what they name, or a recording."""
    if context.params.get("read") is not None:
        return Recorded()
    if HOST not in context.meta:
        context.meta[HOST] = context.with_resource(closing(Host()))
    host: Host = context.meta[HOST]
    return host


def _filter_option(entry: Filter, probe: Probe) -> TraceOption:
    default = probe.defaults.get(entry.name)
    help_ = entry.help.format(ports=probe.ports)
    if default:
        help_ += f" Default: {default}."

    def parse(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return None
        try:
            return entry.parse(value, _system(context))
        except ValueError as error:
            raise click.BadParameter(str(error), param=parameter) from None

    return TraceOption(
        [*entry.flags, entry.name],
        metavar=entry.metavar,
        multiple=entry.multiple,
        callback=parse,
        help=help_,
        section=FILTER,
        is_rare=entry.name in RARE_FILTERS,
        shell_complete=complete.OF_FILTERS.get(entry.name),
        default=[default] if default and entry.multiple else default,
    )


def _family_options() -> list[TraceOption]:
    flag: dict[str, Any] = {"is_flag": True, "section": FILTER}
    return [
        TraceOption(["-4", "--ipv4", "ipv4"], **flag, help="IPv4 only, IPv4-mapped included."),
        TraceOption(["-6", "--ipv6", "ipv6"], **flag, help="IPv6 only."),
    ]


def _follow_options() -> list[TraceOption]:
    return [
        TraceOption(
            ["-f", "--follow"],
            is_flag=True,
            section=FILTER,
            needs=("pid",),
            probes=(FOLLOW,),
            needs_kernel=True,
            help="With -p: what these processes have started and will start, too.",
        ),
        TraceOption(
            ["--as", "as_user"],
            needs_kernel=True,
            section=TRACING,
            metavar="USER",
            shell_complete=complete.OF_FILTERS["uid"],
            help="Run the command as this user, not as the one behind sudo.",
        ),
        TraceOption(
            ["--no-wait"],
            is_flag=True,
            section=TRACING,
            help="Stop when the command ends, whatever it has left running.",
        ),
    ]


def _who_option() -> TraceOption:
    return TraceOption(
        ["--who"],
        is_flag=True,
        section=OUTPUT,
        adds=("ppid", "exe", "args"),
        probes=(WHO,),
        help="Add PPID, EXE and ARGS: the parent, the program and its arguments.",
    )


def file_name(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Take a file's name. Raises BadParameter where it is empty, as a shell variable can be."""
    if value == "":
        raise click.BadParameter("a file's name is not empty", param=parameter)
    return value


def shared_options(probe: Probe) -> list[click.Parameter]:
    """Return the filters that `probe` can honour, and the output and tracing options."""
    flag: dict[str, Any] = {"is_flag": True}
    out: dict[str, Any] = {"section": OUTPUT}
    kept: dict[str, Any] = {"section": RECORDING}
    trace: dict[str, Any] = {"section": TRACING}
    rare: dict[str, Any] = {"is_rare": True}
    return [
        *(_filter_option(entry, probe) for entry in FILTERS if entry.name in probe.filters),
        *(_follow_options() if "pid" in probe.filters else ()),
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
            shell_complete=complete.columns,
            metavar="LIST",
            default="",
            help="Pick columns (pid,comm), add (+netns) or drop (-ip); `help` lists them.",
        ),
        *([_who_option()] if ARGS in probe.extra_columns else ()),
        TraceOption(
            ["--to"],
            **out,
            callback=file_name,
            metavar="FILE",
            shell_complete=complete.PATHS,
            help="Write rows to a file; - is standard output, also with a command.",
        ),
        TraceOption(
            ["--color"],
            **out,
            **rare,
            type=click.Choice(CHOICES_OF_COLOR),
            default="auto",
            help="Default: on a terminal that has colours, unless NO_COLOR is set.",
        ),
        TraceOption(
            ["--wide"],
            **flag,
            **out,
            **rare,
            help="One line for each row, however narrow the terminal.",
        ),
        TraceOption(
            ["-w", "--write"],
            **kept,
            callback=file_name,
            metavar="FILE",
            shell_complete=complete.PATHS,
            help="Keep events in FILE (.jsonl or .parquet; - is standard output), or in many files "
            "of a directory, DIR/ or s3://BUCKET/PREFIX/; print none.",
        ),
        TraceOption(
            ["--rotate"],
            **kept,
            metavar="LIMIT",
            needs=("write",),
            callback=parse_limits,
            help="With -w DIR/: begin a new file after 10m, 100M or 1h,100M. Default: 10m.",
        ),
        TraceOption(
            ["--keep"],
            **kept,
            metavar="LIMIT",
            needs=("write",),
            callback=parse_limits,
            help="With -w DIR/: remove this host's files beyond 7d, 10G or 7d,10G.",
        ),
        TraceOption(
            ["-r", "--read"],
            **kept,
            callback=file_name,
            metavar="FILE",
            shell_complete=complete.PATHS,
            is_eager=True,  # filters are then about what it has
            help="Show what FILE or DIR/ has kept (- is standard input); needs no rights.",
        ),
        TraceOption(
            ["--since"],
            **kept,
            metavar="WHEN",
            needs=("read",),
            callback=parse_wall_ns,
            help="With -r: from 2h (ago), 09:30, 2026-11-30 or 2026-11-30T09:30Z on.",
        ),
        TraceOption(
            ["--until"],
            **kept,
            metavar="WHEN",
            needs=("read",),
            callback=parse_wall_ns,
            help="With -r: before this moment.",
        ),
        TraceOption(
            ["--host"],
            **kept,
            metavar="NAME",
            needs=("read",),
            help="With -r DIR/: of this host.",
        ),
        TraceOption(
            ["--print", "also_print"],
            **flag,
            **kept,
            needs=("write",),
            help="With -w: print, too.",
        ),
        TraceOption(["--force"], **flag, **kept, needs=("write",), help="With -w: overwrite FILE."),
        TraceOption(
            ["--backend"],
            **trace,
            **rare,
            needs_kernel=True,
            type=click.Choice(("auto", *probe.backends)),
            default="auto",
            help="How the kernel is asked; see `tcptrace doctor`.",
        ),
        TraceOption(
            ["--headers"],
            **trace,
            **rare,
            needs_kernel=True,
            type=click.Choice(CHOICES),
            default="auto",
            help="Where kernel types come from: its BTF, or installed kernel headers.",
        ),
        TraceOption(
            ["--no-cache"],
            **flag,
            **trace,
            **rare,
            needs_kernel=True,
            help="Compile, and neither use nor keep programs.",
        ),
        TraceOption(
            ["--duration"],
            **trace,
            metavar="TIME",
            callback=parse_seconds,
            help="Stop after 10, 500ms, 1m30s or 1d.",
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
            **rare,
            needs_kernel=True,
            type=click.Choice([str(1 << power) for power in range(11)]),
            default="4",
            metavar="MB",
            help="The event buffer: a power of 2 up to 1024. Default: 4.",
        ),
        TraceOption(
            ["--fail-on-loss"], **flag, **trace, **rare, help="Exit with 1 if events were lost."
        ),
        TraceOption(
            ["-v", "--verbose"], **flag, **trace, help="Say which backend was taken, and why."
        ),
        TraceOption(
            ["--keep-privileges"],
            **flag,
            **trace,
            **rare,
            needs_kernel=True,
            help="Trace with all rights, for a plugin that needs them.",
        ),
        TraceOption(
            ["--dump-c"],
            **flag,
            **trace,
            **rare,
            needs_kernel=True,
            help="Print the C that would be compiled, and end.",
        ),
    ]


def turned_on(options: Sequence[click.Parameter], given: dict[str, Any]) -> Iterator[TraceOption]:
    """Yield the options that the command line gives and that change something."""
    for option in options:
        if not isinstance(option, TraceOption) or not option.name or not given[option.name]:
            continue
        if not any(given[name] for name in option.idle_with):
            yield option


def turn_on_implied(options: Sequence[click.Parameter], given: dict[str, Any]) -> set[str]:
    """Turn the flags on that others imply; return the names of those that are but preferred."""
    on = [*turned_on(options, given)]
    asking = {option.implies: given[option.name or ""] for option in on if option.implies}
    implied = {name for implies, value in asking.items() for name in implies(value)}
    preferred = {name for option in on for name in option.prefers if not given[name]}
    given.update(dict.fromkeys(implied | preferred, True))
    return preferred - implied


def check_combination(options: Sequence[click.Parameter], given: dict[str, Any]) -> None:
    """Raise UsageError where an option misses one that it needs, or excludes another."""
    flags = {option.name: option.opts[0] for option in options}
    for option in turned_on(options, given):
        for name in option.needs:
            if not given[name]:
                raise click.UsageError(f"{option.opts[0]} needs {flags[name]}.")
        for name in option.excludes:
            if given[name]:
                raise click.UsageError(f"{option.opts[0]} and {flags[name]} exclude each other.")
