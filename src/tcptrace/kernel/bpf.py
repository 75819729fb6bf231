"""bpf(2): maps, programs, and what the kernel tells of them.

Layouts are those of `union bpf_attr` in include/uapi/linux/bpf.h, a stable interface.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tcptrace.errors import RefusedError
from tcptrace.kernel.syscalls import bpf, c_pointer, pack_attributes

MAP_CREATE, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, MAP_GET_NEXT_KEY = 0, 1, 2, 4
PROG_LOAD, OBJ_GET = 5, 7
OBJ_GET_INFO_BY_FD, RAW_TRACEPOINT_OPEN, LINK_CREATE = 15, 17, 28
PROG_TYPE_KPROBE, PROG_TYPE_TRACEPOINT, PROG_TYPE_RAW_TRACEPOINT, PROG_TYPE_TRACING = 2, 5, 17, 26
TRACE_FENTRY, TRACE_FEXIT = 24, 25
PERF_EVENT = 41  # an attach type
LINK_TYPE_PERF_EVENT = 7
PERF_EVENT_KPROBE, PERF_EVENT_KRETPROBE = 3, 4
MAP_TYPE_HASH = 1
INSTRUCTION_BYTES = 8
NAME_LENGTH = 15
"""Of maps and programs, in bytes."""
LOG_BYTES = 1 << 20
MOST_INTERRUPTIONS = 5
PSEUDO_KFUNC = 2  # BPF_PSEUDO_KFUNC_CALL: in the source register's field of a call

_RETURN_0 = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
_RECURSION_MISSES = 208  # where it is in struct bpf_prog_info
_LINK_INFO = struct.Struct("=I12xI28xQ")  # the types, and a probe's misses, in struct bpf_link_info


class MapSpec(NamedTuple):
    """What a map is made of; sizes in bytes."""

    name: str
    type: int
    key_size: int
    value_size: int
    entries: int
    flags: int


def create_map(spec: MapSpec) -> int:
    """Make a map; return its descriptor. Raises OSError."""
    _, kind, key_size, value_size, entries, flags = spec
    name = spec.name.encode()[:NAME_LENGTH]
    attributes = pack_attributes(
        "IIIIIII16s", kind, key_size, value_size, entries, flags, 0, 0, name
    )
    return bpf(MAP_CREATE, attributes)


class ProgramSpec(NamedTuple):
    """What a program is to be loaded as."""

    name: str
    type: int
    attach_type: int = 0
    btf_id: int = 0
    """Of the kernel function that a trampoline is for."""


def load_program(spec: ProgramSpec, instructions: bytes) -> int:
    """Load a program; return its descriptor. Raises OSError."""
    for _ in range(MOST_INTERRUPTIONS):
        with contextlib.suppress(BlockingIOError):  # a signal came while the kernel verified it
            return _load(spec, instructions)
    return _load(spec, instructions)


def verifier_log(spec: ProgramSpec, instructions: bytes) -> str:
    """Return the kernel's words about a program that it has refused to load."""
    log = ctypes.create_string_buffer(LOG_BYTES)
    try:
        os.close(_load(spec, instructions, log))
    except OSError as error:
        words = log.value.decode("utf-8", "replace")
        return words or f"{spec.name}: {error.strerror}"
    return ""


def _load(
    spec: ProgramSpec, instructions: bytes, log: ctypes.Array[ctypes.c_char] | None = None
) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    license_ = ctypes.create_string_buffer(b"GPL")
    attributes = pack_attributes(
        "IIQQIIQII16sIIIIQIIQII",
        spec.type,
        len(instructions) // INSTRUCTION_BYTES,
        c_pointer(code),
        c_pointer(license_),
        1 if log else 0,
        len(log) if log else 0,
        c_pointer(log) if log else 0,
        0,
        0,
        spec.name.encode()[:NAME_LENGTH],
        0,
        spec.attach_type,
        *(0, 0, 0, 0, 0, 0, 0),
        spec.btf_id,
    )
    return bpf(PROG_LOAD, attributes)


def load_empty(program_type: int, attach_type: int = 0, btf_id: int = 0) -> int:
    """Load a program that does nothing; return its descriptor. Raises OSError."""
    return load_program(ProgramSpec("tcptrace_empty", program_type, attach_type, btf_id), _RETURN_0)


def raw_tracepoint_open(program: int, name: str = "") -> int:
    """Attach to a raw tracepoint, or without a name to the function the program was loaded for."""
    text = ctypes.create_string_buffer(name.encode())
    return bpf(
        RAW_TRACEPOINT_OPEN, pack_attributes("QII", c_pointer(text) if name else 0, program, 0)
    )


def link_perf_event(program: int, event: int) -> int:
    """Attach to a perf event; return the link, which keeps it. Raises OSError, before 5.15."""
    return bpf(LINK_CREATE, pack_attributes("IIII", program, event, PERF_EVENT, 0))


def skipped(program_fd: int) -> int:
    """Return how often the kernel has skipped a program since it was loaded. Raises OSError.

    It does so while the same program is under way on the same processor: in what a softirq has
    interrupted or, where a task can be preempted in a program, in another task. Kernels before 5.12
    do not count it.
    """
    info = ctypes.create_string_buffer(_RECURSION_MISSES + 8)
    bpf(OBJ_GET_INFO_BY_FD, pack_attributes("IIQ", program_fd, len(info), c_pointer(info)))
    return int(struct.unpack_from("=Q", info.raw, _RECURSION_MISSES)[0])


def missed(link_fd: int) -> int:
    """Return how often the kernel has passed over a kprobe that `link_perf_event` has attached to.

    It does so where any kprobe is under way on the same processor, of whatever program. Kernels
    before 6.7 do not tell, and no kernel does of other descriptors: then that is 0.
    """
    info = ctypes.create_string_buffer(_LINK_INFO.size)
    try:
        bpf(OBJ_GET_INFO_BY_FD, pack_attributes("IIQ", link_fd, len(info), c_pointer(info)))
    except OSError:
        return 0
    kind, probe, misses = _LINK_INFO.unpack(info.raw)
    is_kprobe = kind == LINK_TYPE_PERF_EVENT and probe in (PERF_EVENT_KPROBE, PERF_EVENT_KRETPROBE)
    return int(misses) if is_kprobe else 0


class MapInfo(NamedTuple):
    """A BPF map's type, id, sizes of key and value in bytes, most entries, and flags."""

    type: int
    id: int
    key_size: int
    value_size: int
    entries: int
    flags: int


def map_info(map_fd: int) -> MapInfo:
    """Return what the kernel says of a map. Raises OSError."""
    info = ctypes.create_string_buffer(88)
    bpf(OBJ_GET_INFO_BY_FD, pack_attributes("IIQ", map_fd, len(info), c_pointer(info)))
    return MapInfo._make(struct.unpack_from("=IIIIII", info.raw))


def open_pinned(path: str) -> int:
    """Return a descriptor of the BPF object that is pinned at `path`. Raises OSError."""
    name = ctypes.create_string_buffer(os.fsencode(path))
    return bpf(OBJ_GET, pack_attributes("QII", c_pointer(name), 0, 0))


def open_pinned_hash(path: str, key_size: int, value_size: int) -> int:
    """Return a descriptor of the pinned hash map at `path`, which must have these sizes in bytes.

    Raises:
        RefusedError: there is none, or it is something else.

    """
    want = f"a pinned BPF hash map with {key_size}-byte keys and {value_size}-byte values"
    make = (
        f"bpftool map create {path} type hash key {key_size} value {value_size} "
        "entries 128 name set flags 0"
    )
    try:
        Path(path).stat()
    except FileNotFoundError:
        raise RefusedError(
            f"{path} does not exist; it must be {want}.\nOne is made by: {make}"
        ) from None
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}; it must be {want}") from None
    try:
        map_fd = open_pinned(path)
    except OSError as error:
        raise RefusedError(
            f"{path} is no object in a BPF file system ({error.strerror}); it must be {want}"
        ) from None
    try:
        info = map_info(map_fd)
    except OSError:
        raise RefusedError(
            f"{path} is a pinned BPF object, but not a map; it must be {want}"
        ) from None
    if (info.type, info.key_size, info.value_size) != (MAP_TYPE_HASH, key_size, value_size):
        raise RefusedError(
            f"{path} is a BPF map of type {info.type} with {info.key_size}-byte keys and "
            f"{info.value_size}-byte values; it must be {want}"
        )
    return map_fd


def lookup_u64(map_fd: int, index: int) -> int:
    """Return the 8-byte value at `index` of an array map. Raises OSError."""
    key = ctypes.create_string_buffer(struct.pack("=I", index), 4)
    value = ctypes.create_string_buffer(8)
    bpf(MAP_LOOKUP_ELEM, pack_attributes("IIQQQ", map_fd, 0, c_pointer(key), c_pointer(value), 0))
    return int(struct.unpack("=Q", value.raw)[0])


def fill(map_fd: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
    """Put entries, keys and values, into a map. Raises OSError."""
    for key, value in entries:
        buffers = [ctypes.create_string_buffer(part, len(part)) for part in (key, value)]
        attributes = pack_attributes("IIQQQ", map_fd, 0, *map(c_pointer, buffers), 0)
        bpf(MAP_UPDATE_ELEM, attributes)


def read_hash(map_fd: int, key_size: int, value_size: int) -> dict[bytes, bytes]:
    """Return the entries of a hash map; one that is changed meanwhile may miss some.

    Raises OSError.
    """
    key, next_key = ctypes.create_string_buffer(key_size), ctypes.create_string_buffer(key_size)
    value = ctypes.create_string_buffer(value_size)
    entries: dict[bytes, bytes] = {}
    address = 0
    with contextlib.suppress(FileNotFoundError):  # the kernel's way to say that it was the last
        while True:
            following = pack_attributes("IIQQQ", map_fd, 0, address, c_pointer(next_key), 0)
            bpf(MAP_GET_NEXT_KEY, following)
            ctypes.memmove(key, next_key, key_size)
            address = c_pointer(key)
            with contextlib.suppress(FileNotFoundError):
                bpf(
                    MAP_LOOKUP_ELEM,
                    pack_attributes("IIQQQ", map_fd, 0, address, c_pointer(value), 0),
                )
                entries[key.raw] = value.raw
    return entries


def pinned_keys(path: str) -> set[int]:
    """Return the keys of the pinned hash map at `path`, as integers. Raises OSError."""
    map_fd = open_pinned(path)
    try:
        info = map_info(map_fd)
        entries = read_hash(map_fd, info.key_size, info.value_size)
    finally:
        os.close(map_fd)
    return {int.from_bytes(key, sys.byteorder) for key in entries}
