"""Whether `tcptrace top` has a screen, and how the screen comes to its terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tcptrace.errors import RefusedError, pip_install
from tcptrace.model.pace import Pace
from tcptrace.model.text import printable
from tcptrace.sinks.color import Palette, is_dumb
from tcptrace.sinks.layout import has_lines
from tcptrace.sinks.sink import Sink

TERMINAL = "/dev/tty"
STDIN = "-"
MOST_OF_A_NAME = 24
NO_SCREEN = (
    "the screen needs textual, which is not installed.\n"
    f"Install it: {pip_install('textual')}\nOr have tables with -b"
)


def is_screen(given: Mapping[str, Any]) -> bool:
    """Tell whether the options, and the terminal, are for a screen."""
    is_text = not given["json"] and given["form"] in (None, "text")
    is_terminal = all(stream.isatty() for stream in (sys.stdout, sys.stderr))
    has_keys = sys.stdin.isatty() or (given["read"] == STDIN and _has_terminal())
    is_able = not is_dumb() and has_lines(sys.stdout)
    is_wanted = not (given["batch"] or given["once"])
    return is_text and is_terminal and has_keys and is_able and is_wanted


def _has_terminal() -> bool:
    """Tell whether this process has a terminal, whatever its standard input is."""
    try:
        os.close(os.open(TERMINAL, os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def make_screen(given: Mapping[str, Any], pace: Pace | None, palette: Palette) -> Sink:
    """Return the screen, which has its keys from the terminal.

    Raises RefusedError where there is no textual.
    """
    if find_spec("textual") is None:
        raise RefusedError(NO_SCREEN)
    if not sys.stdin.isatty():  # a recording comes from there, which has its own descriptor now
        os.dup2(os.open(TERMINAL, os.O_RDWR | os.O_CLOEXEC), 0)
    from tcptrace.sinks.screen.listening import Listening  # noqa: PLC0415 - for a screen alone
    from tcptrace.sinks.screen.picture import Picture  # noqa: PLC0415 - the same
    from tcptrace.sinks.screen.sink import ScreenSink  # noqa: PLC0415 - the same

    if given["listen"]:
        listening = Listening("tcptrace top --listen", most_rows=given["rows"])
        return ScreenSink(listening, sys.stdout, palette)
    picture = Picture(
        given["by"],
        f"tcptrace top -r {_short(given['read'])}" if pace else "tcptrace top",
        most_rows=given["rows"],
        only_failed=given["failed"],
        pace=pace,
    )
    picture.sorted_by = given["sort"] or ""
    return ScreenSink(picture, sys.stdout, palette)


def _short(path: str) -> str:
    """Return a file's name, for a line that has to hold more."""
    name = printable(Path(path).name)
    return name if len(name) <= MOST_OF_A_NAME else f"{name[: MOST_OF_A_NAME - 1]}…"
