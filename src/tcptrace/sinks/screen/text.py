"""Numbers, graphs and lines of text for a screen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from tcptrace.sinks.layout import Cell, cell_len

Line = list[Cell]
Unit = Literal["count", "rate", "bytes", "ms"]

WIDTH = 5
"""Of a number, at the most."""
PATIENCE_S = 0.5
"""So long a terminal that stands still is waited for at the end."""
ELLIPSIS = "…"
NOTHING = "-"
_BARS = "▁▂▃▄▅▆▇█"
_THOUSANDS = ("", "k", "M", "G", "T", "P")
_BYTES = ("B", "K", "M", "G", "T", "P")


def _scaled(value: float, base: int, suffixes: Sequence[str]) -> str:
    """Return a number with a suffix, in four characters and that."""
    at = 0
    while value >= base and at < len(suffixes) - 1:
        value /= base
        at += 1
    return f"{value:.1f}{suffixes[at]}" if at and value < 10 else f"{value:.0f}{suffixes[at]}"


def number(value: float | None, unit: Unit) -> str:
    """Return a figure as a screen has room for it."""
    if value is None:
        return NOTHING
    if not value:
        return "0"
    if unit == "bytes":
        return _scaled(value, 1024, _BYTES)
    if unit == "ms":
        return _milliseconds(value)
    if unit == "rate" and value < 10:
        return f"{value:.1f}".removesuffix(".0")
    return f"{value:.0f}" if value < 100_000 else _scaled(value, 1000, _THOUSANDS)


def _milliseconds(value: float) -> str:
    if value < 10:
        return f"{value:.2f}"
    if value < 100:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 100_000 else f"{value / 1000:.0f}s"


def duration(seconds: float) -> str:
    """Return a time as a clock has it: 0:02:35."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def speed(factor: float) -> str:
    """Return how many times as fast something is, below 1 as a part: 1/8."""
    if factor == math.inf:
        return "max"
    return f"{factor:g}" if factor >= 1 else f"1/{1 / factor:g}"


def graph(values: Iterable[float], width: int) -> str:
    """Return the last `width` values as bars; the largest is the full height, 0 is no bar."""
    shown = list(values)[-width:] if width > 0 else []
    most = max(shown, default=0)
    bars = "".join(
        _BARS[min(len(_BARS) - 1, int(value / most * len(_BARS)))] if value > 0 else " "
        for value in shown
    )
    return bars.rjust(max(width, 0))


def fitted(text: str, width: int) -> str:
    """Return a text cut, with an ellipsis, or padded to so many cells."""
    if width <= 0:
        return ""
    if cell_len(text) > width:
        text = text[: width - 1]
        while cell_len(text) > width - 1:
            text = text[:-1]
        text += ELLIPSIS
    return text + " " * (width - cell_len(text))


def filled(line: Line, width: int, look: str | None = None) -> Line:
    """Return a line of exactly so many cells."""
    used, result = 0, []
    for cell in line:
        room = width - used
        if room <= 0:
            break
        text = cell.text if cell_len(cell.text) <= room else fitted(cell.text, room)
        result.append(Cell(text, cell.look))
        used += cell_len(text)
    if used < width:
        result.append(Cell(" " * (width - used), look))
    return result


def text_of(line: Line) -> str:
    """Return a line without its looks."""
    return "".join(cell.text for cell in line).rstrip()
