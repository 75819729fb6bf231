"""tcptrace: who connects to whom on this host, right now.

What is exported here is the interface for plugins; docs/plugins.md teaches it.
"""

from __future__ import annotations

from tcptrace.errors import TcptraceError
from tcptrace.kernel.hooks import Hook
from tcptrace.model.columns import COMMON as COMMON_COLUMNS
from tcptrace.model.columns import Column, Table, field
from tcptrace.model.events import Event, NewTable
from tcptrace.probes.probe import Probe, Switch, Variant
from tcptrace.shell.command import API_VERSION, command
from tcptrace.shell.options import option

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "COMMON_COLUMNS",
    "Column",
    "Event",
    "Hook",
    "NewTable",
    "Probe",
    "Switch",
    "Table",
    "TcptraceError",
    "Variant",
    "command",
    "field",
    "option",
]
