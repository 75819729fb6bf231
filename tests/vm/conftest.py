"""The surroundings of the comparisons: those of the kernel tests, and time for slow peers."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.kernel.conftest import _kept_programs, cgroup, netns  # noqa: F401 - fixtures
from tests.kernel.harness import TIME_SCALE

TIMEOUT_S = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow machines more time for each test."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S * TIME_SCALE))
