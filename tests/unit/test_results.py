"""The table of docs/matrix.md is made of what pytest wrote."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from tests.vm.results import FAILED, PASSED, SKIPPED, Result, cell, table, written

ABOUT = (
    '<properties><property name="command" value="dns"/>'
    '<property name="backend" value="{}"/></properties>'
)
JUNIT = f"""<testsuites><testsuite>
<properties><property name="kernel" value="6.1.0"/></properties>
<testcase classname="m" name="a">{ABOUT.format("kprobe")}</testcase>
<testcase classname="m" name="b">{ABOUT.format("kprobe")}<failure message="no"/></testcase>
<testcase classname="m" name="c">{ABOUT.format("ftrace")}<skipped message="not offered: x"/>
</testcase>
<testcase classname="m" name="d"><skipped message="later"/></testcase>
<testcase classname="m" name="e">
<properties><property name="armed after" value="1 s"/></properties></testcase>
</testsuite></testsuites>"""


@pytest.fixture
def result(tmp_path: Path) -> Result:
    """What came of five tests."""
    file = tmp_path / "junit.xml"
    file.write_text(JUNIT)
    result = Result("6.1")
    result.read(file)
    return result


def test_junit_is_added_up(result: Result) -> None:
    """Outcomes are counted, failures and skips named, and what was measured is told."""
    assert {PASSED: 2, FAILED: 1, "not offered": 1, SKIPPED: 1} == result.tally
    assert (["m::b"], ["armed after: 1 s"]) == (result.problems, result.figures)
    assert {"not offered: x": 1, "later": 1} == result.skips
    assert ("6.1.0", False, 1) == (result.release, result.good, result.failures)


def test_table_has_a_row_for_each_command_and_backend(result: Result) -> None:
    """A run that did not have a subject has a dash."""
    other = Result("7.2", "7.2.0-3-amd64", subjects=result.subjects.copy())
    del other.subjects["dns", "kprobe"]
    assert [
        "| command | backend | 6.1<br>6.1.0 | 7.2<br>7.2.0-3 |",
        "| --- | --- | --- | --- |",
        "| `dns` | `kprobe` | 1, 1 failed | - |",
        "| `dns` | `ftrace` | not offered | not offered |",
    ] == table([result, other]).splitlines()
    page = "<!-- table: begin -->\nold\n<!-- table: end -->\n"
    assert table([result]) in written(page, [result])


@pytest.mark.parametrize(
    ("tally", "text"),
    [
        ({}, "-"),
        ({PASSED: 3}, "3"),
        ({PASSED: 3, "not offered": 1}, "3, 1 not offered"),
        ({"not offered": 4}, "not offered"),
        ({FAILED: 2, "not offered": 4}, "2 failed, 4 not offered"),
    ],
)
def test_cell(tally: dict[str, int], text: str) -> None:
    """What is not passed is told, and nothing is hidden behind `not offered`."""
    assert text == cell(Counter(tally))
