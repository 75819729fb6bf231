"""tcptrace: who connects to whom on this host, right now.

What is exported here is the interface for plugins; docs/plugins.md teaches it.
"""

from __future__ import annotations

from tcptrace.columns import COMMON as COMMON_COLUMNS
from tcptrace.columns import Column, Table, field
from tcptrace.commands.base import API_VERSION, command, option
from tcptrace.errors import TcptraceError
from tcptrace.events import Event, NewTable
from tcptrace.kernel.hooks import Hook
from tcptrace.probes import Probe, Switch, Variant

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
