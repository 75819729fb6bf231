"""The man pages: one for each command, with all that its help has."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import click
import pytest

from tcptrace.cli import cli

TOOL = Path(__file__).parents[2] / "tools/make_man.py"
COMMANDS = ("accept", "connect", "dns", "doctor", "tracer")


@pytest.fixture(scope="module")
def make_man() -> ModuleType:
    """The tool, which is a script."""
    spec = importlib.util.spec_from_file_location("make_man", TOOL)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_has_a_page(make_man: ModuleType) -> None:
    """The pages are the program's and its commands', by the name it has where they are."""
    names = make_man.pages("tcptrace-bpf").keys()
    assert {"tcptrace-bpf", *(f"tcptrace-bpf-{name}" for name in COMMANDS)} <= names


@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_has_every_option(make_man: ModuleType, name: str) -> None:
    """An option that the help shows is a term of the page."""
    top = click.Context(cli, info_name="tcptrace")
    command = cli.get_command(top, name)
    assert command
    context = click.Context(command, info_name=name, parent=top)
    page = make_man.pages("tcptrace")[f"tcptrace-{name}"]
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        assert record is None or f".B {make_man.escaped(record[0])}\n" in page


def test_text_stays_as_it_is(make_man: ModuleType) -> None:
    """Nothing in a help text is taken for roff."""
    assert "\\&.so \\-\\-json \\en" == make_man.escaped(".so --json \\n")
