"""The fields that the tests before have seen are those that the probes declare."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from tests.kernel.backends import FROM_BTF, not_offered
from tests.kernel.tracers import SEEN

from tcptrace.model.events import json_keys
from tcptrace.model.identity import Identity, Program
from tcptrace.probes.probe import ALWAYS, Backend
from tcptrace.shell.command import TraceCommand

COMMANDS = {
    entry.name: command
    for entry in entry_points(group="tcptrace.commands")
    if isinstance(command := entry.load(), TraceCommand)
}
OF_ALL = {"type", "time", "ts_ns", "backend"}
MADE_OF_CGROUP = {*Identity._fields} - {"cgroup"}
"""They depend on the cgroup's path alone, which is tested with one command."""
ASKED_FOR = {*Program._fields}
"""They come with --who alone; test_who.py holds that they do."""


@pytest.mark.parametrize("name", COMMANDS)
def test_fields_are_as_declared(name: str, backend: Backend, whole_run: bool) -> None:  # noqa: FBT001
    """No field is seen that a backend never gives; after all tests, each that it always gives."""
    probe = COMMANDS[name].probe
    if backend not in probe.backends:
        not_offered(f"{name} has no backend {backend}")
    for row in probe.row_classes:
        seen = SEEN[name, row.type, backend] - OF_ALL
        keys = json_keys(row)
        absence = {key: probe.gap(backend, row.type, key) for key in keys}
        declared = {key for key in keys if absence[key] != ALWAYS}
        assert seen <= declared
        if whole_run and FROM_BTF:
            always = {key for key in keys if absence[key] is None}
            assert always - MADE_OF_CGROUP - ASKED_FOR <= seen
