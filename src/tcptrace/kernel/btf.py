"""The running kernel's own types, from /sys/kernel/btf/vmlinux, through libbpf."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from tcptrace.errors import TcptraceError
from tcptrace.kernel.syscalls import libc

VMLINUX = Path("/sys/kernel/btf/vmlinux")
KIND_STRUCT, KIND_ENUM, KIND_FUNC = 4, 6, 12

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
        library.btf_dump__new.argtypes = [pointer, _Printf, pointer, pointer]
        library.btf_dump__new.restype = pointer
        library.btf_dump__dump_type.argtypes = [pointer, ctypes.c_uint32]
        library.ring_buffer__new.restype = pointer
        library.ring_buffer__new.argtypes = [ctypes.c_int, RingBufferSample, pointer, pointer]
        library.ring_buffer__consume.argtypes = [pointer]
        library.ring_buffer__free.argtypes = [pointer]
        return library
    raise TcptraceError("libbpf is not installed; install your distribution's libbpf (libbpf1)")


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
def running_kernel() -> Btf:
    """Load the types of the running kernel, once. Raises TcptraceError."""
    return Btf()
