"""Write the man pages from the commands' own help: `make_man.py DIRECTORY [PROGRAM]`.

One page for the program and one for each command that tcptrace brings, in section 8, as groff's man
macros have them. PROGRAM is what the program is called where they are installed.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import click

import tcptrace
from tcptrace.cli import BUILT_IN, GROUP, cli
from tcptrace.shell.help import show_all

SECTION = 8


def escaped(text: str) -> str:
    """Return text that roff shows as it is."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


class Roff(click.HelpFormatter):
    """Writes what a command says in its help as a man page."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the synopsis, and begin the description."""
        self.write(f".SH SYNOPSIS\n.B {escaped(prog)}\n{escaped(args)}\n.SH DESCRIPTION\n")

    def write_heading(self, heading: str) -> None:
        """Begin a section."""
        self.write(f".SH {escaped(heading.upper())}\n")

    def write_paragraph(self) -> None:
        """Begin a paragraph."""
        self.write(".PP\n")

    def write_text(self, text: str) -> None:
        """Write paragraphs; one that begins with click's mark keeps its lines."""
        for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
            marked = paragraph.partition("\b\n")
            kept = f".nf\n{escaped(marked[2])}\n.fi\n" if marked[1] else ""
            self.write(
                f".PP\n{kept or escaped(' '.join(paragraph.split()))}\n".replace("\n\n", "\n")
            )

    def write_dl(
        self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write terms, each with its description."""
        for term, text in rows:
            self.write(f".TP\n.B {escaped(term)}\n{escaped(' '.join(text.split()))}\n")

    @contextlib.contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Write what is in a section of the help as one of the page."""
        self.write_heading(name)
        yield


def page(command: click.Command, context: click.Context, others: Sequence[str]) -> str:
    """Return the page of a command; `others` are the pages to see besides."""
    name = context.command_path.replace(" ", "-")
    summary = (command.help or "").strip().splitlines()[0].rstrip(".")
    roff = Roff()
    roff.write(f'.TH {name.upper()} {SECTION} "" "tcptrace {tcptrace.__version__}"\n')
    roff.write(f".SH NAME\n{escaped(name)} \\- {escaped(summary)}\n")
    show_all(context)
    command.format_help(context, roff)
    see = ",\n".join(f".BR {escaped(other)} ({SECTION})" for other in others if other != name)
    roff.write(f".SH SEE ALSO\n{see}\n".replace(",\n", " ,\n"))
    return roff.getvalue()


def pages(program: str) -> dict[str, str]:
    """Return all pages, by name."""
    top = click.Context(cli, info_name=program)
    names = sorted(
        entry.name for entry in entry_points(group=GROUP) if entry.value.startswith(BUILT_IN)
    )
    every = [program, *(f"{program}-{name}" for name in names)]
    result = {program: page(cli, top, every)}
    for name in names:
        if command := cli.get_command(top, name):
            context = click.Context(command, info_name=name, parent=top)
            result[f"{program}-{name}"] = page(command, context, every)
    return result


def main(directory: str, program: str = "tcptrace") -> None:
    """Write the pages into a directory."""
    for name, text in pages(program).items():
        (Path(directory) / f"{name}.{SECTION}").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
