"""A map as one HTML page, which needs nothing else: a picture to zoom and to search.

Names are strangers' text. They are data in the page, as JSON in which nothing can end the element
that it is in, and the script writes them as text. A policy in the page forbids all other scripts,
and the network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from string import Template
from typing import Any

from tcptrace.map.edges import Map, Node, edge_to_json

ESCAPED = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""What could end a script element, or a line of it."""
ASKED = (
    *("port", "name", "attempts", "failed", "tx_bytes", "rx_bytes"),
    *("latency_p50_ms", "latency_p95_ms", "last"),
)
"""What the picture tells of an edge beside its ends."""


def _file(name: str) -> str:
    return files("tcptrace.map").joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """Return what a policy calls an element's text by."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _data(made: Map, by: str) -> dict[str, Any]:
    """Return what the picture is of."""
    nodes: dict[Node, int] = {}
    edges = []
    for edge in made.edges:
        ends = [nodes.setdefault(node, len(nodes)) for node in (edge.client, edge.server)]
        known = edge_to_json(edge)
        told = {key: known[key] for key in ASKED if key in known}
        edges.append({**told, "from": ends[0], "to": ends[1]})
    return {
        "by": by,
        "nodes": [{"kind": node.kind, "name": node.name, "host": node.host} for node in nodes],
        "edges": edges,
    }


def page(made: Map, by: str) -> str:
    """Return the page of a map."""
    script, style = _file("page.js"), _file("page.css")
    data = json.dumps(_data(made, by), separators=(",", ":")).translate(ESCAPED)
    return Template(_file("page.html")).substitute(
        policy=f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}",
        style=style,
        data=data,
        script=script,
    )
