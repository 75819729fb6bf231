"""``tcptrace map``."""

from __future__ import annotations

import errno
import json as json_
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

import click

from tcptrace.errors import RefusedError, ShortageError, TcptraceError, pip_install
from tcptrace.map.edges import COLUMNS, MORE_COLUMNS, to_json
from tcptrace.map.place import Place
from tcptrace.model import columns as of_columns
from tcptrace.model.events import NewTable
from tcptrace.shell.amounts import parse_size
from tcptrace.shell.offline import (
    OfflineCommand,
    chosen_filters,
    filter_options,
    option,
    output_options,
    paths_argument,
)
from tcptrace.shell.options import OUTPUT
from tcptrace.shell.say import say
from tcptrace.shell.times import parse_wall_ns
from tcptrace.sinks.choose import make_sink
from tcptrace.sinks.layout import terminal_size

if TYPE_CHECKING:
    from tcptrace.map.edges import Clock, Map
    from tcptrace.map.engine import Engine

BY = ("program", "unit", "container", "pod", "host", "namespace")
ENGINES = {
    "duckdb": "the map needs DuckDB, which is not installed.\n"
    f"Install it: {pip_install('duckdb', 'pyarrow')}",
    "spark": "Spark needs pyspark, which is not installed, and Java.\n"
    f"Install it: {pip_install('pyspark')}",
}
"""What is to be done where an engine is missing."""
SHORT = (",", ":")
ROOMY = 110
"""So wide a terminal has room for all columns."""
WIDE = frozenset({"tx", "rx", "p50", "p95"})
"""Those that a narrow one does not show unasked."""
SAID = 5
"""So many pairs of clocks are named."""


class Joining(NamedTuple):
    """How a map is made."""

    engine: str
    """One of `ENGINES`."""
    memory: int
    """Bytes."""
    place: str | None
    """Where there is room for what memory cannot hold."""
    master: str


class Form(NamedTuple):
    """How a map is written."""

    name: str
    """One of `tcptrace.sinks.choose.FORMATS`, or dot."""
    columns: Sequence[of_columns.Column]
    to: str | None
    color: str


def _usual_memory() -> int:
    """Return half of the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


@contextmanager
def _engine(joining: Joining) -> Iterator[Engine]:
    """Start the engine that is asked for. Raises RefusedError where it is not installed."""
    engine: Engine
    try:
        if joining.engine == "spark":
            from tcptrace.map.spark import Spark  # noqa: PLC0415 - an extra

            engine = Spark(joining.master, joining.memory, joining.place)
        else:
            from tcptrace.map.duck import DuckDb  # noqa: PLC0415 - an extra

            engine = DuckDb(joining.memory, joining.place)
    except ModuleNotFoundError as error:
        raise RefusedError(ENGINES[joining.engine]) from error
    with closing(engine):
        yield engine


def _made(paths: Sequence[Path | str], joining: Joining, by: str, given: dict[str, Any]) -> Map:
    """Return the map of recordings. Raises TcptraceError."""
    filters = chosen_filters(given)
    since_ns, until_ns = given["since"], given["until"]
    with (
        _engine(joining) as engine,
        Place(joining.place) as place,
    ):
        from tcptrace.map.find import around, check_rows, find  # noqa: PLC0415 - pyarrow is slow
        from tcptrace.map.inputs import Wanted  # noqa: PLC0415 - for few runs
        from tcptrace.map.join import make_map  # noqa: PLC0415 - for few runs

        found = find(paths, Path(place), around(since_ns, until_ns))
        if not found.tables:
            raise TcptraceError("no recording there is of that time")
        for note in found.notes:
            say(note)
        wanted = Wanted(by, filters, since_ns, until_ns, found.namesakes)
        try:
            return make_map(engine, found.tables, wanted)
        except ShortageError:
            raise
        except TcptraceError:
            check_rows(found.tables)  # engines do not say which file it was
            raise


def _say_clocks(clocks: Sequence[Clock]) -> None:
    """Say which clocks are apart, those that are most first."""
    for clock in sorted(clocks, key=lambda clock: -abs(clock.ahead_ms))[:SAID]:
        early, late = (clock.host, clock.of) if clock.ahead_ms > 0 else (clock.of, clock.host)
        far = f"{abs(clock.ahead_ms) / 1000:.1f} s ahead of that of {late}"
        say(f"the clock of {early} is {far}, as {clock.pairs} connections tell")
    if len(clocks) > SAID:
        say(f"and {len(clocks) - SAID} more pairs of clocks are apart: --json has all of them")


def _say_counts(made: Map) -> None:
    """Say how much of what was recorded has found its other end."""
    counts = made.counts
    say(
        f"edges: {len(made.edges)}; connections with both ends: {counts['pairs']}, with the "
        f"client's alone: {counts['connects'] - counts['pairs']}, "
        f"with the server's alone: {counts['accepts'] - counts['pairs']}"
    )


@contextmanager
def _opened(path: str | None) -> Iterator[TextIO]:
    """Open where the map is written. Raises TcptraceError."""
    if path in {None, "-"}:
        yield sys.stdout
        return
    try:
        with Path(str(path)).open("w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        raise TcptraceError(f"cannot write to {path}: {error.strerror}") from None


def _check_place(path: str | None) -> None:
    """Raise TcptraceError where a file cannot be made, before a map that can take an hour."""
    if path in {None, "-"}:
        return
    place = os.path.dirname(str(path)) or "."  # noqa: PTH120 - pathlib raises for closed ones
    if os.path.isdir(str(path)):  # noqa: PTH112 - as above
        number = errno.EISDIR
    elif not os.access(place, os.F_OK):
        number = errno.ENOENT
    elif not os.path.isdir(place):  # noqa: PTH112 - as above
        number = errno.ENOTDIR
    elif not os.access(str(path) if os.path.exists(str(path)) else place, os.W_OK):  # noqa: PTH110
        number = errno.EACCES
    else:
        return
    raise TcptraceError(f"cannot write to {path}: {os.strerror(number)}")


def _form(given: dict[str, Any]) -> Form:
    """Return how the map is to be written. Raises UsageError."""
    asked = [name for name in ("json", "dot") if given[name]]
    asked += [given["form"]] if given["form"] and given["form"] not in asked else []
    if len(asked) > 1:
        raise click.UsageError(f"{' and '.join(asked)} exclude each other.")
    name = asked[0] if asked else "text"
    if given["columns"] and name in {"json", "dot"}:
        raise click.UsageError("--columns is for text and csv.")
    width = terminal_size(sys.stdout).width if sys.stdout.isatty() else ROOMY
    is_narrow = given["to"] is None and width < ROOMY
    usual = [column for column in COLUMNS if not is_narrow or column.key not in WIDE]
    try:
        chosen = of_columns.choose(usual, (*COLUMNS, *MORE_COLUMNS), given["columns"], ())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--columns") from None
    return Form(name, chosen, given["to"], given["color"])


def _write(made: Map, form: Form, stream: TextIO) -> None:
    """Write a map."""
    from tcptrace.map.dot import graph  # noqa: PLC0415 - for few runs

    if form.name == "json":
        stream.writelines(
            json_.dumps(values, separators=(",", ":")) + "\n" for values in to_json(made)
        )
    elif form.name == "dot":
        stream.writelines(graph(made.edges))
    else:
        sink = make_sink(form.name, form.columns, stream, tables=True, color=form.color)
        sink.write([NewTable(), *made.edges])
        sink.flush()


def _write_page(made: Map, path: str, by: str) -> None:
    """Write the page of a map. Raises TcptraceError."""
    from tcptrace.map.page import page  # noqa: PLC0415 - for few runs

    with _opened(path) as file:
        file.write(page(made, by))
    if path != "-":
        say(f"the map is in {path}: open it in a browser")


@filter_options
@click.command(cls=OfflineCommand)
@paths_argument("PATH...")
@option("--by", type=click.Choice(BY), default="program", help="What an end is. Default: program.")
@option(
    "--since",
    metavar="TIME",
    callback=parse_wall_ns,
    help="From then on: 2026-11-30T08:00, 08:00 (today), or 2h (ago).",
)
@option("--until", metavar="TIME", callback=parse_wall_ns, help="Until then.")
@option("--failed", is_flag=True, help="Edges with failures only.")
@option(
    "--memory",
    metavar="SIZE",
    callback=parse_size,
    help="Use at most so much, as 4GB. Default: half of what there is.",
)
@option(
    "--temp",
    is_rare=True,
    metavar="DIR",
    type=click.Path(file_okay=False, exists=True),
    help="Where there is room for what memory cannot hold.",
)
@option(
    "--engine",
    is_rare=True,
    type=click.Choice((*ENGINES,)),
    default="duckdb",
    help="What joins. Default: duckdb.",
)
@option(
    "--master",
    is_rare=True,
    metavar="URL",
    default="local[*]",
    help="With --engine spark: the cluster.",
)
@output_options
@option(
    "--columns",
    section=OUTPUT,
    metavar="LIST",
    default="",
    help="Pick columns (from,to), add (+last) or drop (-name): "
    f"{', '.join(column.key for column in (*COLUMNS, *MORE_COLUMNS))}.",
)
@option("--to", section=OUTPUT, metavar="FILE", help="Write rows to a file.")
@option("--dot", section=OUTPUT, is_flag=True, help="Write a graph for Graphviz.")
@option(
    "--html",
    section=OUTPUT,
    metavar="FILE",
    help="Write a page with a picture to zoom and to search.",
)
def map(  # noqa: A001 - as users call it
    *,
    paths: tuple[Path | str, ...],
    by: str,
    failed: bool,
    memory: int | None,
    temp: str | None,
    engine: str,
    master: str,
    html: str | None,
    **given: Any,
) -> None:
    """Show who talked to whom in a fleet, by its recordings.

    A PATH is a directory of recordings, as tracer -w DIR/ keeps them, or s3://BUCKET/PREFIX/ where
    they are carried to, or a recording. A connection
    is found at both of its ends, also through address translation. What is not recorded shows as
    a name or an address.

    \b
    Examples:
      tcptrace map fleet/                      all edges, the busiest first
      tcptrace map --html map.html fleet/      a picture to zoom and to search
      tcptrace map --failed --since 2h fleet/  what has failed in two hours
      tcptrace map --by pod -P 6379 fleet/     which pods use this port
      tcptrace map --dot fleet/ | dot -Tsvg    a graph, drawn by Graphviz
    """  # noqa: D301 - click's own mark for lines that stay as they are
    form = _form(given)
    if given["since"] and given["until"] and given["since"] >= given["until"]:
        raise click.UsageError(
            "Nothing is between --since and --until: give the earlier time first."
        )
    for path in (html, form.to):
        _check_place(path)
    joining = Joining(engine, memory or _usual_memory(), temp, master)
    made = _made(paths, joining, by, given)
    made = made._replace(edges=[edge for edge in made.edges if edge.failed or not failed])
    if html:
        _write_page(made, html, by)
    if not html or form.to or form.name != "text":
        with _opened(form.to) as stream:
            _write(made, form, stream)
    _say_clocks(made.clocks)
    _say_counts(made)
