"""tcptrace: who connects to whom on this host, right now.

What is exported here is the interface for plugins; docs/plugins.md teaches it. It is imported when
it is asked for: the program has to be ready for Ctrl-C before that.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tcptrace.version import VERSION

if TYPE_CHECKING:
    from tcptrace.errors import TcptraceError
    from tcptrace.kernel.hooks import Hook
    from tcptrace.model.batch import Batch
    from tcptrace.model.columns import COMMON as COMMON_COLUMNS
    from tcptrace.model.columns import Column, Table, field
    from tcptrace.model.events import Event, NewTable
    from tcptrace.probes.probe import Probe, Switch, Variant
    from tcptrace.shell.command import API_VERSION, command
    from tcptrace.shell.options import option
    from tcptrace.shell.trace import Trace

__version__ = VERSION

_PLACES = {
    "API_VERSION": "shell.command",
    "Batch": "model.batch",
    "COMMON_COLUMNS": "model.columns",
    "Column": "model.columns",
    "Event": "model.events",
    "Hook": "kernel.hooks",
    "NewTable": "model.events",
    "Probe": "probes.probe",
    "Switch": "probes.probe",
    "Table": "model.columns",
    "TcptraceError": "errors",
    "Trace": "shell.trace",
    "Variant": "probes.probe",
    "command": "shell.command",
    "field": "model.columns",
    "option": "shell.options",
}
_RENAMED = {"COMMON_COLUMNS": "COMMON"}

__all__ = [
    "API_VERSION",
    "COMMON_COLUMNS",
    "Batch",
    "Column",
    "Event",
    "Hook",
    "NewTable",
    "Probe",
    "Switch",
    "Table",
    "TcptraceError",
    "Trace",
    "Variant",
    "command",
    "field",
    "option",
]


def __getattr__(name: str) -> Any:
    """Import what is exported, the first time that it is asked for."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_PLACES[name]}")
    value = globals()[name] = getattr(module, _RENAMED.get(name, name))
    return value
