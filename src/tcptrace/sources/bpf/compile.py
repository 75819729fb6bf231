"""Compile a plan's C with bcc; in the loader's child alone, which is where bcc and LLVM are."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tcptrace.errors import TcptraceError
from tcptrace.kernel import bpf
from tcptrace.sources.bpf.compiler import Compiler
from tcptrace.sources.bpf.find_bcc import compiler_of, import_bcc
from tcptrace.sources.bpf.programs import Programs, constants, make_kernel_calls, put_constant
from tcptrace.sources.plan import Shape


def compile_shape(shape: Shape, extra: Callable[[], Iterable[str]]) -> tuple[Programs, Compiler]:
    """Return what bcc makes of a shape, and which bcc.

    `extra` makes this process ready to compile, and returns the flags that are its own.

    Raises:
        NoCompilerError: there is no bcc.
        TcptraceError: it cannot compile this.

    """
    bcc = import_bcc()
    try:
        compiled = bcc.BPF(text=shape.source.encode(), cflags=[*shape.flags, *extra()])
    except Exception as error:  # bcc raises nothing more precise
        msg = (
            f"bcc cannot compile the probe {shape.name} for this kernel: {error}.\n"
            "Run again with -v for the compiler's words"
        )
        raise TcptraceError(msg) from error
    return _programs(bcc.lib, compiled.module), compiler_of(bcc)


def _declare(lib: Any) -> None:
    """Tell ctypes what the functions take that bcc's own bindings leave undeclared.

    Else it would cut pointers to 32 bits. A Python that is loaded at a fixed address, as Debian's,
    has its modules within them; a position-independent one has not.
    """
    module, number = ctypes.c_void_p, ctypes.c_size_t
    lib.bpf_num_tables.argtypes = [module]
    lib.bpf_num_tables.restype = number
    lib.bpf_table_fd_id.argtypes = [module, number]
    lib.bpf_table_name.argtypes = [module, number]
    lib.bpf_table_name.restype = ctypes.c_char_p


def _programs(lib: Any, module: Any) -> Programs:
    """Take maps and instructions out of a module of bcc's.

    bcc has made the maps and put their descriptors into the instructions (`load_maps` in its
    bpf_module.cc). The kernel says what they are.
    """
    _declare(lib)
    maps: list[bpf.MapSpec] = []
    places: dict[int, int] = {}
    for number in range(lib.bpf_num_tables(module)):
        descriptor = int(lib.bpf_table_fd_id(module, number))
        info = bpf.map_info(descriptor)
        name = lib.bpf_table_name(module, number).decode()
        places[descriptor] = len(maps)
        maps.append(
            bpf.MapSpec(name, info.type, info.key_size, info.value_size, info.entries, info.flags)
        )
    names = [
        lib.bpf_function_name(module, number) for number in range(lib.bpf_num_functions(module))
    ]
    return Programs(
        tuple(maps), {name.decode(): _instructions(lib, module, name, places) for name in names}
    )


def _instructions(lib: Any, module: Any, function: bytes, places: Mapping[int, int]) -> bytes:
    """Return a function's instructions, with places in place of maps' descriptors."""
    size = lib.bpf_function_size(module, function)
    code = bytearray(ctypes.string_at(lib.bpf_function_start(module, function), size))
    for at, is_map, constant in constants(code):
        if is_map:
            put_constant(code, at, places[constant])
    make_kernel_calls(code)
    return bytes(code)
