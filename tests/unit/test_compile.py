"""What is taken out of a module of bcc's, without bcc."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import pytest

from tcptrace.kernel import bpf
from tcptrace.sources.bpf import compile as compiling

MODULE = 0x7F12_3456_7890
"""An address that 32 bits do not hold."""
RETURN = b"\x95" + bytes(7)
CODE = ctypes.create_string_buffer(RETURN, len(RETURN))


class Function:
    """A function of a library; ctypes takes an undeclared argument for a C int."""

    def __init__(self, answer: Any, argtypes: list[Any] | None = None) -> None:
        """Return `answer`; bcc has declared `argtypes`."""
        self._answer = answer
        self.argtypes = argtypes
        self.restype: Any = ctypes.c_int

    def __call__(self, *arguments: Any) -> Any:
        """Answer if the module's address comes through."""
        kinds = self.argtypes or [ctypes.c_int] * len(arguments)
        came = kinds[0](arguments[0]).value
        assert came == arguments[0], "the pointer was cut to 32 bits"
        return self._answer


def test_pointers_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that is loaded high up in memory can compile, too."""
    named = [ctypes.c_void_p, ctypes.c_char_p]
    counted = [ctypes.c_void_p, ctypes.c_ulonglong]
    library = SimpleNamespace(
        bpf_num_tables=Function(1),
        bpf_table_fd_id=Function(7),
        bpf_table_name=Function(b"events"),
        bpf_num_functions=Function(1, [ctypes.c_void_p]),
        bpf_function_name=Function(b"on_accept", counted),
        bpf_function_size=Function(len(RETURN), named),
        bpf_function_start=Function(ctypes.addressof(CODE), named),
    )
    info = bpf.MapInfo(type=27, id=1, key_size=0, value_size=0, entries=4096, flags=0)
    monkeypatch.setattr(bpf, "map_info", lambda _descriptor: info)
    programs = compiling._programs(library, MODULE)
    assert {"on_accept": RETURN} == programs.functions
    assert (bpf.MapSpec("events", 27, 0, 0, 4096, 0),) == programs.maps
