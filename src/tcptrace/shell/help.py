"""The help of commands: examples first, options by section, rare ones when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

HELP_ALL = "--help-all"
WIDTH = 80
FIRST = 2
"""How many examples are shown without ``--help-all``."""
_ALL = "tcptrace.help_all"
_MARK = "\b\nExamples:\n"


def show_all(context: click.Context) -> None:
    """Make a command's help show all options and examples."""
    context.meta[_ALL] = True


def shows_all(context: click.Context) -> bool:
    """Tell whether a command's help is to show all that there is."""
    return _ALL in context.meta


def help_all_option() -> click.Option:
    """Return the option that shows help with all options."""

    def show(context: click.Context, _parameter: click.Parameter, given: bool) -> None:  # noqa: FBT001 - click's
        if given and not context.resilient_parsing:
            show_all(context)
            click.echo(context.get_help())
            context.exit()

    return click.Option(
        [HELP_ALL],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="The same with more examples, and rare options.",
    )


def write_text(context: click.Context, formatter: click.HelpFormatter, text: str) -> None:
    """Write a command's help text: what it does, examples, the rest."""
    said, _, examples = text.partition(_MARK)
    what, _, rest = said.strip().partition("\n\n")
    for part in filter(None, (what, *_examples(context, examples), rest)):
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(part)


def _examples(context: click.Context, text: str) -> Iterator[str]:
    lines = text.rstrip().split("\n")
    shown = lines if shows_all(context) else lines[:FIRST]
    if text:
        yield _MARK + "\n".join(shown)


def shown_options(
    context: click.Context, parameters: Iterable[click.Parameter]
) -> Iterator[click.Parameter]:
    """Yield the options that the help shows."""
    for parameter in parameters:
        if shows_all(context) or not getattr(parameter, "is_rare", False):
            yield parameter


def write_sections(
    context: click.Context,
    formatter: click.HelpFormatter,
    parameters: Iterable[click.Parameter],
    names: Sequence[str],
) -> None:
    """Write one list of options for each section; what has none is in the last."""
    sections: dict[str, list[tuple[str, str]]] = {name: [] for name in names}
    for parameter in shown_options(context, parameters):
        record = parameter.get_help_record(context)
        if record:
            sections[getattr(parameter, "section", names[-1])].append(record)
    for name, records in sections.items():
        if records:
            with formatter.section(name):
                formatter.write_dl(records)
