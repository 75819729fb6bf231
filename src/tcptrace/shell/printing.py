"""Where rows are printed, and by what."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from tcptrace.errors import TcptraceError
from tcptrace.kernel import apart
from tcptrace.shell.keeping import STDOUT, Keeping
from tcptrace.shell.plan import Output
from tcptrace.sinks.color import palette
from tcptrace.sinks.output import require_open
from tcptrace.sinks.sink import Sink

_DESCRIPTOR = re.compile("/(?:dev|proc/self)/fd/([0-9]{1,9})")


def stream_for(output: Output, kept: Keeping | None) -> TextIO:
    """Return where rows are printed. Raises TcptraceError where they cannot be written."""
    if kept:
        kept.check()
        if not kept.also_print and not output.summary and kept.path != STDOUT:
            return sys.stderr
    stream = _chosen_stream(output)
    require_open(stream)
    return stream


def _chosen_stream(output: Output) -> TextIO:
    """Return where rows go: beside a command, standard output is the command's."""
    if output.to is None:
        return sys.stderr if output.following.command else sys.stdout
    if output.to == "-":
        return sys.stdout
    try:
        return _opened(output.to)
    except OSError as error:
        raise TcptraceError(f"cannot write to {output.to}: {error.strerror}") from None


def _opened(path: str) -> TextIO:
    """Open a file for rows; one that is made belongs to the user who traces. Raises OSError.

    Of a descriptor's name it is that one, as it is open already: to open the file anew would empty
    what a shell has opened to be added to.
    """
    named = _DESCRIPTOR.fullmatch(path)
    opened = os.dup(int(named[1])) if named else _made(path)
    return open(opened, "w", encoding="utf-8", newline="")  # noqa: PTH123 - it is open


def _made(path: str) -> int:
    """Make a file for rows, or empty the one that is there. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
    try:
        made = os.open(path, flags | os.O_EXCL, 0o666)
    except FileExistsError:
        return os.open(path, flags | os.O_TRUNC, 0o666)
    apart.give(made)
    return made


def printing(output: Output, kept: Keeping | None, stream: TextIO) -> list[Sink]:
    """Return what prints, if anything is to."""
    is_wanted = not kept or kept.also_print or output.summary
    return [_sink(output, stream)] if is_wanted else []


def _sink(output: Output, stream: TextIO) -> Sink:
    """Return what writes rows to a stream."""
    if output.sink:
        return output.sink(palette(output.color, sys.stdout))
    from tcptrace.sinks.choose import make_sink  # noqa: PLC0415 - while the loader works

    sink = make_sink(
        output.form,
        output.columns,
        stream,
        tables=output.tables,
        color=output.color,
        wide=output.wide,
    )
    return _summarised(sink, output) if output.summary else sink


def _summarised(sink: Sink, output: Output) -> Sink:
    """Return what has a sink write what rows came to."""
    from tcptrace.model.summary import Summary  # noqa: PLC0415 - for few runs
    from tcptrace.sinks.summary import SummarySink  # noqa: PLC0415

    return SummarySink(Summary(has_ends=output.has_ends), sink)
