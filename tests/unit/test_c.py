"""The C of all probes, as one compilation."""

from __future__ import annotations

import re
from collections import Counter
from itertools import chain
from pathlib import Path

import click
import pytest

from tcptrace.cli import cli
from tcptrace.model.events import Decoder
from tcptrace.model.filters import Filters
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.connect.probe import CONNECT
from tcptrace.probes.dns.probe import DNS
from tcptrace.probes.probe import COMPONENTS, FILTERS, Probe
from tcptrace.probes.tracer.probe import TRACER
from tcptrace.shell.command import TraceCommand
from tcptrace.shell.options import TraceOption
from tcptrace.sources.plan import Plan, shape_of

PROBES = (ACCEPT, CONNECT, TRACER, DNS)
DEFINITIONS = {
    "function": r"^(?:static __always_inline )?(?:\w+ )+\*?(\w+)\([^;]*?\)\n{",
    "struct": r"^(?:struct|enum) (\w+) {",
    "table": r'^BPF_(?:F_)?TABLE\("\w+", [^,]+, [^,]+, (\w+)',
    "map": r"^BPF_(?:HASH|ARRAY|PERCPU_ARRAY|RINGBUF_OUTPUT)\((\w+)",
    "macro": r"^#define (\w+)",
}
EITHER = frozenset({"tracer_accepting", "tracer_accepted", "hook_ctx"})
"""Defined in two ways, of which one is compiled."""


def defined(path: Path) -> set[tuple[str, str]]:
    """Return the kinds and names of what a file defines."""
    text = path.read_text()
    return {
        (kind, name)
        for kind, pattern in DEFINITIONS.items()
        for name in re.findall(pattern, text, re.MULTILINE)
    }


def test_no_two_files_define_the_same() -> None:
    """All fit in one compilation: each name is defined in one file."""
    files = (*COMPONENTS, FILTERS, *(path for probe in PROBES for path in probe.sources))
    names = Counter(chain.from_iterable(map(defined, files)))
    assert [] == [
        definition
        for definition, count in names.items()
        if count > 1 and definition[1] not in EITHER
    ]


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
def test_functions_have_their_probes_name(probe: Probe) -> None:
    """A function of a probe's says whose it is."""
    names = chain.from_iterable(map(defined, probe.sources))
    functions = {name for kind, name in names if kind == "function"}
    assert functions
    assert [] == [name for name in functions - EITHER if not name.startswith(probe.name)]


def test_components_are_all_compiled() -> None:
    """There is no component that is left out."""
    assert {*COMPONENTS, FILTERS} == set(FILTERS.parent.glob("*.h"))


def test_each_probe_has_filters_of_its_own() -> None:
    """Filters and the ports that they are about are each probe's; a companion's can be others."""
    run, own = Filters({"family": 4}), Filters({"family": 6}, ("rport",))
    plan = Plan(ACCEPT, run, companions=(CONNECT, TRACER), own_filters={"connect": own})
    source = shape_of(plan, plan.variants()[0]).source
    found = re.findall(
        r"#define PROBE (\w+)\n#define PORT_FIELDS \(([A-Z_ |]+)\)\n(?:#define COUNTS_SELF_TEST\n)?"
        r"#define KEEP_FAMILY (\d)",
        source,
    )
    either = "LOCAL_PORT | REMOTE_PORT"
    expected = [("accept", either, "4"), ("connect", "REMOTE_PORT", "6"), ("tracer", either, "4")]
    assert expected == found


def test_a_probe_is_there_once() -> None:
    """What several need is compiled once."""
    plan = Plan(ACCEPT, Filters(), companions=(TRACER, CONNECT, ACCEPT))
    assert [ACCEPT, TRACER, CONNECT] == [*plan.probes]


def test_kinds_are_by_class() -> None:
    """Records of one type, from two probes, are told apart."""
    defines = Decoder([*CONNECT.records, *TRACER.records]).defines()
    kinds = {name: value for name, value in defines.items() if name.startswith("KIND")}
    assert {"KIND_CONNECT": "1", "KIND_CONNECTED": "2", "KIND_CLOSED": "3"} == kinds


def test_options_turn_on_what_there_is() -> None:
    """An option's switch is a define in the C of the command's probes, or one that they declare."""
    context = click.Context(cli)
    commands = (cli.get_command(context, name) for name in cli.list_commands(context))
    for command in (command for command in commands if isinstance(command, TraceCommand)):
        for option in command.params:
            if isinstance(option, TraceOption) and option.switches:
                probes = (command.probe, *command.probe.companions, *option.probes)
                files = {path for probe in probes for path in probe.sources} | set(COMPONENTS)
                words = set(re.findall(r"\w+", "".join(path.read_text() for path in files)))
                declared = {define for probe in probes for define in probe.switches}
                assert set(option.switches) <= words | declared, (command.name, option.name)
