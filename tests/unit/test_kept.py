"""Kept programs: by what they are found, and whose they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.kernel import btf, headers
from tcptrace.kernel.bpf import MapSpec
from tcptrace.sources.bpf import find_bcc, kept, store
from tcptrace.sources.bpf.compiler import Compiler, NoCompilerError, state_of
from tcptrace.sources.bpf.kept import Kept, decode_programs, encode_programs, is_current
from tcptrace.sources.bpf.programs import Programs
from tcptrace.sources.bpf.store import DamagedError
from tcptrace.sources.plan import Shape

NAMES = st.text(st.sampled_from("abcxyz_019"), min_size=1, max_size=20)
U32 = st.integers(0, (1 << 32) - 1)
MAPS = st.lists(st.builds(MapSpec, NAMES, U32, U32, U32, U32, U32), max_size=4).map(tuple)
FUNCTIONS = st.dictionaries(NAMES, st.binary(max_size=8).map(lambda data: data * 8), max_size=4)
PROGRAMS = Programs((MapSpec("events", 27, 0, 0, 4096, 0),), {"f": bytes(16)})
SHAPE = Shape("accept", "int f(void)", ("-DA=1",), {16: 80}, {"events": 4096}, {})
NOBODY_S = Compiler("9.9", "14", ())


@pytest.fixture
def compiler(tmp_path: Path) -> Compiler:
    """A compiler that consists of one file."""
    library = tmp_path / "libbcc.so"
    library.write_bytes(b"compiler")
    return Compiler("0.31.0", "19.1.7", (state_of(str(library)),))


class Notes(list[str]):
    """What was noted."""

    def __contains__(self, words: object) -> bool:
        """Tell whether any note has these words."""
        return any(str(words) in note for note in self)


@pytest.fixture
def notes() -> Notes:
    """No notes yet."""
    return Notes()


@pytest.fixture
def opened(tmp_path: Path, notes: Notes, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Kept]:
    """Open the same store as another process would, on a kernel of our own."""
    tmp_path.chmod(0o700)
    monkeypatch.setattr(btf, "fingerprint", lambda: b"kernel")
    return lambda: Kept(notes.append, place=str(tmp_path / "cache"))


@given(MAPS, FUNCTIONS)
def test_programs_come_back_as_they_were(
    maps: tuple[MapSpec, ...], functions: dict[str, bytes]
) -> None:
    """What is encoded is decoded, with the compiler."""
    compiler = Compiler("0.31.0", "19.1.7", (("/a b", 1, 2), ("/c", -1, 0)))
    programs = Programs(maps, functions)
    assert (compiler, programs) == decode_programs(encode_programs(programs, compiler))


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_fields_that_make_no_sense_are_refused(fields: list[bytes]) -> None:
    """Any fields give programs that are whole, or one error."""
    try:
        _, programs = decode_programs(fields)
    except DamagedError:
        return
    assert all(len(code) % 8 == 0 for code in programs.functions.values())


def test_kept_programs_are_found(opened: Callable[[], Kept], compiler: Compiler) -> None:
    """What one process has kept another finds, for other values, too."""
    assert opened().find(SHAPE, ()) is None
    assert opened().keep(SHAPE, (), PROGRAMS, compiler)
    other_values = dataclasses.replace(SHAPE, values={16: 443}, entries={"events": 8192})
    assert opened().find(other_values, ()) == PROGRAMS


CHANGES: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "kernel": lambda patch: patch.setattr(btf, "fingerprint", lambda: b"another"),
    "tcptrace": lambda patch: patch.setattr(kept, "VERSION", "99"),
    "headers": lambda patch: patch.setattr(headers, "signature", lambda: b"another"),
    "machine": lambda patch: patch.setattr(
        "os.uname", lambda: type("Uname", (), {"machine": "s390x"})
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_the_code_is_in_the_key(
    opened: Callable[[], Kept],
    compiler: Compiler,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    """Programs of another kernel, tcptrace, machine or set of types are not found."""
    opened().keep(SHAPE, (), PROGRAMS, compiler)
    CHANGES[change](monkeypatch)
    assert opened().find(SHAPE, ()) is None


@pytest.mark.parametrize(
    "change", [{"source": "int g(void)"}, {"flags": ("-DA=2",)}, {"flags": ("-DA", "=1")}]
)
def test_source_and_flags_are_in_the_key(
    opened: Callable[[], Kept], compiler: Compiler, change: dict[str, Any]
) -> None:
    """Programs of other C, or of the same with other flags, are not found."""
    opened().keep(SHAPE, (), PROGRAMS, compiler)
    assert opened().find(dataclasses.replace(SHAPE, **change), ()) is None
    assert opened().find(SHAPE, ("sk_buff",)) is None


def test_another_compiler_s_programs_are_not_used(
    opened: Callable[[], Kept], compiler: Compiler, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update of bcc or LLVM, programs are compiled anew, in place of the old ones."""
    monkeypatch.setattr(find_bcc, "find_spec", lambda: None)
    opened().keep(SHAPE, (), PROGRAMS, compiler)
    Path(compiler.files[0][0]).write_bytes(b"a later compiler")
    assert opened().find(SHAPE, ()) is None
    assert "they are of bcc 0.31.0 with LLVM 19.1.7" in notes
    later = Compiler("0.32", "20", (state_of(compiler.files[0][0]),))
    names = opened()
    names.keep(SHAPE, (), PROGRAMS, later)
    assert opened().find(SHAPE, ()) == PROGRAMS
    assert 1 == len(names.names)


def test_any_compiler_s_programs_serve_where_there_is_none(
    opened: Callable[[], Kept], compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs from another host are used where nothing could compile them."""

    def missing() -> None:
        raise NoCompilerError("bcc is not installed")

    opened().keep(SHAPE, (), PROGRAMS, compiler)
    Path(compiler.files[0][0]).unlink()
    monkeypatch.setattr(find_bcc, "find_spec", missing)
    assert is_current(compiler)
    assert opened().find(SHAPE, ()) == PROGRAMS
    monkeypatch.setattr(find_bcc, "find_spec", lambda: None)  # bcc is there, LLVM is not
    assert opened().find(SHAPE, ()) is None
    assert opened().find(SHAPE, (), of_any_compiler=True) == PROGRAMS


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "none of tcptrace's"),
        (b"\x7fELF", "none of tcptrace's"),
        (store.pack([b"functions"]), "another kind"),
        (store.pack([b"programs", b"0\n1", b"\1\0\0\0"]), "make no sense"),
        (store.pack([b"programs", b"0\n1", b"\0\0\0\0", b"f", b"odd"]), "make no sense"),
    ],
)
def test_damage_is_noted(
    opened: Callable[[], Kept], notes: Notes, tmp_path: Path, content: bytes, why: str
) -> None:
    """What cannot be used is not, and why is told."""
    keeper = opened()
    keeper.keep(SHAPE, (), PROGRAMS, NOBODY_S)
    (tmp_path / "cache" / keeper.names[0]).write_bytes(content)
    assert opened().find(SHAPE, ()) is None
    assert why in notes


def test_no_place_is_noted(
    opened: Callable[[], Kept], notes: Notes, tmp_path: Path, compiler: Compiler
) -> None:
    """Where nothing can be kept, nothing fails."""
    (tmp_path / "cache").write_bytes(b"a file")
    store = opened()
    assert not store.keep(SHAPE, (), PROGRAMS, compiler)
    assert store.find(SHAPE, ()) is None
    assert "programs are not kept" in notes


def test_without_btf_nothing_is_kept(
    opened: Callable[[], Kept], notes: Notes, monkeypatch: pytest.MonkeyPatch, compiler: Compiler
) -> None:
    """A kernel that does not tell its types could not be told from another."""
    monkeypatch.setattr(btf, "fingerprint", lambda: None)
    assert not opened().keep(SHAPE, (), PROGRAMS, compiler)
    assert "no BTF" in notes


def test_function_ids_are_asked_once(
    opened: Callable[[], Kept], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ids of kernel functions are kept, too; that one is missing as well."""
    asked: list[str] = []

    class FakeBtf:
        def id_of(self, name: str, _kind: int) -> int:
            asked.append(name)
            return {"tcp_connect": 181}.get(name, 0)

    monkeypatch.setattr(btf, "running_kernel", FakeBtf)
    expected = {"__inet_accept": 0, "tcp_connect": 181}
    for _ in range(2):
        assert expected == opened().function_ids(["tcp_connect", "__inet_accept"])
    assert ["__inet_accept", "tcp_connect"] == asked
    assert {} == opened().function_ids([])
