"""Programs that were compiled before: by what they are found, and whether they are still right.

A file's name is a hash of what decides the code, but for the compiler, which is named in the file:
where bcc is not installed, programs from elsewhere will do; where it is, they must be its own.
"""

from __future__ import annotations

import os
import struct
from _blake2 import blake2b
from collections.abc import Callable, Iterable, Mapping, Sequence

from tcptrace.kernel import btf, headers
from tcptrace.kernel.bpf import INSTRUCTION_BYTES, MapSpec
from tcptrace.sources.bpf.compiler import Compiler, NoCompilerError, state_of
from tcptrace.sources.bpf.programs import Programs
from tcptrace.sources.bpf.store import DamagedError, Store, StoreError, default_place, pack, unpack
from tcptrace.sources.plan import Shape
from tcptrace.version import VERSION

_KIND_PROGRAMS, _KIND_FUNCTIONS = b"programs", b"functions"
_MAP = struct.Struct("<IIIII")
_ID = struct.Struct("<I")


class Kept:
    """The programs of this kernel that are kept, in one process; what goes wrong is noted."""

    def __init__(
        self,
        note: Callable[[str], None],
        *,
        place: str | None = None,
        adds: bool = True,
    ) -> None:
        """Open the store.

        Args:
            note: is told why something is not used or not kept.
            place: the directory, where it is not the default.
            adds: whether anything is written.

        """
        self.names: list[str] = []
        """What was read or written."""
        self._note = note
        self._adds = adds
        self.place = place or default_place()
        self._store: Store | None = None
        self._kernel = btf.fingerprint()
        if self._kernel is None:
            note("programs are not kept: this kernel has no BTF to tell it by")
            return
        try:
            self._store = Store(self.place, make=adds)
        except StoreError as error:
            if adds or not error.is_missing:
                note(f"programs are not kept: {error}")

    def find(
        self, shape: Shape, types: Sequence[str], *, of_any_compiler: bool = False
    ) -> Programs | None:
        """Return the programs of a shape, if they are kept; `types` as in `headers.prepare`."""
        fields = self._read(self._name_of(shape, types), _KIND_PROGRAMS)
        if fields is None:
            return None
        try:
            compiler, programs = decode_programs(fields)
        except DamagedError as error:
            self._note(f"kept programs are not used: {error}")
            return None
        if not of_any_compiler and not is_current(compiler):
            self._note(f"kept programs are not used: they are of {compiler}")
            return None
        return programs

    def keep(
        self, shape: Shape, types: Sequence[str], programs: Programs, compiler: Compiler
    ) -> bool:
        """Keep what was compiled; tell whether it is kept."""
        fields = [_KIND_PROGRAMS, *encode_programs(programs, compiler)]
        return self._write(self._name_of(shape, types), fields)

    def function_ids(self, names: Iterable[str]) -> Mapping[str, int]:
        """Return the BTF ids of kernel functions, 0 where the kernel has none; asked once."""
        wanted = sorted(set(names))
        if not wanted:
            return {}
        name = self._hash(_KIND_FUNCTIONS, *map(str.encode, wanted))
        fields = self._read(name, _KIND_FUNCTIONS)
        if fields and [len(field) for field in fields] == [_ID.size] * len(wanted):
            return dict(zip(wanted, (_ID.unpack(field)[0] for field in fields), strict=True))
        ids = {name: btf.running_kernel().id_of(name, btf.KIND_FUNC) for name in wanted}
        self._write(name, [_KIND_FUNCTIONS, *(_ID.pack(number) for number in ids.values())])
        return ids

    def _name_of(self, shape: Shape, types: Sequence[str]) -> str:
        parts = (shape.source, *shape.flags, "", *types)
        return self._hash(_KIND_PROGRAMS, headers.signature(), *(part.encode() for part in parts))

    def _hash(self, *parts: bytes) -> str:
        machine = os.uname().machine.encode()
        key = blake2b(digest_size=16)
        for part in (self._kernel or b"", machine, VERSION.encode(), *parts):
            key.update(len(part).to_bytes(8, "little") + part)
        return key.hexdigest()

    def _read(self, name: str, kind: bytes) -> list[bytes] | None:
        """Return the fields of what is kept under a name, without its kind."""
        if not self._store:
            return None
        try:
            data = self._store.read(name)
            fields = _of_kind(kind, unpack(data)) if data is not None else None
        except (DamagedError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self._note(f"{self._store.place}/{name} is not used: {why}")
            return None
        if fields is not None:
            self.names.append(name)
        return fields

    def _write(self, name: str, fields: list[bytes]) -> bool:
        if not self._store or not self._adds:
            return False
        try:
            self._store.write(name, pack(fields))
        except OSError as error:
            self._note(f"not kept in {self._store.place}: {error.strerror}")
            return False
        self.names.append(name)
        return True


def check(fields: list[bytes]) -> None:
    """Raise DamagedError where the fields of a file are not what is kept here."""
    if fields[:1] == [_KIND_PROGRAMS]:
        decode_programs(fields[1:])
    elif any(len(field) != _ID.size for field in _of_kind(_KIND_FUNCTIONS, fields)):
        raise DamagedError("they make no sense")


def _of_kind(kind: bytes, fields: list[bytes]) -> list[bytes]:
    if fields[:1] != [kind]:
        raise DamagedError("it is of another kind")
    return fields[1:]


def encode_programs(programs: Programs, compiler: Compiler) -> list[bytes]:
    """Return programs as fields."""
    maps = [_MAP.pack(*spec[1:]) + spec.name.encode() for spec in programs.maps]
    functions = [
        part for name, code in programs.functions.items() for part in (name.encode(), code)
    ]
    return [compiler.encode(), _ID.pack(len(maps)), *maps, *functions]


def decode_programs(fields: Sequence[bytes]) -> tuple[Compiler, Programs]:
    """Return the compiler, and the programs that it made. Raises DamagedError."""
    try:
        compiler = Compiler.decode(fields[0])
        (number,) = _ID.unpack(fields[1])
        maps, rest = fields[2 : 2 + number], fields[2 + number :]
        specs = tuple(
            MapSpec(described[_MAP.size :].decode("ascii"), *_MAP.unpack(described[: _MAP.size]))
            for described in maps
        )
        pairs = zip(rest[::2], rest[1::2], strict=True)
        functions = {name.decode("ascii"): code for name, code in pairs}
    except (ValueError, IndexError, struct.error) as error:
        raise DamagedError(f"they make no sense ({error})") from None
    if len(maps) != number or any(len(code) % INSTRUCTION_BYTES for code in functions.values()):
        raise DamagedError("they make no sense")
    return compiler, Programs(specs, functions)


def is_current(compiler: Compiler) -> bool:
    """Tell whether `compiler` is the one that is installed, or none is."""
    if all(state_of(path) == (path, size, time) for path, size, time in compiler.files):
        return True
    from tcptrace.sources.bpf.find_bcc import find_spec  # noqa: PLC0415 - slow, and seldom needed

    try:
        find_spec()
    except NoCompilerError:
        return True
    return False
