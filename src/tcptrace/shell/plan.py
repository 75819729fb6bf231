"""Makes of a command line a `Plan`, what is traced, and an `Output`, what becomes of the rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from tcptrace.model import columns
from tcptrace.model.columns import OF_PROGRAM, Column, Table
from tcptrace.model.filters import BY_NAME, BY_PLACE, FILTERS, Filters
from tcptrace.model.pace import Pace
from tcptrace.model.ranges import Ranges
from tcptrace.probes.follow import FOLLOW
from tcptrace.probes.places import PLACES
from tcptrace.probes.probe import Probe
from tcptrace.probes.programs import WHO
from tcptrace.shell.follow import NOBODY, Following
from tcptrace.shell.options import TraceOption, turned_on
from tcptrace.sinks.color import Palette
from tcptrace.sinks.sink import Sink
from tcptrace.sources.plan import Plan

if TYPE_CHECKING:
    from tcptrace.model.destinations import Destinations


class Shown(NamedTuple):
    """What a command shows where its rows are no events of its probe."""

    table: Table
    """Its columns; rows come in tables, each behind a `NewTable`."""
    sink: Callable[[Palette], Sink] | None = None
    """Makes what shows rows on standard output in place of text; it is called while the probes are
    being attached."""
    pace: Pace | None = None
    """How fast a recording is played; None where all of it is read at once."""


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """What becomes of the rows."""

    form: str
    """One of `tcptrace.sinks.choose.FORMATS`."""
    columns: Sequence[Column]
    duration_s: float | None = None
    count: int | None = None
    """Stop after so many rows."""
    tables: bool = False
    """Whether rows come in tables, each with a header, not one by one."""
    of: str = "event"
    """What a row is, or counts, such as "event" or "attempt"."""
    color: str = "auto"
    """One of `tcptrace.sinks.color.CHOICES`."""
    wide: bool = False
    """Whether a row is one line on any terminal."""
    to: str | None = None
    """The file that rows go to; "-" is standard output, where they go without a command."""
    following: Following = NOBODY
    fail_on_loss: bool = False
    verbose: bool = False
    keeps_privileges: bool = False
    """Whether to trace with all rights, for a plugin that needs them."""
    sink: Callable[[Palette], Sink] | None = None
    """What shows the rows in place of `form`."""
    summary: bool = False
    """Whether a summary of all rows is shown in place of them."""
    has_ends: bool = False
    """Whether some rows are ends of connections."""
    permitted: Destinations | None = None
    """The destinations that may be connected to; None where no gate was asked for."""
    is_about_base: bool = False
    """Whether the gate is ``--fail``: each row, which a baseline does not have, is an offence."""
    pace: Pace | None = None
    """How fast a recording is played."""


def make_filters(probe: Probe, given: dict[str, Any]) -> Filters:
    """Return the filters that the command line asks for. Raises UsageError."""
    family = {"ipv4": 4, "ipv6": 6}
    families = [number for name, number in family.items() if given.get(name)]
    if len(families) > 1:
        raise click.UsageError("-4 and -6 exclude each other.")
    names = [entry.name for entry in FILTERS if entry.name in probe.filters]
    values = {name: given[name] for name in names if given[name] is not None}
    if families:
        values["family"] = families[0]
    return Filters(values, probe.port_fields)


def make_plan(probe: Probe, options: Sequence[click.Parameter], given: dict[str, Any]) -> Plan:
    """Return what the command line asks to be traced. Raises UsageError."""
    filters = make_filters(probe, given)
    switches = {
        define: str(int(given[option.name or ""]))
        for option in turned_on(options, given)
        for define in option.switches
    }
    return Plan(
        probe,
        filters,
        switches,
        given["backend"],
        int(given["buffer_mb"]),
        given["headers"],
        cache="none" if given["no_cache"] else "keep",
        companions=_with_places(
            [other for option in turned_on(options, given) for other in option.probes], filters
        ),
        not_in_ftrace=tuple(_not_in_ftrace(probe, filters.values, list(turned_on(options, given)))),
    )


def _with_places(companions: Sequence[Probe], filters: Filters) -> tuple[Probe, ...]:
    """Add the probe that reports new cgroups, where programs or places are asked for."""
    is_asked = WHO in companions or not BY_PLACE.isdisjoint(filters.values)
    return (*companions, PLACES) if is_asked and PLACES not in companions else (*companions,)


def _not_in_ftrace(
    probe: Probe, filters: Iterable[str], options: Iterable[TraceOption]
) -> Iterator[str]:
    """Yield the options that the backend ftrace cannot honour."""
    yield from (BY_NAME[name].flags[0] for name in filters if not BY_NAME[name].expression)
    known = frozenset().union(*(variant.options for variant in probe.trace_variants))
    yield from (
        option.opts[0]
        for option in options
        if option.probes
        or option.implies
        or option.prefers
        or not known.issuperset(option.switches)
    )


def _table(on: Iterable[TraceOption], show: Shown | None) -> Table | None:
    """Return the table that the command or an option shows in place of the probe's columns."""
    return show.table if show else next((option.table for option in on if option.table), None)


def offered_columns(
    probe: Probe,
    options: Sequence[click.Parameter],
    given: dict[str, Any],
    show: Shown | None = None,
) -> tuple[list[Column], list[Column]]:
    """Return the columns that are shown by default, and the others."""
    on = list(turned_on(options, given))
    table = _table(on, show)
    replaced = {new.key: new for option in on for new in option.replaces}
    offers = table or probe
    shown, more = (
        [replaced.get(column.key, column) for column in group]
        for group in (offers.columns, offers.extra_columns)
    )
    return shown, more


def with_programs(plan: Plan, chosen: Iterable[Column]) -> Plan:
    """Return a plan that asks for the programs of processes where a column shows them."""
    shown = [column.key for column in chosen if column in OF_PROGRAM]
    if not shown or WHO in plan.companions:
        return plan
    return dataclasses.replace(
        plan,
        companions=_with_places((*plan.companions, WHO), plan.filters),
        not_in_ftrace=(*plan.not_in_ftrace, f"--columns {','.join(shown)}"),
    )


def _following(given: Mapping[str, Any], command: Sequence[str]) -> Following:
    """Return whom to follow. Raises UsageError."""
    if command and given.get("follow"):
        raise click.UsageError("-f is for running processes; a command is followed without it.")
    for name, flag in {"as_user": "--as", "no_wait": "--no-wait"}.items():
        if given.get(name) and not command:
            raise click.UsageError(f"{flag} needs a command: -- COMMAND.")
    if (command or given.get("follow")) and given.get("existing"):
        raise click.UsageError("--existing does not tell whose the open connections are.")
    pids = _followed(given["pid"]) if given.get("follow") else ()
    return Following(pids, tuple(command), given.get("as_user"), waits=not given.get("no_wait"))


def _followed(ranges: Ranges) -> tuple[int, ...]:
    """Return the processes that are to be followed. Raises UsageError."""
    pids = tuple(sorted(ranges.singles()))
    if ranges.drop or len(pids) != len(ranges.keep):
        raise click.UsageError("-f takes single process ids from -p, no ranges or exclusions.")
    for pid in pids:
        if pid not in ranges.began:
            raise click.UsageError(f"There is no process {pid} to be followed.")
    return pids


def with_following(plan: Plan, following: Following) -> Plan:
    """Return a plan whose events are those of followed processes."""
    if not following:
        return plan
    others = (probe for probe in plan.companions if probe is not FOLLOW)
    plan = dataclasses.replace(plan, companions=(*others, FOLLOW))  # alike for what compiles alike
    if following.command:
        refused = (*plan.not_in_ftrace, "-- COMMAND")
        return dataclasses.replace(plan, not_in_ftrace=refused)
    values = {name: value for name, value in plan.filters.values.items() if name != "pid"}
    return dataclasses.replace(plan, filters=Filters(values, plan.probe.port_fields))


def make_output(
    probe: Probe,
    options: Sequence[click.Parameter],
    given: dict[str, Any],
    show: Shown | None = None,
    command: Sequence[str] = (),
) -> Output:
    """Return what the command line wants to become of the rows. Raises UsageError.

    What the command shows comes before what its options say of tables.
    """
    if given["json"] and given["form"] not in (None, "json"):
        raise click.UsageError(f"--json and -o {given['form']} exclude each other.")
    if show and show.sink and (command or given["to"]):
        raise click.UsageError(
            "The screen needs the terminal to itself: with -- COMMAND or --to, give -b."
        )
    form = "json" if given["json"] else given["form"] or "text"
    if form == "json" and given["columns"]:
        raise click.UsageError("--columns is for text and csv; JSON has all that is known.")
    on = list(turned_on(options, given))
    shown, more = offered_columns(probe, options, given, show)
    summary = bool(given.get("summary"))
    adding = [] if summary else on
    adds = [key for option in adding for key in option.adds]
    if form == "csv":
        adds += [key for option in on for key in option.adds_to_csv]
    table = _table(on, show)
    known = {column.key for column in (*shown, *more)}
    for option in adding:
        if not known.issuperset(option.adds):
            raise click.UsageError(f"{option.opts[0]} adds a column that these rows do not have.")
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
        of=table.of if table else "event",
        color=given["color"],
        wide=given["wide"],
        to=given["to"],
        following=_following(given, command),
        fail_on_loss=given["fail_on_loss"],
        verbose=given["verbose"],
        keeps_privileges=given["keep_privileges"],
        sink=show.sink if show else None,
        summary=summary,
        has_ends=any(row.type == "close" for row in probe.row_classes),
        permitted=_permitted(given),
        is_about_base=bool(given.get("fail")),
        pace=show.pace if show else None,
    )


def _permitted(given: Mapping[str, Any]) -> Destinations | None:
    """Return what may be connected to; None for everything, an empty list for nothing."""
    from tcptrace.model.destinations import Destinations  # noqa: PLC0415 - for few runs

    permitted: Destinations | None = given.get("only")
    is_none_permitted = given.get("fail_on_connect") or given.get("fail")
    return permitted or (Destinations() if is_none_permitted else None)
