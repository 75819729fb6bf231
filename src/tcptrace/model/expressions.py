"""What filters become where tracefs compares: expressions over an event's fields.

Their language is in Documentation/trace/events.rst.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Sequence

from tcptrace.model.ranges import Ranges

Between = Callable[[str, int, int], str]
"""From a field and inclusive bounds to an expression."""


def either(conditions: Iterable[str]) -> str:
    """Return what holds where one of the conditions does."""
    return f"({' || '.join(conditions)})"


def of_ranges(ranges: Ranges, fields: Sequence[str], is_between: Between) -> str:
    """Return what holds where a field is in a range to keep, and none in one to drop."""
    parts = [
        either(is_between(field, low, high) for field in fields for low, high in pairs)
        for pairs in (ranges.keep, ranges.drop)
        if pairs
    ]
    if ranges.drop:
        parts[-1] = f"!{parts[-1]}"
    return " && ".join(parts)


def between(field: str, low: int, high: int) -> str:
    """Compare a number with inclusive bounds."""
    return f"({field} >= {low} && {field} <= {high})" if low < high else f"{field} == {low}"


def port_between(field: str, low: int, high: int) -> str:
    """Compare a port byte for byte: it is in network order."""
    first, second = f"{field}_0", f"{field}_1"
    if low == high:
        return f"({first} == {low >> 8} && {second} == {low & 0xFF})"
    return (
        f"(({first} > {low >> 8} || ({first} == {low >> 8} && {second} >= {low & 0xFF}))"
        f" && ({first} < {high >> 8} || ({first} == {high >> 8} && {second} <= {high & 0xFF})))"
    )


def of_names(names: Sequence[bytes], _ports: Sequence[str]) -> str:
    """Compare names as strings; these have no escapes, so that one with both quotes cannot be."""
    texts = [os.fsdecode(name) for name in names]
    if any('"' in text and "'" in text for text in texts):
        return ""
    quoted = (f'"{text}"' if '"' not in text else f"'{text}'" for text in texts)
    return either(f"comm == {text}" for text in quoted)


def of_family(family: int, _ports: Sequence[str]) -> str:
    """Compare the IP version, 4 or 6; an IPv4-mapped address is IPv4."""
    mapped = socket.htonl(0xFFFF)
    words = f"raddr6_0 == 0 && raddr6_1 == 0 && raddr6_2 == {mapped}"
    ipv4 = f"(family == {socket.AF_INET:d} || (family == {socket.AF_INET6:d} && {words}))"
    return ipv4 if family == 4 else f"!{ipv4}"
