"""What units, containers and pods are asked for, in the kernel: `PLACES`, beside any other probe.

The kernel has a verdict on each cgroup whose events user space has seen, and tells of new ones.
`tcptrace.sources.places` gives the verdicts.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Annotated

from tcptrace.kernel.hooks import Hook
from tcptrace.model.events import Event
from tcptrace.probes.probe import BPF_BACKENDS, C, Probe, Variant

OPEN, KEPT, DROPPED = 0, 1, 2
VERDICTS = "places"
"""The map, from cgroup ids of 8 bytes to a verdict of one."""
ENTRY = struct.Struct("=Q")
PATH_BYTES = 1024
"""As long as the kernel's own buffer for it, TRACE_CGROUP_PATH_LEN."""


def _path(raw: bytes) -> str | None:
    """Return a path; None where there is none, or it was cut."""
    path = raw.partition(b"\0")[0]
    return path.decode("utf-8", "backslashreplace") if 0 < len(path) < PATH_BYTES - 1 else None


@dataclasses.dataclass(slots=True, eq=False)
class Made(Event):
    """A cgroup that was made, that of `cgroup_id`; `struct place_event` in places.bpf.c."""

    type = "made"

    path: Annotated[str | None, f"{PATH_BYTES}s", _path]
    """From the root of cgroup v2."""


PLACES = Probe(
    name="places",
    source=C / "places.bpf.c",
    records=(Made,),
    variants=tuple(
        Variant(backend, (Hook("raw_tracepoint", "cgroup_mkdir", "on_cgroup_made"),), ("PLACES",))
        for backend in BPF_BACKENDS
    ),
    filters=frozenset(),
    columns=(),
    extra_columns=(),
    types=("cgroup_root",),
    numbers={
        "PLACE_OPEN": OPEN,
        "PLACE_KEPT": KEPT,
        "PLACE_DROPPED": DROPPED,
        "PLACE_PATH": PATH_BYTES,
    },
    maps=(VERDICTS,),
)
