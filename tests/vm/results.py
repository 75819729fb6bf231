"""What came of runs of the kernel tests, read from pytest's junit files, and docs/matrix.md of it.

tests/kernel/conftest.py writes into these files which command and backend a test is about, and the
kernel's release. The files of whole runs are kept, so that the page can be written from several.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

from tests.kernel.backends import NOT_OFFERED

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".cache" / "tests"
"""Where the junit files of whole runs are, one of each job; `HOST` is this machine's own kernel."""
HOST = "host"
PAGE = ROOT / "docs" / "matrix.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"
Subject = tuple[str, str]
"""A command and a backend."""


@dataclasses.dataclass(slots=True)
class Result:
    """What came of one run."""

    name: str
    release: str = "-"
    seconds: float = 0
    tally: Counter[str] = dataclasses.field(default_factory=Counter)
    """How many tests passed, failed, and so on."""
    subjects: defaultdict[Subject, Counter[str]] = dataclasses.field(
        default_factory=lambda: defaultdict(Counter)
    )
    """The same of each subject."""
    skips: Counter[str] = dataclasses.field(default_factory=Counter)
    """Why tests were skipped."""
    problems: list[str] = dataclasses.field(default_factory=list)
    """Tests that failed, or why none ran."""
    figures: list[str] = dataclasses.field(default_factory=list)
    """What tests measured, by `record_property`."""

    @property
    def good(self) -> bool:
        """Whether tests ran, and all of them well."""
        return self.tally[PASSED] > 0 and not self.tally[FAILED] and not self.problems

    @property
    def failures(self) -> int:
        """How many tests failed; a run that did not come to its end counts as one."""
        return self.tally[FAILED] or int(not self.good)

    def read(self, file: Path) -> None:
        """Add up what pytest wrote."""
        suite = ET.parse(file).getroot()  # noqa: S314 - pytest wrote it for us
        for node in suite.findall("testsuite/properties/property"):
            if node.get("name") == "kernel":
                self.release = node.get("value", "-")
        for case in suite.iter("testcase"):
            self._add(case)

    def _add(self, case: ET.Element) -> None:
        outcome = PASSED
        skip = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            outcome = FAILED
            self.problems.append(f"{case.get('classname')}::{case.get('name')}")
        elif skip is not None:
            reason = skip.get("message", "")
            outcome = NOT_OFFERED if reason.startswith(NOT_OFFERED) else SKIPPED
            self.skips[reason] += 1
        self.tally[outcome] += 1
        properties = {node.get("name", ""): node.get("value", "") for node in case.iter("property")}
        if "command" in properties:
            self.subjects[properties.pop("command"), properties.pop("backend")][outcome] += 1
        self.figures += [f"{name}: {value}" for name, value in properties.items()]


def cell(tally: Mapping[str, int]) -> str:
    """Return how many tests passed, and what the others did, if any."""
    others = [f"{tally[what]} {what}" for what in (FAILED, NOT_OFFERED, SKIPPED) if tally.get(what)]
    if not tally:
        return "-"
    if not tally.get(PASSED):
        return NOT_OFFERED if set(tally) == {NOT_OFFERED} else ", ".join(others)
    return ", ".join([str(tally[PASSED]), *others])


def version(release: str) -> str:
    """Return a release without what tells no version."""
    match = re.match(r"[0-9.]+(-[0-9]+)?", release)
    return match[0] if match else release


def table(results: Iterable[Result]) -> str:
    """Return the table command x backend x kernel."""
    results = [result for result in results if result.subjects]
    subjects = list(dict.fromkeys(subject for result in results for subject in result.subjects))
    order = list(dict.fromkeys(command for command, _ in subjects))
    rows = [
        [
            "command",
            "backend",
            *(f"{result.name}<br>{version(result.release)}" for result in results),
        ],
        ["---"] * (2 + len(results)),
        *(
            [f"`{command}`", f"`{backend}`"]
            + [cell(result.subjects.get((command, backend), {})) for result in results]
            for command, backend in sorted(subjects, key=lambda subject: order.index(subject[0]))
        ),
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def kept(names: Iterable[str]) -> list[Result]:
    """Return what came of those whole runs that are kept."""
    found = []
    for name in names:
        if (file := KEPT / f"{name}.xml").exists():
            result = Result(name)
            result.read(file)
            found.append(result)
    return found


def written(page: str, results: Iterable[Result]) -> str:
    """Return the page with the table of some results."""
    return re.sub(
        f"(?<={BEGIN}).*(?={END})", lambda _: f"\n{table(results)}\n", page, flags=re.DOTALL
    )
