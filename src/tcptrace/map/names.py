"""Which files of a fleet's recordings are taken, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath
from typing import TypeVar

from tcptrace.model import filenames

USUAL = "tracer-"
"""Files of a host whose names begin so are taken; others only where there is none."""
AnyPath = TypeVar("AnyPath", bound=PurePath)


def part_of_host(path: PurePath) -> str | None:
    """Return the directory of a path that names a host, the innermost; None where there is none."""
    return next(filter(filenames.host_of, reversed(path.parent.parts)), None)


def host_in(path: PurePath) -> str | None:
    """Return the host that a directory of a path names."""
    part = part_of_host(path)
    return part and filenames.host_of(part)


def usual(paths: Sequence[AnyPath]) -> list[AnyPath]:
    """Return those of relative paths that are taken: not hidden, and tracer's where a host has any.

    Engines pass over as well what begins with a point or an underscore.
    """
    shown = [path for path in paths if not any(part.startswith((".", "_")) for part in path.parts)]
    traced = {host_in(path) for path in shown if path.name.startswith(USUAL)} - {None}
    return [path for path in shown if path.name.startswith(USUAL) or host_in(path) not in traced]
