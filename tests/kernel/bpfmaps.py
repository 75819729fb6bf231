"""Pinned BPF maps, made with bpf(2) as `bpftool map create` makes them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct
from collections.abc import Iterator
from pathlib import Path

from tcptrace.kernel.syscalls import bpf, c_pointer, pack_attributes

MAP_CREATE, MAP_UPDATE_ELEM, OBJ_PIN, MAP_GET_FD_BY_ID = 0, 2, 6, 14
HASH, ARRAY = 1, 2
ENTRIES = 128


@contextlib.contextmanager
def unlimited_memory() -> Iterator[None]:
    """Lift the limit of locked memory: before 5.11, all of a user's BPF objects count."""
    before = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    with contextlib.suppress(ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, before)


class PinnedMap:
    """A pinned map whose keys are integers."""

    def __init__(self, path: Path, key_size: int, value_size: int, kind: int = HASH) -> None:
        """Create and pin it."""
        self.path = path
        self._key_size = key_size
        self._value_size = value_size
        attributes = pack_attributes("IIIII", kind, key_size, value_size, ENTRIES, 0)
        with unlimited_memory():
            self._map = bpf(MAP_CREATE, attributes)
        name = ctypes.create_string_buffer(os.fsencode(path))
        bpf(OBJ_PIN, pack_attributes("QII", c_pointer(name), self._map, 0))

    def add(self, key: int) -> None:
        """Add a key; its value does not matter."""
        packed = key.to_bytes(self._key_size, "little" if struct.pack("@H", 1)[0] else "big")
        keys = ctypes.create_string_buffer(packed, self._key_size)
        value = ctypes.create_string_buffer(self._value_size)
        bpf(
            MAP_UPDATE_ELEM,
            pack_attributes("IIQQQ", self._map, 0, c_pointer(keys), c_pointer(value), 0),
        )

    def remove(self) -> None:
        """Unpin and close it."""
        os.close(self._map)
        self.path.unlink()


@contextlib.contextmanager
def pinned(path: Path, key_size: int, value_size: int, kind: int = HASH) -> Iterator[PinnedMap]:
    """Create and pin a map, for as long as it is wanted."""
    pinned = PinnedMap(path, key_size, value_size, kind)
    try:
        yield pinned
    finally:
        pinned.remove()


def map_exists(map_id: int) -> bool:
    """Tell whether something, such as an attached program, still holds a map."""
    try:
        os.close(bpf(MAP_GET_FD_BY_ID, pack_attributes("III", map_id, 0, 0)))
    except OSError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def maps_of(pid: int) -> set[int]:
    """Return the ids of the maps that a process has open."""
    ids = set()
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            for line in info.read_text().splitlines():
                if line.startswith("map_id:"):
                    ids.add(int(line.split()[1]))
    return ids
