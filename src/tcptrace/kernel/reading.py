"""How programs may read the kernel's memory: by loads from any address, or by a helper alone.

bpf_rdonly_cast(address, 0) tells the verifier that a program may load from an address, and that the
kernel is to catch faults: from Linux 6.17 on. Before, it wanted a type, or did not exist.
"""

from __future__ import annotations

import os
import struct

from tcptrace.kernel import bpf

FUNCTION = "bpf_rdonly_cast"
_INSTRUCTION = struct.Struct("=BBhi")
_CURRENT_TASK = 35  # BPF_FUNC_get_current_task


def _trial(function_id: int) -> bytes:
    """Return a program that loads from an address."""
    return b"".join(
        _INSTRUCTION.pack(code, registers, 0, constant)
        for code, registers, constant in (
            (0x85, 0x00, _CURRENT_TASK),
            (0xBF, 0x01, 0),  # r1 = r0
            (0xB7, 0x02, 0),  # r2 = 0
            (0x85, bpf.PSEUDO_KFUNC << 4, function_id),
            (0x79, 0x00, 0),  # r0 = *(u64 *)(r0 + 0)
            (0xB7, 0x00, 0),
            (0x95, 0x00, 0),
        )
    )


def loads_from_anywhere(function_id: int) -> bool:
    """Tell whether programs may, for the id of `FUNCTION`, which is 0 where there is none."""
    if not function_id:
        return False
    spec = bpf.ProgramSpec("tcptrace_reads", bpf.PROG_TYPE_RAW_TRACEPOINT)
    try:
        os.close(bpf.load_program(spec, _trial(function_id)))
    except OSError:
        return False
    return True
