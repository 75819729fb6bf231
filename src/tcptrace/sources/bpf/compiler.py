"""Which compiler made programs; bcc is not imported.

A compiler is told by its versions, and on this host by its files: as long as these are what they
were, it is the same.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from tcptrace.errors import TcptraceError


class NoCompilerError(TcptraceError):
    """bcc is not installed, or cannot be imported."""


class Compiler(NamedTuple):
    """bcc and the LLVM in it."""

    bcc: str
    llvm: str
    files: tuple[tuple[str, int, int], ...]
    """Path, size in bytes and time of change in nanoseconds."""

    def __str__(self) -> str:
        """Return the versions."""
        return f"bcc {self.bcc} with LLVM {self.llvm}"

    def encode(self) -> bytes:
        """Return it as lines."""
        lines = [self.bcc, self.llvm, *(f"{size} {time} {path}" for path, size, time in self.files)]
        return os.fsencode("\n".join(lines))

    @classmethod
    def decode(cls, data: bytes) -> Compiler:
        """Return what was encoded. Raises ValueError."""
        bcc, llvm, *lines = os.fsdecode(data).split("\n")
        files = []
        for line in lines:
            size, time, path = line.split(" ", 2)
            files.append((path, int(size), int(time)))
        return cls(bcc, llvm, tuple(files))


def state_of(path: str) -> tuple[str, int, int]:
    """Return a file as in `Compiler.files`; an absent one has the size -1."""
    try:
        status = Path(path).stat()
    except OSError:
        return path, -1, 0
    return path, status.st_size, status.st_mtime_ns
