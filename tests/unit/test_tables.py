"""The tables in docs/backends.md are what the probes declare."""

from __future__ import annotations

import dataclasses

from tests.unit.test_schema import probes
from tools import make_tables

from tcptrace.model.events import json_keys
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.probe import ALWAYS


def test_the_page_is_up_to_date() -> None:
    """tools/make_tables.py has been run since a probe changed."""
    page = make_tables.PAGE.read_text(encoding="utf-8")
    assert make_tables.written(page) == page


def test_what_is_declared_exists() -> None:
    """A probe declares fields that its rows have, of backends that it offers."""
    for probe in probes():
        both = [(key, f"{row.type}.{key}") for row in probe.shown for key in json_keys(row)]
        keys = {key for pair in both for key in pair}
        assert probe.absent.keys() <= set(probe.backends)
        assert all(fields.keys() <= keys for fields in probe.absent.values())


def test_cells() -> None:
    """A cell tells yes, no, when not, and that a backend is not offered at all."""
    only = tuple(one for one in ACCEPT.variants if one.backend != "kprobe")
    fields = {"uid": ALWAYS, "backlog": "it slept"}
    probe = dataclasses.replace(ACCEPT, variants=only, absent={"tracepoint": fields})
    cells = [
        make_tables.cell(probe, "tracepoint", "accept", key) for key in ("pid", "uid", "backlog")
    ]
    assert ["yes", "no", "not if it slept"] == cells
    assert "not offered" == make_tables.cell(probe, "kprobe", "accept", "pid")
