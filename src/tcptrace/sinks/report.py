"""A report: sections of lines, for `tcptrace doctor`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TextIO

from tcptrace.model.events import printable

MARKS = {True: ("ok", "green"), False: ("no", "red"), None: ("-", "dim")}
LABEL_WIDTH = 14


class Line(NamedTuple):
    """One line: a label, what is to be said, and whether that is good."""

    label: str
    text: str
    good: bool | None


def write_report(sections: Mapping[str, Sequence[Line]], stream: TextIO) -> None:
    """Write `sections` by heading; rich folds long lines on a terminal, nothing is cut."""
    if stream.isatty():
        _write_rich(sections, stream)
        return
    for heading, lines in sections.items():
        stream.write(f"{heading}\n")
        for line in lines:
            mark = MARKS[line.good][0] if line.label else ""
            text = f"  {mark:2} {line.label:{LABEL_WIDTH}} {printable(line.text)}"
            stream.write(f"{text.rstrip()}\n")


def _write_rich(sections: Mapping[str, Sequence[Line]], stream: TextIO) -> None:
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(file=stream, highlight=False, markup=False, emoji=False)
    for heading, lines in sections.items():
        table = Table.grid(padding=(0, 1))
        table.add_column(width=3, justify="right", no_wrap=True)
        table.add_column(width=min(LABEL_WIDTH, console.width // 3))
        table.add_column(overflow="fold")
        for line in lines:
            mark, style = MARKS[line.good]
            text = Text(printable(line.text), style="" if line.label else "dim")
            table.add_row(Text(mark if line.label else "", style=style), Text(line.label), text)
        console.print(Text(heading, style="bold"))
        console.print(table)
