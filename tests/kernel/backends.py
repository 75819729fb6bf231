"""What this kernel offers: which backends there are, and what a test is about that is not there."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from typing import NoReturn

import pytest
from tests.kernel.harness import Worker

from tcptrace.kernel import tracefs
from tcptrace.kernel.headers import from_btf
from tcptrace.model.filters import BY_NAME
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.probes.probe import BACKENDS, Backend, Probe
from tcptrace.sources.bpf.choose import obstacle_to

REQUIRED = set(filter(None, os.environ.get("TCPTRACE_REQUIRE", "").split(",")))
HEADERS = os.environ.get("TCPTRACE_TEST_HEADERS", "")
FROM_BTF = from_btf(HEADERS or "auto")
"""Whether tracers have the kernel's own types: headers lack mount namespaces and MPTCP sockets."""
NOT_OFFERED = "not offered"
"""Begins the reason of a skipped test where the kernel, or a backend, has not what it is about."""


@functools.cache
def obstacles() -> dict[str, str | None]:
    """Return why each backend cannot trace accepts on this kernel; None where it can.

    Asked in a worker, since the answer may take a mount namespace of its own.
    """

    def ask() -> dict[str, str | None]:
        reasons: dict[str, str | None] = {}
        for backend in BACKENDS:
            variants = [variant for variant in ACCEPT.variants if variant.backend == backend]
            found = [obstacle_to(variant) for variant in variants]
            reasons[backend] = None if None in found else "; ".join(filter(None, found))
        reasons["ftrace"] = tracefs.obstacle()
        return reasons

    answer: dict[str, str | None] = Worker(ask).run()
    return answer


def available() -> list[Backend]:
    """Return the backends that this kernel has, the best first."""
    return [backend for backend in BACKENDS if obstacles()[backend] is None]


def not_offered(reason: str) -> NoReturn:
    """Skip the test: what it is about is not there."""
    pytest.skip(f"{NOT_OFFERED}: {reason}")


def need(
    backend: Backend, probe: Probe, *, switches: Sequence[str] = (), filters: Sequence[str] = ()
) -> None:
    """Skip the test where `backend` does not offer these; test_ftrace.py has the refusals."""
    missing = {f"--{name}" for name in filters if not BY_NAME[name].expression}
    known = [variant.options for variant in probe.trace_variants]
    missing |= {name for name in switches if not any(name in options for options in known)}
    if backend not in probe.backends:
        not_offered(f"{probe.name} has no backend {backend}")
    if backend == "ftrace" and missing:
        not_offered(f"{probe.name} has no {', '.join(sorted(missing))} with {backend}")


def need_backend(backend: str) -> None:
    """Skip the test, with the reason, where `backend` cannot be used; fail if it is required."""
    reason = obstacles()[backend]
    if reason is None:
        return
    text = f"the backend {backend} is not available: {reason}"
    if backend in REQUIRED:
        pytest.fail(f"{text} (required by TCPTRACE_REQUIRE)")
    not_offered(text)
