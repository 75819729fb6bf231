"""Destinations as they are listed: ``*.example.org:443``, ``10.0.0.0/8``, ``[::1]:80-90``."""

from __future__ import annotations

import dataclasses
import fnmatch
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from tcptrace.model.ranges import items_of

LOCALHOST = "localhost"
_LOOPBACK = ("127.0.0.0/8", "::1/128")
MOST_PORT = 65535
_PORTS = r":(?P<low>[0-9]{1,5})(?:-(?P<high>[0-9]{1,5}))?"
_ITEM = re.compile(rf"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?:{_PORTS})?")
_NAME = re.compile(r"[\w.*?-]+", re.ASCII)
_LIKE_AN_ADDRESS = re.compile(r"[0-9.*?/]+")
_MAPPED = ip_network("::ffff:0:0/96")
Network = IPv4Network | IPv6Network
_address = lru_cache(maxsize=1024)(ip_address)


@dataclasses.dataclass(frozen=True, slots=True)
class Destination:
    """One item of a list: hosts, at some ports."""

    name: str = ""
    """A name with wildcards, in small letters."""
    networks: tuple[Network, ...] = ()
    """Where there is neither name nor network, any host is meant."""
    low: int = 0
    high: int = MOST_PORT

    def has(self, raddr: str | None, rport: int, name: str | None) -> bool:
        """Tell whether an end of a connection is meant; `name` is what it was asked for by."""
        if not self.low <= rport <= self.high:
            return False
        if self.networks:
            return raddr is not None and any(_address(raddr) in net for net in self.networks)
        if self.name:
            return name is not None and fnmatch.fnmatchcase(_plain(name), self.name)
        return True


@dataclasses.dataclass(frozen=True, slots=True)
class Destinations:
    """A list of destinations."""

    items: tuple[Destination, ...] = ()

    @property
    def has_names(self) -> bool:
        """Whether names have to be known to tell what is meant."""
        return any(item.name for item in self.items)

    def have(self, row: Any) -> bool:
        """Tell whether the far end of a connection is in the list."""
        name: str | None = getattr(row, "query", None)
        return any(item.has(row.raddr, row.rport or 0, name) for item in self.items)


def _plain(name: str) -> str:
    return name.lower().rstrip(".")


def parse_destinations(texts: Iterable[str]) -> Destinations:
    """Read comma lists. Raises ValueError, with a message for the user."""
    return Destinations(tuple(map(_parse, items_of(texts))))


def lines_of(text: str) -> Iterator[str]:
    """Yield the lists in a file's text: what stands behind # is a comment."""
    for line in text.splitlines():
        words = line.partition("#")[0].strip().strip(",")
        if words:
            yield words


def _parse(text: str) -> Destination:
    match = _ITEM.fullmatch(text)
    if not match or not text:
        msg = f"{text!r} is no destination; give NAME:PORT, NETWORK, [IPv6]:PORT, NAME or :PORT"
        raise ValueError(msg)
    host = match["host"]
    if not host and match["low"] is None:
        msg = f"{text!r} is no destination: it has neither host nor port"
        raise ValueError(msg)
    low, high = _ports(text, match["low"], match["high"])
    if host in {"", "*"}:
        return Destination(low=low, high=high)
    if host == LOCALHOST:
        return Destination("", tuple(map(ip_network, _LOOPBACK)), low, high)
    if host.startswith("[") or _LIKE_AN_ADDRESS.fullmatch(host):
        return Destination("", (_network(host),), low, high)
    if not _NAME.fullmatch(host):
        msg = f"{host!r} is no host name; one of other letters is given as it is asked for (xn--…)"
        raise ValueError(msg)
    return Destination(_plain(host), (), low, high)


def _ports(text: str, low: str | None, high: str | None) -> tuple[int, int]:
    if low is None:
        return 0, MOST_PORT
    first, last = int(low), int(high or low)
    if not 0 < first <= last <= MOST_PORT:
        msg = f"{text!r} has no port or range of ports from 1 to {MOST_PORT}"
        raise ValueError(msg)
    return first, last


def _network(host: str) -> Network:
    """Return what an address or a network stands for; an IPv4-mapped one is IPv4's."""
    try:
        network = ip_network(host.strip("[]"))
    except ValueError as error:
        msg = f"{host} is neither an address nor a network (10.0.0.0/8): {error}"
        raise ValueError(msg) from None
    if "%" in host:
        msg = f"{host} has a scope, which events do not tell; leave it out"
        raise ValueError(msg)
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):  # type: ignore[arg-type]
        four = network.network_address.ipv4_mapped
        return IPv4Network(f"{four}/{network.prefixlen - 96}")
    return network
