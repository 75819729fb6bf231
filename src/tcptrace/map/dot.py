"""A map as a graph for Graphviz. Names are strangers' text, and quoted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tcptrace.map.edges import PROCESS, Edge, Node
from tcptrace.model.text import printable


def _quoted(text: str) -> str:
    """Return a text as Graphviz reads it, without what a terminal could act on."""
    return '"' + printable(text).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _id(node: Node) -> str:
    return _quoted(f"{node.kind} {node}")


def _label(edge: Edge) -> str:
    port = "" if edge.port is None else f":{edge.port}"
    failed = f", {edge.failed} failed" if edge.failed else ""
    return _quoted(f"{port} {edge.attempts}{failed}".strip())


def graph(edges: Sequence[Edge]) -> Iterator[str]:
    """Yield the lines of a directed graph: what is recorded in boxes, by host."""
    yield "digraph tcptrace {\n  rankdir=LR;\n  node [shape=box];\n"
    for node in dict.fromkeys(node for edge in edges for node in (edge.client, edge.server)):
        shape = "" if node.kind == PROCESS else " shape=ellipse style=dashed"
        yield f"  {_id(node)} [label={_quoted(str(node))}{shape}];\n"
    for edge in edges:
        color = " color=red" if edge.failed else ""
        yield f"  {_id(edge.client)} -> {_id(edge.server)} [label={_label(edge)}{color}];\n"
    yield "}\n"
