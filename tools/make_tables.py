#!/usr/bin/env python3
"""Write the tables in docs/ that follow from what is declared: fields, options, columns.

Run it with the Python of the virtual environment that has tcptrace, after a probe, a filter, an
option or a column has changed.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

import tcptrace.probes
from tcptrace.commands import diff
from tcptrace.map import edges
from tcptrace.model.columns import Column
from tcptrace.model.events import json_keys
from tcptrace.probes.probe import ALWAYS, BACKENDS, Backend, Probe
from tcptrace.shell.command import TraceCommand
from tcptrace.shell.help import HELP_ALL
from tcptrace.shell.options import (
    FILTER,
    OUTPUT,
    OWN,
    RECORDING,
    TRACING,
    TraceOption,
    shared_options,
)

DOCS = Path(__file__).resolve().parent.parent / "docs"
SHARED = {"filters": FILTER, "output": OUTPUT, "recordings": RECORDING, "tracing": TRACING}
"""The tables of docs/options.md, and the sections of the help that they are of."""
KINDS = {
    "accept": ("accept",),
    "connect": ("connect", "count", "destination"),
    "tracer": ("connect", "close", "open", "destination"),
    "dns": ("dns",),
    "top": ("top", "listener"),
}
"""The types of rows that commands give."""
OTHERS = {"diff": "diff", "doctor": "doctor", "map": "map", "programs": "prepare"}
"""The pages of commands that do not trace, with their commands."""
COLUMNS = {"diff": diff.COLUMNS, "map": (*edges.COLUMNS, *edges.MORE_COLUMNS)}
"""The columns of these pages."""
OF_RECORDINGS = {"map": ("edge", "clock"), "diff": ("difference",)}
"""The types of rows of those that have any."""
OF_PROCESSES = ("accept", "connect", "close", "open", "dns")
"""The types of rows that are meant by all, in docs/output.md."""


def probes() -> Iterator[Probe]:
    """Yield the probes that commands are made of, by name."""
    for module in pkgutil.iter_modules(tcptrace.probes.__path__):
        if module.ispkg:
            found = vars(importlib.import_module(f"tcptrace.probes.{module.name}.probe"))
            yield found[module.name.upper()]


def cell(probe: Probe, backend: Backend, kind: str, key: str) -> str:
    """Return what a backend gives of a field of the rows of type `kind`."""
    if backend not in probe.backends:
        return "not offered"
    when = probe.gap(backend, kind, key)
    if when is None:
        return "yes"
    return "no" if when == ALWAYS else f"not if {when}"


def line(*cells: str) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |\n"


def table(probe: Probe) -> str:
    """Return the table of a probe: events' fields by backends, alike ones in one line."""
    fields: dict[tuple[str, ...], list[str]] = {}
    for row in probe.row_classes:
        for key in json_keys(row):
            cells = (row.type, *(cell(probe, backend, row.type, key) for backend in BACKENDS))
            fields.setdefault(cells, []).append(f"`{key}`")
    head = line("event", "fields", *(f"`{name}`" for name in BACKENDS))
    body = (line(f"`{kind}`", ", ".join(keys), *rest) for (kind, *rest), keys in fields.items())
    return f"### `{probe.name}`\n\n{head}{line(*['---'] * (2 + len(BACKENDS)))}{''.join(body)}"


def whole(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    return "".join(line(*row) for row in (head, ["---"] * len(head), *rows))


def escaped(text: str) -> str:
    """Return text for a cell."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def load_any(command: str) -> click.Command:
    """Return a command that tcptrace brings."""
    found: click.Command = vars(importlib.import_module(f"tcptrace.commands.{command}"))[command]
    return found


def load(command: str) -> TraceCommand:
    """Return a tracing command that tcptrace brings."""
    found = load_any(command)
    if not isinstance(found, TraceCommand):
        raise TypeError(f"{command} is no tracing command")
    return found


def flags(option: click.Option) -> str:
    """Return an option's names, with what it takes."""
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    value = option.make_metavar(click.Context(click.Command(""))) if not option.is_flag else ""
    return f"{names} `{escaped(value)}`" if value else names


def options(shown: Iterable[click.Parameter]) -> str:
    """Return the table of options, with their help."""
    rows = (
        (flags(option), escaped(option.help or ""))
        for option in shown
        if isinstance(option, click.Option)
    )
    return whole(("option", "meaning"), rows)


def shared(section: str) -> str:
    """Return the table of the options that all commands share, of a section of the help."""
    probe = dataclasses.replace(load("accept").probe, ports="Ports, of the end that it is about")
    every = (option for option in shared_options(probe) if isinstance(option, TraceOption))
    return options(option for option in every if option.section == section)


def own(command: TraceCommand) -> str:
    """Return the table of a command's own options, and of those that are others there."""
    common = {
        (option.name, getattr(option, "help", "")) for option in shared_options(command.probe)
    }
    return options(
        option
        for option in command.params
        if isinstance(option, TraceOption) and (option.name, option.help) not in common
    )


def others(command: click.Command) -> str:
    """Return the table of the options of a command that does not trace; filters are elsewhere."""
    return options(
        option
        for option in command.params
        if getattr(option, "section", OWN) != FILTER and HELP_ALL not in option.opts
    )


def described(column: Column) -> tuple[str, str, str]:
    """Return the cells of a column."""
    return f"`{column.key}`", column.heading, escaped(column.meaning)


def columns(command: TraceCommand) -> str:
    """Return the table of a command's columns: those that are shown first."""
    probe = command.probe
    adding: dict[str, list[str]] = {column.key: ["always"] for column in probe.columns}
    for option in command.params:
        for key in option.adds if isinstance(option, TraceOption) else ():
            adding.setdefault(key, []).append(f"`{option.opts[0]}`")
    every: dict[str, Column] = {}
    for column in (*probe.columns, *probe.extra_columns):
        every.setdefault(column.key, column)
    rows = ((*described(column), ", ".join(adding.get(key, []))) for key, column in every.items())
    return whole(("key", "heading", "meaning", "shown"), rows)


def shape(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return what a key's value is, in JSON's words."""
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if "$ref" in schema:
        return shape(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "items" in schema:
        return f"array of {shape(schema['items'], definitions)}s"
    return str(schema.get("type", "any of several"))


def meaning(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    """Return what the schema says of a key: there, or where it refers to."""
    if "description" in schema or "$ref" not in schema:
        return str(schema.get("description", ""))
    return meaning(definitions[schema["$ref"].rpartition("/")[2]], definitions)


def keys(kinds: Sequence[str] = ()) -> str:
    """Return the table of JSON's keys: alike ones of several types of rows in one line.

    Of some `kinds` of rows these alone, without what all rows that have a process have.
    """
    schema = json.loads((Path(tcptrace.__file__).parent / "schema.json").read_text("utf-8"))
    definitions = schema["$defs"]
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in (definitions[each["$ref"].rpartition("/")[2]] for each in schema["oneOf"]):
        kind = row["properties"]["type"]["const"]
        for key, value in row["properties"].items():
            if key != "type":
                cells = (f"`{key}`", shape(value, definitions), meaning(value, definitions))
                found.setdefault(cells, []).append(kind)
    rows = []
    for (key, shape_, text), having in found.items():
        is_of_all = set(OF_PROCESSES) <= set(having)
        wanted = [kind for kind in having if kind in kinds and not is_of_all] if kinds else having
        if wanted:
            names = "all" if is_of_all else ", ".join(f"`{kind}`" for kind in wanted)
            rows.append((key, shape_, escaped(text), names))
    return whole(("key", "value", "meaning", "rows"), rows)


def of_other(page: str) -> dict[str, str]:
    """Return the tables of a page of a command that does not trace."""
    tables = {"options": others(load_any(OTHERS[page]))}
    if page in COLUMNS:
        tables["columns"] = whole(("key", "heading", "meaning"), map(described, COLUMNS[page]))
    if page in OF_RECORDINGS:
        tables["keys"] = keys(OF_RECORDINGS[page])
    return tables


def parts(page: str) -> dict[str, str]:
    """Return the tables of a page of docs/, by the name in its marks."""
    if page == "backends":
        return {"tables": "\n".join(map(table, probes()))}
    if page == "output":
        return {"keys": keys()}
    if page == "options":
        return {name: shared(section) for name, section in SHARED.items()}
    if page in OTHERS:
        return of_other(page)
    command = load(page)
    tables = {"options": own(command), "keys": keys(KINDS[page])}
    return tables if page == "top" else {**tables, "columns": columns(command)}


def written(page: str, text: str) -> str:
    """Return the text of a page with the tables as they are to be."""
    for name, new in parts(page).items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
        text, count = re.subn(
            f"(?<={begin}).*(?={end})",
            lambda _, new=new: f"\n{new}\n",  # type: ignore[misc]
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise ValueError(f"{page}.md has no marks for {name}")
    return text


def pages() -> Iterator[tuple[str, Path]]:
    """Yield the pages with tables, and where they are."""
    for page in ("backends", "options", "output", *KINDS, *OTHERS):
        yield page, DOCS / f"{page}.md"


if __name__ == "__main__":
    for name, path in pages():
        path.write_text(written(name, path.read_text(encoding="utf-8")), encoding="utf-8")
