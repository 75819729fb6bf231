"""Compiled programs: instructions and maps, as plain data that depends on no compiler.

An instruction that loads a map names it by its place among the maps. One that loads a value of the
run has a marked constant in its place: `VALUE_MARK` and the value's number. Both are instructions
of two slots (BPF_LD | BPF_IMM | BPF_DW), with the lower half of the constant in the first slot.
"""

from __future__ import annotations

import dataclasses
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence

from tcptrace.kernel.bpf import INSTRUCTION_BYTES, PSEUDO_KFUNC, MapSpec
from tcptrace.sources.plan import KERNEL_FUNCTION, VALUE_MARK

LOAD_CONSTANT = 0x18
PSEUDO_MAP = 1  # BPF_PSEUDO_MAP_FD, in the register field of the first slot
CALL = 0x85
LITTLE_ENDIAN = sys.byteorder == "little"  # of two registers in a byte, the source comes last

_UNSIGNED = struct.Struct("=I")
_IMMEDIATE_AT = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Programs:
    """What one compilation gives."""

    maps: tuple[MapSpec, ...]
    functions: Mapping[str, bytes]
    """Instructions by the C function's name, with maps by their place among `maps`."""

    def linked(self, function: str, maps: Sequence[int], values: Mapping[int, int]) -> bytes:
        """Return a function's instructions with these map descriptors and values in them.

        Raises ValueError where the function names a map or a value that is not there.
        """
        code = bytearray(self.functions[function])
        for at, is_map, constant in constants(code):
            if is_map:
                if constant >= len(maps):
                    raise ValueError(f"{function} names a map that there is not")
                put_constant(code, at, maps[constant])
            elif constant & ~0xFFFF_FFFF == VALUE_MARK:
                number = constant & 0xFFFF_FFFF
                if number not in values:
                    raise ValueError(f"{function} names a value that there is not")
                put_constant(code, at, values[number])
        return bytes(code)


def constants(code: bytes | bytearray) -> Iterator[tuple[int, bool, int]]:
    """Yield where a constant is loaded, whether it is a map, and the constant, for all of them."""
    at = 0
    while at <= len(code) - 2 * INSTRUCTION_BYTES:
        if code[at] == LOAD_CONSTANT:
            low = _UNSIGNED.unpack_from(code, at + _IMMEDIATE_AT)[0]
            high = _UNSIGNED.unpack_from(code, at + INSTRUCTION_BYTES + _IMMEDIATE_AT)[0]
            source = code[at + 1] >> 4 if LITTLE_ENDIAN else code[at + 1] & 0xF
            if source in {0, PSEUDO_MAP}:
                yield at, source == PSEUDO_MAP, high << 32 | low
            at += INSTRUCTION_BYTES
        at += INSTRUCTION_BYTES


def put_constant(code: bytearray, at: int, constant: int) -> None:
    """Have the instruction at `at` load this constant."""
    _UNSIGNED.pack_into(code, at + _IMMEDIATE_AT, constant & 0xFFFF_FFFF)
    _UNSIGNED.pack_into(code, at + INSTRUCTION_BYTES + _IMMEDIATE_AT, constant >> 32)


def make_kernel_calls(code: bytearray) -> None:
    """Make calls of the kernel's functions of those whose number is `KERNEL_FUNCTION` and an id."""
    for at in range(0, len(code), INSTRUCTION_BYTES):
        number = _UNSIGNED.unpack_from(code, at + _IMMEDIATE_AT)[0]
        if code[at] == CALL and KERNEL_FUNCTION < number < 2 * KERNEL_FUNCTION:
            code[at + 1] = PSEUDO_KFUNC << 4 if LITTLE_ENDIAN else PSEUDO_KFUNC
            _UNSIGNED.pack_into(code, at + _IMMEDIATE_AT, number - KERNEL_FUNCTION)
