"""What holds for all events of a source: `Meta`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from tcptrace.model.events import SCHEMA_VERSION, time_text, wall_ns_of

Texts = Mapping[str, str]


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
    filters: Texts = dataclasses.field(default_factory=dict)
    """Those that were applied: their values as text, by name."""
    switches: Texts = dataclasses.field(default_factory=dict)
    """What the command's own options set for the probe, by define."""
    companions: tuple[str, ...] = ()
    """Probes whose events came among the others'."""
    schema: int = SCHEMA_VERSION


NO_META = "its first line is not as tcptrace writes it"
_TEXTS = ("probe", "backend", "host", "boot_id", "kernel")


def meta_to_json(meta: Meta) -> dict[str, Any]:
    """Return the object that stands before the rows of a recording."""
    return {
        "type": "meta",
        "schema": meta.schema,
        "start": time_text(meta.start_ns),
        **{name: getattr(meta, name) for name in _TEXTS},
        "filters": dict(meta.filters),
        "switches": dict(meta.switches),
        "companions": list(meta.companions),
    }


def meta_from_json(values: Any) -> Meta:
    """Return what was written. Raises ValueError."""
    if not isinstance(values, dict):
        raise ValueError(NO_META)  # noqa: TRY004 - what was read is wrong, not the program
    schema, companions = values.get("schema"), values.get("companions", [])
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        msg = f"it has schema {schema}, of a newer tcptrace; this one knows {SCHEMA_VERSION}"
        raise ValueError(msg)
    texts: dict[str, Any] = {name: values.get(name) for name in _TEXTS}
    maps: dict[str, Any] = {name: values.get(name, {}) for name in ("filters", "switches")}
    are_texts = isinstance(companions, list) and _is_texts(texts | dict(enumerate(companions)))
    if not are_texts or not all(map(_is_texts, maps.values())):
        raise ValueError(NO_META)
    start_ns = wall_ns_of(str(values.get("start")))
    return Meta(**texts, **maps, start_ns=start_ns, companions=tuple(companions), schema=schema)


def _is_texts(values: Any) -> bool:
    return isinstance(values, dict) and all(isinstance(text, str) for text in values.values())
