"""The store of programs: who can have written what is read, and what becomes of damage."""

from __future__ import annotations

import os
import stat
import threading
from _blake2 import blake2b
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tcptrace.sources.bpf import store
from tcptrace.sources.bpf.store import DamagedError, Store, StoreError, default_place, pack, unpack

NAME, OTHER = "0" * 32, "f" * 32
FIELDS = st.lists(st.binary(max_size=100), max_size=8)
IS_ROOT = os.geteuid() == 0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory for a store, in one of this user's own."""
    tmp_path.chmod(0o700)
    return tmp_path / "cache"


@given(FIELDS)
def test_what_was_packed_is_unpacked(fields: list[bytes]) -> None:
    """Fields come back as they were."""
    assert fields == unpack(pack(fields))


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused(data: bytes) -> None:
    """Bytes of any other origin are refused, by one error."""
    with pytest.raises(DamagedError):
        unpack(data)


@given(FIELDS, st.data())
def test_damage_is_found(fields: list[bytes], data: st.DataObject) -> None:
    """A file that is cut off, or of which one bit has changed, is refused."""
    whole = pack(fields)
    with pytest.raises(DamagedError):
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(DamagedError):
        unpack(bytes(changed))


def test_a_newer_format_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a later tcptrace wrote is not read, though its checksum is right."""
    monkeypatch.setattr(store, "FORMAT", 2)
    newer = pack([b"a"])
    monkeypatch.undo()
    with pytest.raises(DamagedError, match="its format is 2, this tcptrace has 1"):
        unpack(newer)


def test_a_field_longer_than_the_file_is_refused() -> None:
    """A length that is wrong is found, though the checksum is right."""
    whole = store.MAGIC + b"\1\0\0\0" + b"\xff\xff\xff\x7fab"
    checked = whole + blake2b(whole, digest_size=16).digest()
    with pytest.raises(DamagedError, match="longer than the file"):
        unpack(checked)


def test_what_was_written_is_read(place: Path) -> None:
    """A file is kept under its name, readable for this user alone, and replaced by the next."""
    store = Store(str(place), make=True)
    assert store.read(NAME) is None
    store.write(NAME, b"first")
    store.write(NAME, b"second")
    assert Store(str(place)).read(NAME) == b"second"
    assert [NAME] == [entry.name for entry in store.entries()]
    assert 0o600 == stat.S_IMODE((place / NAME).stat().st_mode)
    assert 0o700 == stat.S_IMODE(place.stat().st_mode)


def test_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory that systemd gives comes first, then root's, then the user's."""
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/a:/var/cache/b")
    assert default_place() == "/var/cache/a"
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_place() == "/var/cache/tcptrace"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/user")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_place() == "/home/user/.cache/tcptrace"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert default_place() == "/caches/tcptrace"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_a_directory_that_others_can_write_to_is_refused(place: Path, mode: int) -> None:
    """Whoever can write to the directory could have put the file there."""
    place.mkdir()
    place.chmod(mode)
    with pytest.raises(StoreError, match="others can write"):
        Store(str(place))


def test_a_directory_in_one_that_others_can_write_to_is_refused(place: Path) -> None:
    """Whoever can write to a directory on the way could have put another one there."""
    Store(str(place / "deep"), make=True)
    place.chmod(0o777)
    with pytest.raises(StoreError, match="others can write"):
        Store(str(place / "deep"))
    place.chmod(0o1777)  # as /tmp: others cannot touch what is not theirs
    Store(str(place / "deep"))


@pytest.mark.skipif(not IS_ROOT, reason="only root can give files away")
def test_what_belongs_to_others_is_refused(place: Path) -> None:
    """What another user owns is not used, be it a file or a directory on the way to it."""
    inner = place / "deep"
    store = Store(str(inner), make=True)
    store.write(NAME, b"code")
    os.chown(inner / NAME, 1000, 1000)
    with pytest.raises(DamagedError, match="others could have written it"):
        store.read(NAME)
    for path in (inner, place):
        os.chown(path, 1000, 1000)
        with pytest.raises(StoreError, match="others can write"):
            Store(str(inner))
        os.chown(path, 0, 0)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_to_is_refused(place: Path, mode: int) -> None:
    """Whoever can write to a file could have changed it."""
    store = Store(str(place), make=True)
    store.write(NAME, b"code")
    (place / NAME).chmod(mode)
    with pytest.raises(DamagedError, match="others could have written it"):
        store.read(NAME)


def test_links_are_not_followed(place: Path, tmp_path: Path) -> None:
    """Neither a link in place of a file nor one on the way is followed."""
    real = tmp_path / "real"
    store = Store(str(real), make=True)
    store.write(OTHER, b"code")
    (real / NAME).symlink_to(real / OTHER)
    with pytest.raises(OSError, match="symbolic links"):
        store.read(NAME)
    place.symlink_to(real)
    with pytest.raises(StoreError):
        Store(str(place), make=True)
    with pytest.raises(StoreError, match="plain path"):
        Store(f"{real}/../real")


def make_pipe(path: Path) -> None:
    """Make a pipe that nobody writes to."""
    os.mkfifo(path)


def make_large(path: Path) -> None:
    """Make a file of which nothing is read."""
    with path.open("wb") as file:
        file.truncate(store.FILE_BYTES + 1)


@pytest.mark.parametrize("make", [make_pipe, make_large, Path.mkdir])
def test_what_is_no_file_of_programs_is_refused(place: Path, make: Callable[[Path], None]) -> None:
    """Nothing hangs, or fills the memory, for what has a file's name."""
    store = Store(str(place), make=True)
    make(place / NAME)
    with pytest.raises(DamagedError, match="no file of programs"):
        store.read(NAME)


def test_a_writer_that_was_killed_does_no_harm(place: Path) -> None:
    """What it left is not read, and goes after a while; what is being written stays."""
    opened = Store(str(place), make=True)
    left, fresh = (place / f"{NAME}.{number}" for number in (1, 2))
    for path in (left, fresh):
        path.write_bytes(b"half")
    long_ago = left.stat().st_mtime - store.ABANDONED_S - 60
    os.utime(left, (long_ago, long_ago))
    assert opened.read(NAME) is None
    opened.write(OTHER, b"code")
    assert (False, True) == (left.exists(), fresh.exists())


def test_writers_at_once_do_no_harm(place: Path) -> None:
    """Whatever many write under one name, a reader finds the whole of one."""
    contents = [pack([bytes([number]) * 50_000]) for number in range(4)]

    def write(data: bytes) -> None:
        own = Store(str(place), make=True)
        for _ in range(20):
            own.write(NAME, data)

    threads = [threading.Thread(target=write, args=(data,)) for data in contents]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        data = Store(str(place), make=True).read(NAME)
        if data is not None:
            seen.add(data)
    for thread in threads:
        thread.join()
    assert seen <= {*contents}
    assert [NAME] == [path.name for path in place.iterdir()]


@pytest.mark.parametrize(("files", "most"), [(3, 1 << 20), (100, 3 * 100)])
def test_old_files_go(place: Path, monkeypatch: pytest.MonkeyPatch, files: int, most: int) -> None:
    """There are never more files, or bytes, than allowed; what was used longest ago goes."""
    monkeypatch.setattr(store, "MOST_FILES", files)
    monkeypatch.setattr(store, "MOST_BYTES", most)
    opened = Store(str(place), make=True)
    names = [f"{number:032x}" for number in range(5)]
    for age, name in enumerate(names):
        opened.write(name, bytes(100))
        os.utime(place / name, (1_000_000 + age, 1_000_000 + age))
        if name != names[0]:
            opened.read(names[0])  # it is used all the time
    (place / "foreign").write_bytes(b"not ours")
    opened.write(OTHER, bytes(100))
    assert {names[0], names[4], OTHER} == {entry.name for entry in opened.entries()}
    assert (place / "foreign").exists()


@pytest.mark.skipif(IS_ROOT, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_to_is_said(place: Path) -> None:
    """What cannot be kept is an OSError, and nothing is left behind."""
    store = Store(str(place), make=True)
    place.chmod(0o500)
    with pytest.raises(PermissionError):
        store.write(NAME, b"code")


def test_a_full_disk_is_said(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no room, that is an OSError, and nothing is left behind."""
    store = Store(str(place), make=True)

    def fail(*_arguments: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="No space left"):
        store.write(NAME, b"code")
    assert [] == [*place.iterdir()]
