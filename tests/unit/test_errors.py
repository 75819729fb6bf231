"""What errors advise."""

from __future__ import annotations

import sys

import pytest

from tcptrace.errors import pip_install


def test_advice_can_be_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell takes the path of the interpreter for one word."""
    monkeypatch.setattr(sys, "executable", "/home/a user/.venv/bin/python3")
    assert "'/home/a user/.venv/bin/python3' -m pip install duckdb" == pip_install("duckdb")
