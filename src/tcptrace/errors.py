"""The errors that end a run, each with its exit status.

A message says what failed, then what to do about it, in one or two lines. `main` prints it; nothing
else catches it. `details` (a compiler's or verifier's words) is shown with ``-v`` only.
"""

from __future__ import annotations

import shlex
import sys


def pip_install(*packages: str) -> str:
    """Return what installs packages of PyPI for the Python that runs tcptrace."""
    return shlex.join((sys.executable, "-m", "pip", "install", *packages))


class TcptraceError(Exception):
    """Tracing is not possible: exit status 1."""

    exit_status = 1

    def __init__(self, message: str, *, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class RefusedError(TcptraceError):
    """What was asked for cannot be honoured as asked: exit status 2, a usage error."""

    exit_status = 2


class RightsError(TcptraceError):
    """The process may not trace, in whatever way."""


class HungError(TcptraceError):
    """A child process does not come to its end: what it was to do is not tried in another way."""


class ShortageError(TcptraceError):
    """A resource that a run needs is short, on the machine or by a limit on the process."""


class PluginError(TcptraceError):
    """A plugin cannot be used; everything else still can."""


class LossError(TcptraceError):
    """Events were lost and ``--fail-on-loss`` was given."""


class ForbiddenError(TcptraceError):
    """A connection was tried that a gate, such as ``--only``, does not permit: exit status 3."""

    exit_status = 3


class UncertainError(TcptraceError):
    """What a gate asks cannot be told, for not all was seen, or read: exit status 4."""

    exit_status = 4
