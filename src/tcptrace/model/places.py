"""Units, containers and pods as filters name them, compared with who is in a cgroup."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from tcptrace.model.identity import Identity

Keeps = Callable[[Identity], bool]

UNITS = ("service", "scope", "slice", "socket", "mount", "swap")
"""The units that processes can be in."""
WITHOUT_PROCESSES = ("target", "timer", "path", "device", "automount")
SHORTEST_ID = 4
"""So many digits of a container's id are enough."""
_UNIT = re.compile(rf".+[.](?:{'|'.join(UNITS)})", re.DOTALL)
_GLOB = re.compile("[*?[]")
_ID = re.compile("(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def unit_pattern(text: str) -> str:
    """Return a unit's whole name, or the pattern of names, that a text stands for.

    A name without a type is a service's; a template's name stands for its instances. Raises
    ValueError.
    """
    if _GLOB.search(text):
        return text
    _, dot, kind = text.rpartition(".")
    if dot and kind in WITHOUT_PROCESSES:
        msg = f"{text} has no processes of its own: give the service that it starts"
        raise ValueError(msg)
    if not text or "/" in text:
        msg = f"{text!r} is not a unit: give a name from `systemctl list-units`, such as a.service"
        raise ValueError(msg)
    name = text if dot and kind in UNITS else f"{text}.service"
    return name.replace("@.", "@*.")


def container_pattern(text: str) -> str:
    """Return the text. Raises ValueError."""
    if not text:
        msg = "a container's name or id is not empty"
        raise ValueError(msg)
    return text


def pod_pattern(text: str) -> str:
    """Return the text, which is NAMESPACE/NAME or NAME. Raises ValueError."""
    if not all(text.split("/")) or text.count("/") > 1:
        msg = f"{text!r} is not a pod: give NAMESPACE/NAME, or NAME"
        raise ValueError(msg)
    return text


def units_of(identity: Identity) -> Sequence[str]:
    """Return the unit, and those above it."""
    if identity.unit is None:
        return ()
    names = [name.removeprefix("_") for name in (identity.cgroup or "").split("/")]
    above = names[: names.index(identity.unit)] if identity.unit in names else []
    return (*filter(_UNIT.fullmatch, above), identity.unit)


def of_units(patterns: Iterable[str]) -> Keeps:
    """Return a test for being in a unit, or in one below it."""
    matches = _matcher(patterns)
    return lru_cache(maxsize=4096)(lambda identity: any(map(matches, units_of(identity))))


def of_containers(patterns: Iterable[str]) -> Keeps:
    """Return a test for being in a container, by its name or the beginning of its id.

    What is in a container inside it is in it, too.
    """
    known = tuple(patterns)
    matches = _matcher(known)
    beginnings = tuple(
        text for text in known if re.fullmatch(f"[0-9a-f]{{{SHORTEST_ID},64}}", text)
    )

    def keeps(identity: Identity) -> bool:
        if identity.container is None:
            return False
        around = (identity.outer_containers or "").split("/")
        names = filter(None, (identity.container_name, *around))
        numbers = (identity.container, *_ID.findall(identity.cgroup or ""))
        return any(map(matches, names)) or any(text.startswith(beginnings) for text in numbers)

    return lru_cache(maxsize=4096)(keeps)


def of_pods(patterns: Iterable[str]) -> Keeps:
    """Return a test for being in a pod."""
    pairs = [pattern.rpartition("/") for pattern in patterns]
    known = [(_matcher([space or "*"]), _matcher([name])) for space, _, name in pairs]

    def keeps(identity: Identity) -> bool:
        if identity.pod is None:
            return False
        space, name = identity.pod_namespace or "", identity.pod
        return any(of_space(space) and of_name(name) for of_space, of_name in known)

    return lru_cache(maxsize=4096)(keeps)


def _matcher(patterns: Iterable[str]) -> Callable[[str], bool]:
    """Return what tells whether a name matches one of the patterns, as a shell's match."""
    import fnmatch  # noqa: PLC0415 - for few runs

    matches = re.compile("|".join(map(fnmatch.translate, patterns))).match
    return lambda name: matches(name) is not None
