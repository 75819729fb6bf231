"""``tcptrace accept``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tcptrace.model.events import Event
from tcptrace.probes.accept.probe import ACCEPT
from tcptrace.shell.command import command
from tcptrace.shell.options import option
from tcptrace.shell.trace import Trace


def _has_succeeded(row: Any) -> bool:
    return row.error is None


@command(ACCEPT)
@option(
    "--backlog", is_flag=True, adds=("bl",), help="Add BL: the listener's queue, current/maximum."
)
@option(
    "--failed",
    is_flag=True,
    adds=("err",),
    switches=("ACCEPT_FAILED",),
    keeps=lambda failed: None if failed else _has_succeeded,
    help="Also accepts that failed, with ERR.",
)
def accept(trace: Trace) -> Iterable[Event]:
    """Trace connections that local servers accept (passive opens).

    \b
    Examples:
      tcptrace accept                      all
      tcptrace accept -t -P 80,8000-8100   with time stamps, on these local ports
      tcptrace accept -p 181 --backlog     one process, with its accept queue
      tcptrace accept --failed --json      failures as well, for a program
    """  # noqa: D301 - click's own mark for lines that stay as they are
    return trace.events
