"""``tcptrace diff``."""

from __future__ import annotations

import json as json_
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from tcptrace.diff.baseline import Baseline, Difference, differences
from tcptrace.diff.ignore import read_ignored
from tcptrace.diff.read import baseline_lines, read_baseline
from tcptrace.errors import TcptraceError, UncertainError
from tcptrace.model.columns import Column, Mark
from tcptrace.model.events import NewTable
from tcptrace.shell.offline import OfflineCommand, option, output_options, paths_argument
from tcptrace.shell.say import say
from tcptrace.sinks.choose import make_sink
from tcptrace.sinks.output import discard
from tcptrace.sinks.recording import STDOUT, create

FOUND = 3
"""The exit status for differences with ``--fail``."""
BOTH = 2
WORDS = {"new": "that are new", "failing": "that fail more often", "gone": "that are gone"}


def _concern(row: Any) -> Mark | None:
    marks: dict[str, Mark] = {"new": "unusual", "failing": "failure"}
    return marks.get(row.change)


COLUMNS = (
    Column(
        "change",
        "CHANGE",
        7,
        lambda row, _: row.change,
        concern=_concern,
        meaning="new, failing (more often than before) or gone",
    ),
    Column(
        "program", "PROGRAM", 15, lambda row, _: row.edge.program, "bold", meaning="who connects"
    ),
    Column("to", "TO", 32, lambda row, _: row.edge.target, meaning="name or network, and port"),
    Column("before", "BEFORE", 18, lambda row, _: str(row.before), meaning="attempts in BASE"),
    Column("now", "NOW", 18, lambda row, _: str(row.now), meaning="attempts in NEW"),
)


def _to_json(difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON has it, see docs/diff.md; what is not known is left out."""
    change, edge, before, now = difference
    values = {
        "type": "difference",
        "change": change,
        **edge._asdict(),
        "attempts": now.attempts,
        "failed": now.failed,
        "base_attempts": before.attempts,
        "base_failed": before.failed,
    }
    return {key: value for key, value in values.items() if value is not None}


def _save(paths: Sequence[Path | str], path: Path, *, force: bool) -> None:
    """Keep what recordings tell as a baseline. Raises TcptraceError."""
    baseline = read_baseline(paths, say, say)
    if str(path) == STDOUT:
        sys.stdout.writelines(baseline_lines(baseline))
        return
    try:
        with os.fdopen(create(str(path), force=force), "w", encoding="ascii") as file:
            file.writelines(baseline_lines(baseline))
    except OSError as error:
        if path.is_file():
            path.unlink()  # a part of it would be taken for all
        raise TcptraceError(f"cannot write to {path}: {error.strerror}") from None
    number = len(baseline.edges(by_name=True))
    say(f"{number} {'edge is' if number == 1 else 'edges are'} in {path}")


def _read_both(paths: Sequence[Path | str]) -> tuple[Baseline, Baseline, bool]:
    """Return BASE and NEW, and whether all of them could be read. Raises TcptraceError."""
    missed: list[str] = []

    def miss(text: str) -> None:
        missed.append(text)
        say(text)

    base, new = (read_baseline([path], miss, say) for path in paths)
    return base, new, not missed


def _write(found: Sequence[Difference], form: str, color: str) -> None:
    if form == "json":
        for difference in found:
            click.echo(json_.dumps(_to_json(difference), separators=(",", ":")))
        return
    if form == "text" and not found:
        return  # there is a word on that
    sink = make_sink(form, COLUMNS, sys.stdout, tables=True, color=color)
    sink.write([NewTable(), *found])
    sink.flush()


def _say_counts(found: Sequence[Difference]) -> None:
    counts = {
        words: sum(difference.change == change for difference in found)
        for change, words in WORDS.items()
    }
    known = [f"{count} {words}" for words, count in counts.items() if count]
    say(f"edges: {', '.join(known)}" if known else "no edge is new, gone, or fails more often")


@click.command(cls=OfflineCommand)
@paths_argument("BASE NEW")
@option(
    "--fail",
    is_flag=True,
    help="Exit with 3 if there is any difference, with 4 if not all could be read.",
)
@option(
    "--ignore",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Leave out what patterns in a file match: PROGRAM DESTINATION PORT.",
)
@option(
    "--save",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Keep what the given recordings tell in a small file, to be a BASE later; - is standard "
    "output.",
)
@option("--force", is_flag=True, help="With --save: overwrite FILE.")
@output_options
def diff(
    *,
    paths: tuple[Path | str, ...],
    fail: bool,
    ignore: Path | None,
    save: Path | None,
    force: bool,
    form: str | None,
    json: bool,
    color: str,
) -> None:
    """Show what is new, gone or failing between two recordings.

    BASE and NEW are recordings, directories of them, s3://BUCKET/PREFIX/, or files of --save.
    Compared are a program, the name that it asked for, or else the network of the address, and the
    port.

    \b
    Examples:
      tcptrace diff monday.parquet tuesday.parquet   what has changed
      tcptrace diff --fail --ignore known base now/  for scripts: 3 if anything
      tcptrace diff --save base fleet/               to compare with later
    """  # noqa: D301 - click's own mark for lines that stay as they are
    if save:
        compared = {"--fail": fail, "--ignore": ignore, "--json": json, "-o": form}
        too_many = [name for name, given in compared.items() if given]
        if too_many:
            raise click.UsageError(f"--save compares nothing: {too_many[0]} is not for it.")
        _save(paths, save, force=force)
        return
    if force:
        raise click.UsageError("--force is for --save.")
    if len(paths) != BOTH:
        raise click.UsageError("Two are compared: give BASE and NEW.")
    if json and form not in {None, "json"}:
        raise click.UsageError(f"--json and -o {form} exclude each other.")
    is_ignored = read_ignored(ignore)
    base, new, is_whole = _read_both(paths)
    found = [difference for difference in differences(base, new) if not is_ignored(difference.edge)]
    try:
        _write(found, "json" if json else form or "text", color)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads has seen enough, which changes no verdict
        discard(sys.stdout)
    _say_counts(found)
    if found and fail:
        click.get_current_context().exit(FOUND)
    if fail and not is_whole:
        raise UncertainError(
            "whether anything differs is not known: not all could be read.\n"
            "Move away what was left out, or make it readable"
        )
