"""``tcptrace top``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

import click

from tcptrace.errors import RefusedError
from tcptrace.kernel.processes import is_in_initial
from tcptrace.kernel.sampler import Sampler
from tcptrace.model.columns import TIME, TIME_S, Table
from tcptrace.model.pace import AT_ONCE, FASTEST, SLOWEST, Pace
from tcptrace.probes.connect.probe import FAILED
from tcptrace.probes.dns.probe import ANSWERS
from tcptrace.probes.tracer.probe import TRACER, is_failure
from tcptrace.shell import complete
from tcptrace.shell.command import COMMAND, command
from tcptrace.shell.options import OUTPUT, RECORDING, TRACING, file_name, option
from tcptrace.shell.plan import Shown
from tcptrace.shell.say import say
from tcptrace.shell.screen import is_screen, make_screen
from tcptrace.shell.times import parse_time
from tcptrace.shell.trace import Trace
from tcptrace.top import keys, listeners, tables
from tcptrace.top.feed import frames
from tcptrace.top.keys import DIMENSIONS, Dimension
from tcptrace.top.measures import MEASURES, figure_columns, key_columns
from tcptrace.top.played import lacks, played
from tcptrace.top.probe import TOP

REFUSED = {
    "write": "top shows figures, and keeps none. What they are made of is kept with: "
    "tcptrace tracer -d --failed --existing -w FILE, and shown with: tcptrace top -r FILE.",
    "who": "top shows no program's arguments: --by process tells whose connections they are.",
    "count_events": "top shows intervals, not events: -n N ends after so many.",
    "also_print": "--print is for -w, which top does not have.",
    "force": "--force is for -w, which top does not have.",
    "rotate": "--rotate is for -w, which top does not have.",
    "keep": "--keep is for -w, which top does not have.",
}
"""Options that are for events."""
USUAL_ROWS = 20
"""Of a table, where it is text."""
PACE = "tcptrace.pace"
"""Where click's context holds how fast a recording is played."""
SORTS = (*(measure.key for measure in MEASURES), *(dimension.name for dimension in DIMENSIONS))


def _parse_by(
    _context: click.Context, parameter: click.Parameter, value: str
) -> tuple[Dimension, ...]:
    try:
        return keys.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _parse_interval(_context: click.Context, parameter: click.Parameter, value: str) -> float:
    try:
        return parse_time(value, least="100ms")
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _parse_speed(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """Read how many seconds of a recording are to pass in one."""
    if value in {None, "max"}:
        return None if value is None else AT_ONCE
    try:
        speed = float(value or "")
    except ValueError:
        speed = math.nan
    if not SLOWEST <= speed <= FASTEST:
        raise click.BadParameter(
            f"{value!r} is no speed: give a number from {SLOWEST} to {FASTEST:.0f}, or max",
            param=parameter,
        )
    return speed


def _parse_existing(context: click.Context, _parameter: click.Parameter, value: Any) -> Any:
    """Refuse connections of before where process ids are others than the kernel's events have."""
    is_live = context.params.get("read") is None
    if is_live and value and not is_in_initial("pid"):
        raise RefusedError(
            "the connections of before are told with the process ids of the initial PID "
            "namespace.\nRun it on the host, or with --no-existing"
        )
    return value


def _pace(given: dict[str, Any]) -> Pace | None:
    """Return how fast a recording is to be played, where there is one."""
    if given["read"] is None:
        return None
    usual = AT_ONCE if given["once"] else 1.0
    return Pace(given["speed"] or usual, lasts=is_screen(given))


def _refuse_following(given: dict[str, Any], command: Sequence[str]) -> None:
    """Raise UsageError where those who are followed are to have connections of before."""
    if given["read"] is not None:
        return
    if given["existing"] and (command or given["follow"]):
        what = "-- COMMAND" if command else "-f"
        needs = "-b --no-existing" if command and is_screen(given) else "--no-existing"
        raise click.UsageError(
            f"top shows what was open before, and cannot tell whose: with {what}, give {needs}."
        )


def _show(given: dict[str, Any]) -> Shown:
    """Return the columns, and the screen where there is to be one. Raises UsageError."""
    _refuse_following(given, click.get_current_context().meta.get(COMMAND, ()))
    pace = None if given["listen"] else _pace(given)
    click.get_current_context().meta[PACE] = pace
    screen = partial(make_screen, given, pace) if is_screen(given) else None
    if given["listen"]:
        more = [TIME, TIME_S, *listeners.MORE_COLUMNS]
        return Shown(Table(listeners.COLUMNS, more, of="listener"), screen)
    shown, more = figure_columns()
    columns = Table([*key_columns(given["by"]), *shown], [TIME, TIME_S, *more], of="connection")
    return Shown(columns, screen, pace)


def _is_connection(row: Any) -> bool:
    return not is_failure(row)


def _is_new(row: Any) -> bool:
    return bool(row.type != "open")


@command(TOP, show=_show, plays=TRACER, refuses=REFUSED)
@option(
    "--by",
    metavar="LIST",
    default=",".join(keys.DEFAULT),
    callback=_parse_by,
    shell_complete=complete.words({dimension.name: "" for dimension in DIMENSIONS}),
    help=f"Add up by these: {', '.join(dimension.name for dimension in DIMENSIONS)}. "
    f"Default: {','.join(keys.DEFAULT)}.",
)
@option("--in", "inward", is_flag=True, excludes=("outward",), help="What was accepted here only.")
@option("--out", "outward", is_flag=True, help="What was made from here only.")
@option("--failed", is_flag=True, help="Rows with failures only.")
@option(
    "--listen",
    is_flag=True,
    needs_kernel=True,
    excludes=("inward", "outward", "failed", "sort"),
    help="Show who listens instead, with accept queues and what they have dropped.",
)
@option(
    "--interval",
    metavar="TIME",
    default="1s",
    callback=_parse_interval,
    help="How long an interval is: 5, 0.5s or 1m. Default: 1s.",
)
@option("--rows", type=click.IntRange(min=1), metavar="N", help="Show at most so many rows.")
@option(
    "--sort",
    type=click.Choice(SORTS),
    metavar="COLUMN",
    help="Sort by this column's key; by default the busiest come first.",
)
@option(
    "-n", "--iterations", type=click.IntRange(min=1), metavar="N", help="End after N intervals."
)
@option("--once", is_flag=True, excludes=("iterations",), help="Show one interval, and end.")
@option(
    "--speed",
    section=RECORDING,
    needs=("read",),
    metavar="N",
    callback=_parse_speed,
    help="With -r: play N times as fast; max is as fast as can be read. Default: 1.",
)
@option(
    "-r",
    "--read",
    section=RECORDING,
    callback=file_name,
    metavar="FILE",
    is_eager=True,  # filters are then about what it has
    help="Play what `tcptrace tracer -w` has kept in FILE or DIR/ (- is standard input).",
)
@option("-b", "--batch", is_flag=True, section=OUTPUT, help="No screen: a table each interval.")
@option(
    "--columns",
    section=OUTPUT,
    metavar="LIST",
    default="",
    help="Pick columns (program,rx), add (+conns) or drop (-rtt), of those of --by and: "
    f"{', '.join(column.key for columns in figure_columns() for column in columns)}, time, time_s.",
)
@option(
    "--names/--no-names",
    default=True,
    section=TRACING,
    probes=(ANSWERS,),
    is_for_rows=True,
    help="Whether to learn names from DNS answers. Default: yes.",
)
@option(
    "--failures/--no-failures",
    default=True,
    section=TRACING,
    probes=(FAILED,),
    is_for_rows=True,
    keeps=lambda failures: None if failures else _is_connection,
    help="Whether to trace attempts that fail. Default: yes.",
)
@option(
    "--existing/--no-existing",
    default=True,
    section=TRACING,
    switches=("TRACER_EXISTING",),
    is_for_rows=True,
    keeps=lambda existing: None if existing else _is_new,
    callback=_parse_existing,
    help="Whether to begin with the connections that are open. Default: yes.",
)
def top(
    trace: Trace,
    *,
    by: Sequence[Dimension],
    inward: bool,
    outward: bool,
    failed: bool,
    listen: bool,
    interval: float,
    rows: int | None,
    sort: str | None,
    iterations: int | None,
    once: bool,
    names: bool,
    existing: bool,
    form: str | None,
    json: bool,
) -> Iterator[Any]:
    """Show who talks to whom now, live, and what goes wrong.

    Connections and failures are counted by their events, however short they are. Bytes,
    retransmits and round-trip times of open connections come from the kernel's socket lists, once
    an interval. On a terminal it is a screen: ? tells its keys, q ends it.

    \b
    Examples:
      tcptrace top                         all, on a screen
      tcptrace top --out --failed          attempts that fail, by program and name
      tcptrace top --by container,port     who serves and asks what
      tcptrace top --in --by listener      this host's servers
      tcptrace top --listen                their accept queues: are they too slow?
      tcptrace top --once --json           one interval, for a program
      tcptrace top -r night.jsonl          what `tracer -d --failed -w` has kept
    """  # noqa: D301 - click's own mark for lines that stay as they are
    most = 1 if once else iterations
    on_screen = is_screen(click.get_current_context().params)
    if not on_screen and not json and form in {None, "text"}:
        rows = rows or USUAL_ROWS
    if listen:
        shown: Any = islice(listeners.tables(trace, interval, Sampler()), most)
        return tables.anew(shown) if on_screen else tables.of_listeners(shown, rows)
    directions = [way for way, other in (("in", outward), ("out", inward)) if not other]
    pace: Pace | None = click.get_current_context().meta[PACE]
    if pace:
        shown = played(trace, by, directions, interval, pace, names=names)
    else:
        shown = frames(
            trace, by, directions, interval, say, Sampler(), names=names, existing=existing
        )
    shown = islice(shown, most)
    if on_screen:
        return tables.anew(shown)
    if pace:
        say(f"in a recording: {lacks(trace.meta)}")
    return tables.of_traffic(shown, by, sort, rows, only_failed=failed)
