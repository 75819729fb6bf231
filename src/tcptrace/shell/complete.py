"""What a shell may complete an option's value to, from what is on this host."""

from __future__ import annotations

import contextlib
import pwd
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tcptrace.kernel.netns import NAMED
from tcptrace.model.identity import Identity
from tcptrace.model.places import units_of
from tcptrace.model.text import printable

if TYPE_CHECKING:
    import click
    from click.shell_completion import CompletionItem

INSTRUCTION = "_TCPTRACE_COMPLETE"
"""The variable by which a shell asks."""
PROC = Path("/proc")
SHORT_ID = 12
"""How many digits of a container's id are given: as many as in the column CONTAINER."""

Word = tuple[str, str]
"""A value, and what is said of it."""
Complete = Callable[["click.Context", "click.Parameter", str], "list[CompletionItem]"]


def _processes() -> Iterator[Word]:
    """Yield process ids with their names."""
    for path in sorted(PROC.glob("[0-9]*"), key=lambda directory: int(directory.name)):
        with contextlib.suppress(OSError):  # it has ended
            yield (
                path.name,
                printable((path / "comm").read_text(errors="backslashreplace").rstrip("\n")),
            )


def _names() -> Iterator[Word]:
    """Yield names of processes, each once."""
    yield from sorted({(name, "") for _, name in _processes()})


def _users() -> Iterator[Word]:
    return ((user.pw_name, user.pw_gecos.partition(",")[0]) for user in pwd.getpwall())


def _netns() -> Iterator[Word]:
    """Yield the names of network namespaces."""
    with contextlib.suppress(OSError):
        yield from sorted((path.name, "") for path in NAMED.iterdir())


def _identities() -> Iterator[Identity]:
    """Yield who is in each cgroup."""
    from tcptrace.probes.identities import IDENTITIES  # noqa: PLC0415 - for few runs

    return (identity for _, identity in IDENTITIES.learn_all())


def _units() -> Iterator[Word]:
    """Yield the units that have processes, or had some."""
    yield from sorted({(unit, "") for identity in _identities() for unit in units_of(identity)})


def _containers() -> Iterator[Word]:
    """Yield containers by their names, or by ids where these are not known."""
    known = {identity.container: identity for identity in _identities()}
    for container, identity in known.items():
        if container is not None:
            name, number = identity.container_name, container[:SHORT_ID]
            yield (name, f"{identity.runtime or ''} {number}".strip()) if name else (number, "")


def _pods() -> Iterator[Word]:
    """Yield pods with their namespaces."""
    pods = {(who.pod_namespace, who.pod) for who in _identities() if who.pod}
    yield from sorted((f"{namespace}/{pod}", "") for namespace, pod in pods)


def _items(words: Iterable[Word], incomplete: str, before: str = "") -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for few runs

    return [
        CompletionItem(before + word, help=said or None)
        for word, said in words
        if word.startswith(incomplete)
    ]


def _lists(words: Callable[[], Iterable[Word]], signs: str = "") -> Complete:
    """Return what completes the last of a list's items, behind one of `signs`."""

    def complete(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        sign = last[: last[:1] != "" and last[:1] in signs]
        return _items(words(), last[len(sign) :], before + comma + sign)

    return complete


def _files(kind: str) -> Complete:
    """Return what has the shell complete paths: of a "file", or a "dir"."""

    def complete(
        _context: click.Context, _parameter: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for few runs

        return [CompletionItem(incomplete, type=kind)]

    return complete


PATHS = _files("file")


def words(known: Mapping[str, str]) -> Complete:
    """Return what completes a list of words that are known, with what is said of each."""
    return _lists(known.items)


def columns(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return keys of columns, with what they mean."""
    probe = getattr(context.command, "probe", None)
    every = (
        {column.key: column.meaning for column in (*probe.columns, *probe.extra_columns)}
        if probe
        else {}
    )
    return _lists(every.items, "+-")(context, parameter, incomplete)


OF_FILTERS: dict[str, Complete] = {
    "pid": _lists(_processes, "!"),
    "uid": _lists(_users, "!"),
    "comm": _lists(_names),
    "netns": _lists(_netns),
    "cgroup": _files("dir"),
    "unit": _lists(_units),
    "container": _lists(_containers),
    "pod": _lists(_pods),
    "cgroupmap": _files("file"),
    "mntnsmap": _files("file"),
}
"""By the names of `tcptrace.model.filters`."""
