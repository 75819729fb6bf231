"""By what traffic is added up: the dimensions of `--by`.

A connection has a destination: the end that it was made to. For an attempt that is the remote end,
for what a local server accepted it is the server's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tcptrace.kernel import lookups
from tcptrace.model.columns import CONTAINER_DIGITS

Key = tuple[Any, ...]
"""One value for each JSON key of the dimensions; None where it is not known."""


class Side(NamedTuple):
    """An event and the side of its connection that this host, or this process, has."""

    event: Any
    is_in: bool
    """Whether it was accepted here, not made from here."""
    name: str | None
    """What the destination was asked for by."""

    @property
    def destination(self) -> tuple[str | None, int | None]:
        """The end that the connection was made to."""
        event = self.event
        return (event.laddr, event.lport) if self.is_in else (event.raddr, event.rport)


def endpoint(address: str | None, port: int | None) -> str | None:
    """Return an address with its port, as in a URL."""
    if address is None:
        return None
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@lru_cache(maxsize=1024)
def user_name(uid: int) -> str:
    """Return a user's name, or the id of one without."""
    return lookups.user_name(uid) or str(uid)


class Dimension(NamedTuple):
    """One way to add traffic up."""

    name: str
    """As in `--by`."""
    keys: tuple[str, ...]
    """The JSON keys of its values."""
    values: Callable[[Side], Key]
    cell: Callable[..., str | None]
    """From its values to a cell of text."""
    width: int
    """Of the cell, at the least."""
    meaning: str
    is_for_accepts: bool = False
    """Whether it is about accepted connections alone."""


def _of_event(*names: str) -> Callable[[Side], Key]:
    """Return a function that gets the event's fields or properties of these names."""

    def values(side: Side) -> Key:
        return tuple(getattr(side.event, name) for name in names)

    return values


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _process(side: Side) -> Key:
    return side.event.pid, side.event.comm


def _process_cell(pid: int | None, comm: str | None) -> str | None:
    return None if pid is None else f"{comm}[{pid}]"


def _destination(side: Side) -> Key:
    return (endpoint(*side.destination),)


def _name(side: Side) -> Key:
    return (side.name or side.destination[0],)


def _port(side: Side) -> Key:
    return (side.destination[1],)


def _peer(side: Side) -> Key:
    return (side.event.raddr,)


def _container_cell(container: str | None, name: str | None) -> str | None:
    return name or (container and container[:CONTAINER_DIGITS])


def _pod_cell(namespace: str | None, pod: str | None) -> str | None:
    return f"{namespace}/{pod}" if namespace and pod else pod


def _user_cell(uid: int | None) -> str | None:
    return None if uid is None else user_name(uid)


DIMENSIONS = (
    Dimension(
        "process",
        ("pid", "comm"),
        _process,
        _process_cell,
        20,
        "the process that connected or accepted",
    ),
    Dimension(
        "program",
        ("comm",),
        _of_event("comm"),
        _as_text,
        15,
        "its name",
    ),
    Dimension(
        "destination",
        ("destination",),
        _destination,
        _as_text,
        21,
        "where the connection was made to: address and port",
    ),
    Dimension(
        "name",
        ("name",),
        _name,
        _as_text,
        24,
        "the name that the destination was asked for by, else its address",
    ),
    Dimension(
        "port",
        ("port",),
        _port,
        _as_text,
        5,
        "the destination's port",
    ),
    Dimension(
        "peer",
        ("peer",),
        _peer,
        _as_text,
        15,
        "the address of the other end",
    ),
    Dimension(
        "listener",
        ("listener",),
        _destination,
        _as_text,
        21,
        "the address and port that a connection was accepted at",
        is_for_accepts=True,
    ),
    Dimension(
        "user",
        ("uid",),
        _of_event("uid"),
        _user_cell,
        8,
        "the user that the process ran as",
    ),
    Dimension(
        "unit",
        ("unit",),
        _of_event("unit"),
        _as_text,
        20,
        "the process's systemd unit",
    ),
    Dimension(
        "container",
        ("container", "container_name"),
        _of_event("container", "container_name"),
        _container_cell,
        12,
        "the process's container: its name, else its id",
    ),
    Dimension(
        "pod",
        ("pod_namespace", "pod"),
        _of_event("pod_namespace", "pod"),
        _pod_cell,
        24,
        "the process's Kubernetes pod, with its namespace",
    ),
    Dimension(
        "cgroup",
        ("cgroup",),
        _of_event("cgroup"),
        _as_text,
        24,
        "the process's cgroup",
    ),
    Dimension(
        "namespace",
        ("netns",),
        _of_event("netns"),
        _as_text,
        10,
        "inode number of the network namespace",
    ),
)
BY_NAME = {dimension.name: dimension for dimension in DIMENSIONS}
DEFAULT = ("program", "name", "port")


def parse(text: str) -> tuple[Dimension, ...]:
    """Read ``program,name``. Raises ValueError with a message for the user."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in BY_NAME:
            msg = f"{name!r} is nothing to add up by; there are {', '.join(BY_NAME)}"
            raise ValueError(msg)
        if names.count(name) > 1:
            msg = f"{name!r} is named twice"
            raise ValueError(msg)
    return tuple(BY_NAME[name] for name in names)


def json_keys(dimensions: Sequence[Dimension]) -> tuple[str, ...]:
    """Return the JSON keys of a `Key` of these dimensions."""
    return tuple(key for dimension in dimensions for key in dimension.keys)


def cells(dimensions: Sequence[Dimension], key: Key) -> list[str | None]:
    """Return a key's text, one cell for each dimension."""
    at, texts = 0, []
    for dimension in dimensions:
        texts.append(dimension.cell(*key[at : at + len(dimension.keys)]))
        at += len(dimension.keys)
    return texts


def key_of(dimensions: Sequence[Dimension], side: Side) -> Key:
    """Return what a connection is added up under."""
    if len(dimensions) == 1:
        return dimensions[0].values(side)
    return tuple(value for dimension in dimensions for value in dimension.values(side))


def is_about(dimensions: Sequence[Dimension], side: Side) -> bool:
    """Tell whether a connection has a place under all of these dimensions."""
    return side.is_in or not any(dimension.is_for_accepts for dimension in dimensions)
