"""The surroundings of the unit tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")  # one that is busy takes its time

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs tcptrace in `tmp_path`, without bcc and without rights."""

    def run(*arguments: str, data: str = "") -> subprocess.CompletedProcess[str]:
        script = (
            "import sys\n"
            "from tcptrace.kernel import privileges\n"
            "privileges.effective_capabilities = lambda: 0\n"
            "from tcptrace.__main__ import run\n"
            "status = run()\n"
            "assert 'bcc' not in sys.modules\n"
            "sys.exit(status)\n"
        )
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(
            command, input=data, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run
