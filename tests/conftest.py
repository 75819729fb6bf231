"""What all tests share: helpers' assertions say what they compared, and skips are summed up."""

from __future__ import annotations

import os
import signal
from collections import Counter

import pytest

pytest.register_assert_rewrite(
    "tests.kernel.connections",
    "tests.kernel.harness",
    "tests.kernel.resolvers",
    "tests.kernel.tracers",
    "tests.unit.records",
    "tests.vm.peers",
)


def pytest_configure() -> None:
    """Let tests, and what they start, be the same however they are run.

    They hear signals, also where nohup or `&` ignores them; and nobody is behind sudo but where a
    test says so.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupts = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupts else signal.SIG_DFL)
    for name in [name for name in os.environ if name.startswith(("SUDO_", "DOAS_"))]:
        del os.environ[name]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests were skipped for each reason."""
    reports = terminalreporter.stats.get("skipped", [])
    places = [report.longrepr for report in reports if isinstance(report.longrepr, tuple)]
    reasons = Counter(reason.removeprefix("Skipped: ") for *_, reason in places)
    if reasons:
        terminalreporter.section("skipped tests by reason")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:4} {reason}")
