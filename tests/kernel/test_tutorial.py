"""docs/tutorial.md, followed: its commands show what it says of the shop with three faults."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.kernel.backends import available
from tests.kernel.tracers import BANNER, Tracer, run_tcptrace

ROOT = Path(__file__).resolve().parents[2]
SHOP = ROOT / "examples" / "shop" / "shop.py"
PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"^```\n\$ (?:sudo )?tcptrace (.+)\n((?:.+\n)+)```", re.MULTILINE)
# What is the same each time; ports too, but for those that the kernel chooses.
SAME = {"T", "COMM", "LADDR", "DADDR", "DPORT", "LPORT", "RESULT", "TYPE", "QUERY", "RCODE"}
FIRST_CHOSEN_PORT = 10_000

pytestmark = pytest.mark.anywhere


class Step(NamedTuple):
    """A command of the page, and the output beside it."""

    arguments: tuple[str, ...]
    output: str


def steps() -> list[Step]:
    """Return the commands whose output the page has."""
    found = BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    return [Step(tuple(shlex.split(command)), output) for command, output in found]


def rows(output: str) -> set[frozenset[tuple[str, str]]]:
    """Return the rows of a table, of each what is the same whenever it is made."""
    heading: list[str] = []
    found = set()
    for line in output.splitlines():
        words = line.split()
        if "COMM" in words:
            heading = words
        elif heading and len(words) >= len(heading):
            cells = zip(heading, words, strict=False)
            found.add(frozenset(cell for cell in cells if is_same(*cell)))
    return found


def has_shown(tracer: Tracer, expected: set[frozenset[tuple[str, str]]]) -> bool:
    """Tell whether a tracer has shown these rows, among others."""
    return expected <= rows(tracer.stdout)


def is_armed(tracer: Tracer) -> bool:
    """Tell whether a tracer's probes are attached."""
    return BANNER in tracer.stderr


def is_same(heading: str, value: str) -> bool:
    """Tell whether a cell has this value each time."""
    chosen = value.isdecimal() and int(value) >= FIRST_CHOSEN_PORT
    return heading in SAME and not chosen


@pytest.fixture
def _shop() -> Iterator[None]:
    """The shop, open."""
    with subprocess.Popen(
        ["python3", str(SHOP), "100"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert "is open" in process.stdout.readline()
        yield
        process.terminate()


def test_the_page_has_rows() -> None:
    """The test below is about something: each kind of step, and rows of each."""
    commands = [step.arguments[0] for step in steps()]
    assert ["connect", "connect", "accept", "top", "connect", "dns", "tracer", "tracer"] == commands
    assert all(rows(step.output) for step in steps() if "-w" not in step.arguments)


@pytest.mark.usefixtures("_shop")
def test_the_commands_show_what_the_page_says(tmp_path: Path) -> None:
    """All at once, each until it has shown the rows that the page has of it."""
    if set(available()) <= {"ftrace"}:
        pytest.skip("the page names what ftrace does not have")
    *live, record, read = steps()
    with contextlib.ExitStack() as stack:
        command, *arguments = record.arguments
        recorder = stack.enter_context(Tracer(*arguments, command=command, cwd=tmp_path))
        tracers = [
            stack.enter_context(Tracer(*step.arguments[1:], command=step.arguments[0], armed=False))
            for step in live
        ]
        for tracer in tracers:  # they may all compile at the same time
            tracer.wait_until(functools.partial(is_armed, tracer), "the banner")
        for step, tracer in zip(live, tracers, strict=True):
            shows = functools.partial(has_shown, tracer, rows(step.output))
            tracer.wait_until(shows, f"what the page has of {step.arguments}")
            tracer.process.send_signal(signal.SIGINT)
        assert {0} == {tracer.ended().status for tracer in tracers}
        assert 0 == recorder.ended().status
    shown = run_tcptrace(*read.arguments, cwd=tmp_path)
    assert rows(read.output) <= rows(shown.stdout), shown
