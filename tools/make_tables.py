#!/usr/bin/env python3
"""Write the tables of docs/backends.md that the probes' declarations hold.

Run it with the Python of the virtual environment that has tcptrace, after a probe has changed.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import tcptrace.probes
from tcptrace.model.events import json_keys
from tcptrace.probes.probe import ALWAYS, BACKENDS, Backend, Probe

PAGE = Path(__file__).resolve().parent.parent / "docs" / "backends.md"
BEGIN, END = "<!-- tables: begin -->\n", "<!-- tables: end -->\n"


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
    when = probe.absence(backend, kind, key)
    if when is None:
        return "yes"
    return "no" if when == ALWAYS else f"not if {when}"


def line(*cells: str) -> str:
    """Return one line of a table."""
    return f"| {' | '.join(cells)} |\n"


def table(probe: Probe) -> str:
    """Return the table of a probe: events' fields by backends, alike ones in one line."""
    fields: dict[tuple[str, ...], list[str]] = {}
    for row in probe.shown:
        for key in json_keys(row):
            cells = (row.type, *(cell(probe, backend, row.type, key) for backend in BACKENDS))
            fields.setdefault(cells, []).append(f"`{key}`")
    head = line("event", "fields", *(f"`{name}`" for name in BACKENDS))
    body = (line(f"`{kind}`", ", ".join(keys), *rest) for (kind, *rest), keys in fields.items())
    return f"### `{probe.name}`\n\n{head}{line(*['---'] * (2 + len(BACKENDS)))}{''.join(body)}"


def written(page: str) -> str:
    """Return the page with the tables as they are to be."""
    tables = "\n".join(map(table, probes()))
    return re.sub(f"(?<={BEGIN}).*(?={END})", lambda _: f"\n{tables}\n", page, flags=re.DOTALL)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
