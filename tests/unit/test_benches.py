"""Programs for who works on tcptrace: their help."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = sorted(
    path
    for path in (*ROOT.glob("bench/*.py"), *ROOT.glob("tests/*/run.py"))
    if "description=__doc__" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_program_s_text_is_shown_as_it_stands(path: Path) -> None:
    """With its paragraphs, lists and examples, which argparse would make one block of."""
    (parser,) = re.findall(r"ArgumentParser\(([^()]*)\)", path.read_text(encoding="utf-8"))
    assert "RawDescriptionHelpFormatter" in parser
