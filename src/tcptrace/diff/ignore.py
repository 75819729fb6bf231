"""Differences that nobody wants to hear of: patterns in a file."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from tcptrace.diff.baseline import PREFIXES, Edge
from tcptrace.errors import TcptraceError

FIELDS = 3
_PART = r"""\\.|"(?:\\.|[^"\\])*"|'[^']*'|[^\s\\"']"""
_WORDS = re.compile(rf"(?:\s+|(?!#)(?:{_PART})+)*")
"""What stands before a comment: `#` begins one where a word would begin, as in a shell."""
Test = Callable[[Edge], bool]


def read_ignored(path: Path | None) -> Test:
    """Return what tells whether an edge is ignored; none is without a file.

    Raises:
        TcptraceError: it cannot be read, or a line is no pattern.

    """
    if path is None:
        return lambda _edge: False
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise TcptraceError(f"cannot read {path}: {why}") from None
    tests = [*_tests(path, lines)]
    return lambda edge: any(test(edge) for test in tests)


def _tests(path: Path, lines: list[str]) -> Iterator[Test]:
    """Yield a test for each line that is not empty or a comment."""
    for number, line in enumerate(lines, 1):
        try:
            words = _words(line)
            if words:
                _check_network(*words[1:2])
        except ValueError as error:
            raise TcptraceError(f"{path}, line {number}: {error}") from None
        if len(words) > FIELDS:
            raise TcptraceError(
                f"{path}, line {number} has {len(words)} words.\n"
                "A pattern is PROGRAM DESTINATION PORT; quote what has spaces"
            )
        if words:
            yield _test(*words, *["*"] * (FIELDS - len(words)))


def _words(line: str) -> list[str]:
    """Return the words of a line. Raises ValueError."""
    before = _WORDS.match(line)
    end = before.end() if before else 0
    return shlex.split(line[:end] if line.startswith("#", end) else line)


def _check_network(text: str = "*") -> None:
    """Raise ValueError where a network is less than any that is compared, for it matches none."""
    network = _parsed(text)
    if network and network.prefixlen > PREFIXES[network.version]:
        least = network.supernet(new_prefix=PREFIXES[network.version])
        msg = f"{text} is less than the networks that are compared.\nGive {least}"
        raise ValueError(msg)


def _parsed(text: str) -> IPv4Network | IPv6Network | None:
    """Return the network that a text names, or that of the address in it; None for another text."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


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
    match = re.compile(translate(pattern.replace("[", "[[]"))).match
    return lambda text: bool(match(text))


def _network(text: str) -> Callable[[str], bool] | None:
    """Return what tells whether a network is in another; None where a text names none."""
    around = _parsed(text)
    if around is None:
        return None

    def is_in(destination: str) -> bool:
        inner = _parsed(destination)
        if inner is None or inner.version != around.version:
            return False
        return inner.subnet_of(around)  # type: ignore[arg-type]

    return is_in
