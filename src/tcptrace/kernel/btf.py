"""The running kernel's own types, from /sys/kernel/btf/vmlinux, through libbpf."""

from __future__ import annotations

import ctypes
from _blake2 import blake2b
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tcptrace.errors import TcptraceError
from tcptrace.kernel.syscalls import libc

VMLINUX = Path("/sys/kernel/btf/vmlinux")
# include/uapi/linux/btf.h: BTF_KIND_*
KIND_INT, KIND_POINTER, KIND_ARRAY, KIND_STRUCT, KIND_UNION, KIND_ENUM = 1, 2, 3, 4, 5, 6
KIND_TYPEDEF, KIND_FUNC = 8, 12
MODIFIERS = frozenset({KIND_TYPEDEF, 9, 10, 11, 18})  # volatile, const, restrict, type tag

RingBufferSample = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_Printf = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


@cache
def libbpf() -> ctypes.CDLL:
    """Load libbpf, which bcc's own library needs as well.

    Raises:
        TcptraceError: it is not installed.

    """
    for name in ("libbpf.so.1", "libbpf.so.0"):
        try:
            library = ctypes.CDLL(name, use_errno=True)
        except OSError:
            continue
        pointer = ctypes.c_void_p
        library.btf__load_vmlinux_btf.restype = pointer
        library.btf__find_by_name_kind.argtypes = [pointer, ctypes.c_char_p, ctypes.c_uint32]
        library.btf__type_by_id.argtypes = [pointer, ctypes.c_uint32]
        library.btf__type_by_id.restype = pointer
        library.btf__name_by_offset.argtypes = [pointer, ctypes.c_uint32]
        library.btf__name_by_offset.restype = ctypes.c_char_p
        library.btf__resolve_size.argtypes = [pointer, ctypes.c_uint32]
        library.btf__resolve_size.restype = ctypes.c_int64
        library.btf_dump__new.argtypes = [pointer, _Printf, pointer, pointer]
        library.btf_dump__new.restype = pointer
        library.btf_dump__dump_type.argtypes = [pointer, ctypes.c_uint32]
        library.ring_buffer__new.restype = pointer
        library.ring_buffer__new.argtypes = [ctypes.c_int, RingBufferSample, pointer, pointer]
        library.ring_buffer__consume.argtypes = [pointer]
        library.ring_buffer__free.argtypes = [pointer]
        return library
    raise TcptraceError("libbpf is not installed; install your distribution's libbpf (libbpf1)")


class Type(NamedTuple):
    """A type: `struct btf_type`, and where what follows it in memory begins."""

    kind: int
    name: str
    target: int
    """The id of the type that it stands for or points to; of a struct, its size."""
    parts: int
    """How many members or parameters follow."""
    address: int


class Member(NamedTuple):
    """A member of a struct or union; offset in bytes."""

    type_id: int
    offset: int


class Parameter(NamedTuple):
    """A parameter of a kernel function; the first has the position 1."""

    type_id: int
    position: int


class Btf:
    """The types of the running kernel; `running_kernel` has the one that is needed."""

    def __init__(self) -> None:
        """Load them. Raises TcptraceError where the kernel has none."""
        if not VMLINUX.exists():
            raise TcptraceError(f"this kernel has no BTF ({VMLINUX}, CONFIG_DEBUG_INFO_BTF)")
        self._btf = libbpf().btf__load_vmlinux_btf()
        if not self._btf:
            raise TcptraceError(f"libbpf cannot read {VMLINUX}; install a newer libbpf")

    def id_of(self, name: str, kind: int) -> int:
        """Return the id of a type, or 0 where the kernel has none of that name and kind."""
        return max(0, int(libbpf().btf__find_by_name_kind(self._btf, name.encode(), kind)))

    def has_struct(self, name: str) -> bool:
        """Tell whether the kernel has this struct."""
        return self.id_of(name, KIND_STRUCT) > 0

    def type(self, type_id: int) -> Type:
        """Return a type by its id."""
        address = libbpf().btf__type_by_id(self._btf, type_id)
        name, info, target = (ctypes.c_uint32 * 3).from_address(address)
        return Type(info >> 24 & 0x1F, self._name(name), target, info & 0xFFFF, address + 12)

    def plain(self, type_id: int) -> int:
        """Return the id of a type without typedefs and qualifiers."""
        while (type_ := self.type(type_id)).kind in MODIFIERS:
            type_id = type_.target
        return type_id

    def size(self, type_id: int) -> int:
        """Return a type's size in bytes."""
        return int(libbpf().btf__resolve_size(self._btf, type_id))

    def element(self, type_id: int) -> tuple[int, int]:
        """Return the type's id of an array's elements, and their number."""
        element, _, number = (ctypes.c_uint32 * 3).from_address(self.type(type_id).address)
        return element, number

    def member(self, type_id: int, name: str) -> Member | None:
        """Return a member of a struct or union, those of its anonymous ones included.

        None where it has no such member, or a bit-field.
        """
        for own_name, member_id, bits in self._members(self.type(self.plain(type_id))):
            if own_name == name:
                return None if bits % 8 or bits >> 24 else Member(member_id, bits // 8)
            inner = self.plain(member_id)
            if not own_name and self.type(inner).kind in (KIND_STRUCT, KIND_UNION):
                found = self.member(inner, name)
                if found:
                    return Member(found.type_id, bits // 8 + found.offset)
        return None

    def parameter(self, function: str, name: str) -> Parameter | None:
        """Return a parameter of a kernel function, or None."""
        prototype = self.type(self.type(self.id_of(function, KIND_FUNC)).target)
        for position in range(prototype.parts):
            at = prototype.address + 8 * position
            own_name, type_id = (ctypes.c_uint32 * 2).from_address(at)
            if self._name(own_name) == name:
                return Parameter(type_id, position + 1)
        return None

    def _members(self, struct: Type) -> Iterator[tuple[str, int, int]]:
        """Yield name, type id and offset in bits; a bit-field has its size in the highest byte."""
        for number in range(struct.parts):
            name, type_id, offset = (ctypes.c_uint32 * 3).from_address(struct.address + 12 * number)
            yield self._name(name), type_id, offset

    def _name(self, offset: int) -> str:
        return bytes(libbpf().btf__name_by_offset(self._btf, offset)).decode()

    def c_types(self, names: Iterable[str]) -> bytes:
        """Return the C of these structs and enums, and of all that they embed.

        Unknown ones are left out.
        """
        parts: list[bytes] = []
        line = ctypes.create_string_buffer(1 << 16)

        def collect(_context: int, form: bytes, arguments: int) -> None:
            length = libc.vsnprintf(
                line, ctypes.c_size_t(len(line)), form, ctypes.c_void_p(arguments)
            )
            parts.append(line.raw[:length])

        callback = _Printf(collect)  # alive as long as libbpf may call it
        dump = libbpf().btf_dump__new(self._btf, callback, None, None)
        for name in names:
            type_id = self.id_of(name, KIND_STRUCT) or self.id_of(name, KIND_ENUM)
            if type_id:
                libbpf().btf_dump__dump_type(dump, type_id)
        return b"".join(parts)


@cache
def fingerprint() -> bytes | None:
    """Return a hash of the running kernel's types; None where it does not tell them."""
    try:
        return blake2b(VMLINUX.read_bytes(), digest_size=16).digest()
    except OSError:
        return None


_FUNCTION_IDS: dict[str, int] = {}


def learn_functions(ids: Mapping[str, int]) -> None:
    """Take the ids of kernel functions from one who knows: to look them up takes a while."""
    _FUNCTION_IDS.update(ids)


def function_id(name: str) -> int:
    """Return the id of a kernel function, or 0 where the kernel has none of that name."""
    if name not in _FUNCTION_IDS:
        _FUNCTION_IDS[name] = running_kernel().id_of(name, KIND_FUNC)
    return _FUNCTION_IDS[name]


@cache
def running_kernel() -> Btf:
    """Load the types of the running kernel, once. Raises TcptraceError."""
    return Btf()
