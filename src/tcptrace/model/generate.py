"""Functions made from text, once for a class, as `dataclasses` makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def function(arguments: str, body: Iterable[str], names: Mapping[str, Any]) -> Any:
    """Return a function.

    Args:
        arguments: their names, with commas between.
        body: its lines, which hold no text but names of fields and what `repr` returns.
        names: what it finds besides its arguments.

    """
    space = {**names}
    lines = "".join(f"\n    {line}" for line in body)
    exec(f"def made({arguments}):{lines}", space)  # noqa: S102 - no text of a user's or the kernel's
    return space["made"]
