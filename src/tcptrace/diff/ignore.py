"""Differences that nobody wants to hear of: patterns in a file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from fnmatch import translate
from ipaddress import ip_network
from pathlib import Path

from tcptrace.diff.baseline import Edge
from tcptrace.errors import TcptraceError

FIELDS = 3
Test = Callable[[Edge], bool]


def read_ignored(path: Path | None) -> Test:
    """Return what tells whether an edge is ignored; none is without a file.

    Raises:
        TcptraceError: it cannot be read, or a line is no pattern.

    """
    if path is None:
        return lambda _edge: False
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise TcptraceError(f"cannot read {path}: {why}") from None
    tests = [*_tests(path, lines)]
    return lambda edge: any(test(edge) for test in tests)


def _tests(path: Path, lines: list[str]) -> Iterator[Test]:
    """Yield a test for each line that is not empty or a comment."""
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise TcptraceError(f"{path}, line {number}: {error}") from None
        if len(words) > FIELDS:
            raise TcptraceError(
                f"{path}, line {number} has {len(words)} words.\n"
                "A pattern is PROGRAM DESTINATION PORT; quote what has spaces"
            )
        if words:
            yield _test(*words, *["*"] * (FIELDS - len(words)))


def _test(program: str, destination: str, port: str) -> Test:
    """Return the test of a pattern."""
    programs, ports = _glob(program), _glob(port)
    destinations = _network(destination) or _glob(destination)
    return lambda edge: (
        programs(edge.program or "")
        and destinations(edge.destination or "")
        and ports(str(edge.port or ""))
    )


def _glob(pattern: str) -> Callable[[str], bool]:
    match = re.compile(translate(pattern)).match
    return lambda text: bool(match(text))


def _network(text: str) -> Callable[[str], bool] | None:
    """Return what tells whether a network is in another; None where a text names none."""
    try:
        around = ip_network(text)
    except ValueError:
        return None

    def is_in(destination: str) -> bool:
        try:
            inner = ip_network(destination)
        except ValueError:
            return False
        return inner.version == around.version and inner.subnet_of(around)  # type: ignore[arg-type]

    return is_in
