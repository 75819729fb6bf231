"""Compile what plans need, ahead of the run, and carry it from host to host."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from tcptrace.errors import RefusedError, TcptraceError
from tcptrace.kernel import btf
from tcptrace.kernel.privileges import require_tracing
from tcptrace.sources.bpf import kept
from tcptrace.sources.bpf.loader import Loader
from tcptrace.sources.bpf.store import (
    NAME,
    DamagedError,
    Entry,
    Store,
    StoreError,
    default_place,
    pack,
    unpack,
)
from tcptrace.sources.plan import Plan
from tcptrace.version import VERSION

_KIND = b"export"
MOST_BYTES = 64 << 20
"""Of a file that is imported."""


class Prepared(NamedTuple):
    """What became of a plan."""

    backend: str
    compiled: bool
    names: Sequence[str]
    """Of the files that a run of the plan takes."""


class Imported(NamedTuple):
    """What came from a file."""

    files: int
    is_for_this_kernel: bool


def prepare(plan: Plan, stopped: Callable[[], bool] = lambda: False) -> Prepared | None:
    """Attach as a run would, for a moment, so that its programs are kept and are known to load.

    Returns None when `stopped` says to give up. Raises TcptraceError.
    """
    require_tracing()
    with closing(Loader(plan)) as loader:
        answer = loader.attached(stopped)
    if answer is None:
        return None
    for descriptor in (*answer.links, *answer.programs, *answer.maps.values()):
        os.close(descriptor)
    if not answer.kept:
        reasons = [note for note in answer.notes if "not kept" in note]
        raise TcptraceError("; ".join(reasons) or "programs are not kept")
    return Prepared(answer.backend, answer.compiled > 0, answer.kept)


def export(names: Iterable[str], file: Path) -> int:
    """Write what is kept under these names to a file; return how many. Raises TcptraceError."""
    fields = [_KIND, *_tag()]
    wanted = sorted(set(names))
    try:
        with closing(Store()) as store:
            for name in wanted:
                data = store.read(name)
                if data is None:
                    raise TcptraceError("what was kept has gone meanwhile; try again")
                fields += [name.encode(), data]
        file.write_bytes(pack(fields))
    except (StoreError, DamagedError) as error:
        raise TcptraceError(str(error)) from None
    except OSError as error:
        raise TcptraceError(f"cannot write {file}: {error.strerror}") from None
    return len(wanted)


def import_(file: Path) -> Imported:
    """Keep what another host has exported. Raises TcptraceError, with nothing kept."""
    fields = _fields(file)
    tag, pairs = fields[1:4], [*zip(fields[4::2], fields[5::2], strict=True)]
    try:
        with closing(Store(make=True)) as store:
            for name, data in pairs:
                store.write(name.decode(), data)
    except StoreError as error:
        raise TcptraceError(f"programs cannot be kept: {error}") from None
    except OSError as error:
        raise TcptraceError(f"programs cannot be kept: {error.strerror}") from None
    return Imported(len(pairs), tag == _tag())


def _fields(file: Path) -> list[bytes]:
    """Return the fields of a file, all of which make sense. Raises RefusedError."""
    try:
        with file.open("rb") as opened:
            fields = unpack(opened.read(MOST_BYTES))  # of a larger one, the checksum is wrong
        _check(fields)
    except OSError as error:
        raise RefusedError(f"cannot read {file}: {error.strerror}") from None
    except DamagedError as error:
        raise RefusedError(
            f"{file} holds no programs that can be used: {error}.\n"
            "Give a file that `tcptrace prepare --export` of this version has written"
        ) from None
    return fields


def _check(fields: list[bytes]) -> None:
    """Raise DamagedError where something is not what `export` writes."""
    if fields[:1] != [_KIND] or len(fields) < 4 or len(fields) % 2:
        raise DamagedError("it is of another kind")
    for name, data in zip(fields[4::2], fields[5::2], strict=True):
        if not NAME.fullmatch(name.decode("ascii", "replace")):
            raise DamagedError("it has a name that is none")
        kept.check(unpack(data))


def _tag() -> list[bytes]:
    """Return what a host must have in common with another to use its programs."""
    return [VERSION.encode(), os.uname().machine.encode(), btf.fingerprint() or b""]


class Inventory(NamedTuple):
    """What is kept on this host."""

    place: str
    entries: Sequence[Entry]
    problem: str
    """Why nothing can be kept, if that is so."""


def inventory() -> Inventory:
    """Return what is kept."""
    place = default_place()
    try:
        with closing(Store()) as store:
            return Inventory(place, store.entries(), "")
    except StoreError as error:
        return Inventory(place, (), "" if error.is_missing else str(error))
