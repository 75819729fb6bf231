"""The tables in docs/ are what the code declares."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.unit.test_schema import probes
from tools import make_tables

from tcptrace.model.events import json_keys
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.probe import ALWAYS
from tcptrace.shell.options import TraceOption


@pytest.mark.parametrize(("page", "path"), [*make_tables.pages()])
def test_pages_are_up_to_date(page: str, path: Path) -> None:
    """tools/make_tables.py has been run since a probe, an option or a column changed."""
    text = path.read_text(encoding="utf-8")
    assert make_tables.written(page, text) == text


@pytest.mark.parametrize("name", [name for name in make_tables.KINDS if name != "top"])
def test_each_option_is_in_a_table(name: str) -> None:
    """An option is in the table of its command, or in one of those that all share."""
    tables = [make_tables.own(make_tables.load(name))]
    tables += map(make_tables.shared, make_tables.SHARED.values())
    for option in make_tables.load(name).params:
        for flag in option.opts if isinstance(option, TraceOption) else ():
            assert any(f"`{flag}`" in table for table in tables), flag


def test_what_is_declared_exists() -> None:
    """A probe declares fields that its rows have, of backends that it offers."""
    for probe in probes():
        both = [(key, f"{row.type}.{key}") for row in probe.row_classes for key in json_keys(row)]
        keys = {key for pair in both for key in pair}
        assert probe.gaps.keys() <= set(probe.backends)
        assert all(fields.keys() <= keys for fields in probe.gaps.values())


def test_cells() -> None:
    """A cell tells yes, no, when not, and that a backend is not offered at all."""
    only = tuple(variant for variant in ACCEPT.variants if variant.backend != "kprobe")
    fields = {"uid": ALWAYS, "backlog": "it slept"}
    probe = dataclasses.replace(ACCEPT, variants=only, gaps={"tracepoint": fields})
    cells = [
        make_tables.cell(probe, "tracepoint", "accept", key) for key in ("pid", "uid", "backlog")
    ]
    assert ["yes", "no", "not if it slept"] == cells
    assert "not offered" == make_tables.cell(probe, "kprobe", "accept", "pid")
