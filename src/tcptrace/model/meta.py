"""What holds for all events of a source: `Meta`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tcptrace.model.events import SCHEMA_VERSION


@dataclasses.dataclass(frozen=True, slots=True)
class Meta:
    """Where events come from, and what was asked for."""

    probe: str
    backend: str
    host: str
    boot_id: str
    """Tells whose CLOCK_MONOTONIC it is."""
    kernel: str
    """Its release."""
    start_ns: int
    """When the source began, in nanoseconds since 1970."""
    filters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Those that were applied, by name."""
    schema: int = SCHEMA_VERSION
