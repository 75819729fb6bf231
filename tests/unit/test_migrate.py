"""docs/migrate.md has every example of the old tools, and command lines that are taken."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest
from tests.unit.test_bcc_options import TOOLS, planned

PAGE = (Path(__file__).parents[2] / "docs/migrate.md").read_text(encoding="utf-8")
# Of the manuals, the usage messages and the example files of bcc, bpftrace and libbpf-tools, and of
# the kprobe version of tcpaccept.
EXAMPLES = (
    *(f"tcpaccept{rest}" for rest in ("", " -t", " -T", " -P 80,81", " -p 181", " -4", " -6")),
    "tcpaccept --cgroupmap /sys/fs/bpf/test01",
    "tcpaccept --mntnsmap mappath",
    *(f"tcpconnect{rest}" for rest in ("", " -t", " -d", " -P 80", " -4", " -6", " -L", " -U")),
    *("tcpconnect -Uu 1000", "tcpconnect -c", "tcpconnect -c -s"),
    "tcpconnect --cgroupmap /sys/fs/bpf/test01",
    *(f"tcptracer{rest}" for rest in ("", " -t", " -v", " -p 181", " -N 4026531969", " -4", " -6")),
    "tcptracer --cgroupmap /sys/fs/bpf/test01",
    "tcpaccept.bt",
    "tcpaccept -p 121",
)
OURS = sorted(set(re.findall(r"^\$ sudo tcptrace (.+)$", PAGE, re.MULTILINE)))
COMMANDS = {command.name: command for command, _ in TOOLS.values()}


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_is_there(example: str) -> None:
    """Whoever has typed it finds it."""
    assert f"`{example}`" in PAGE


@pytest.mark.parametrize("line", OURS)
def test_each_command_line_is_taken(line: str) -> None:
    """What the page says to type is right."""
    name, *arguments = shlex.split(line)
    command = COMMANDS[name]
    assert isinstance(command, click.Command)
    planned(command, arguments)
