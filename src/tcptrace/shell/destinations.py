"""The options about all destinations of a run: ``--summary``, ``--only``, ``--fail-on-connect``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tcptrace.model.columns import Table
from tcptrace.shell.options import RowFunction, option

if TYPE_CHECKING:
    from tcptrace.model.destinations import Destinations

FILE = "@"
"""Stands before the name of a file with such lists."""


def destination_options(
    table: Table, *, prefers: Sequence[str], implies: Sequence[str], excludes: Sequence[str]
) -> Callable[[RowFunction], RowFunction]:
    """Give a command the options about its destinations.

    Args:
        table: the columns of the summary.
        prefers: flags with which a summary tells more.
        implies: flags without which attempts would be missed.
        excludes: options with which rows are missing.

    """

    def needed(permitted: Destinations) -> Sequence[str]:
        return (*implies, "dns") if permitted.has_names else implies

    options = (
        option(
            "--summary",
            is_flag=True,
            excludes=(*excludes, "also_print"),
            prefers=(*prefers, "dns"),
            table=table,
            help="At the end, in place of rows: what came of each destination, by name and port.",
        ),
        option(
            "--only",
            metavar="LIST",
            multiple=True,
            callback=_parse,
            excludes=excludes,
            implies=needed,
            help="Exit with 3 after an attempt to connect to others: NAME:PORT,10.0.0.0/8,@FILE.",
        ),
        option(
            "--fail-on-connect",
            is_flag=True,
            excludes=excludes,
            implies=lambda _: implies,
            help="Exit with 3 after any attempt to connect.",
        ),
    )

    def decorate(function: RowFunction) -> RowFunction:
        for add in reversed(options):
            function = add(function)
        return function

    return decorate


def _parse(
    _context: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> Destinations | None:
    """Read ``--only``."""
    if not values:
        return None
    from tcptrace.model.destinations import parse_destinations  # noqa: PLC0415 - for few runs

    try:
        return parse_destinations(text for value in values for text in _expanded(value))
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _expanded(value: str) -> Iterator[str]:
    """Yield lists, those of a file in place of its name. Raises ValueError."""
    from tcptrace.model.destinations import lines_of  # noqa: PLC0415 - for few runs

    for text in value.split(","):
        name = text.strip()
        if not name.startswith(FILE):
            yield text
            continue
        try:
            yield from lines_of(Path(name.removeprefix(FILE)).read_text(encoding="utf-8"))
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            msg = f"cannot read {name.removeprefix(FILE)}: {why}"
            raise ValueError(msg) from None
