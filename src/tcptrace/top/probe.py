"""What `tcptrace top` traces: `TOP`, which is `TRACER` with other rows."""

from __future__ import annotations

import dataclasses

from tcptrace.probes.tracer.probe import TRACER
from tcptrace.top.keys import DIMENSIONS, json_keys
from tcptrace.top.listeners import Listener
from tcptrace.top.traffic import Traffic

NOT_ASKED = "`--by` does not ask for it"
TOP = dataclasses.replace(
    TRACER,
    name="top",
    rows=(Traffic, Listener),
    gaps={backend: dict.fromkeys(json_keys(DIMENSIONS), NOT_ASKED) for backend in TRACER.backends},
)
