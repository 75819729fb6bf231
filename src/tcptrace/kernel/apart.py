"""Gives up rights for good: another user's ids, few or no capabilities, few system calls.

What has been opened stays open. `Person` is who the tracing process and its helpers become.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from tcptrace.kernel import child, landlock, seccomp
from tcptrace.kernel.privileges import permitted_capabilities
from tcptrace.kernel.syscalls import capset, die_with_parent, prctl

NOBODY_S_NAME = "nobody"
NOBODY, NOGROUP = 65534, 65534
"""As the kernel has them, where there is no such name."""
# include/uapi/linux/prctl.h
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAPBSET_DROP = 4, 8, 24
_PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4
_MOST_CAPABILITIES = 64
_JEMALLOC = "JE_ARROW_MALLOC_CONF"


class Person(NamedTuple):
    """Somebody with few rights."""

    uid: int
    gid: int
    name: str


ROOT = Person(0, 0, "root")
_helpers: Person | None = None
"""Whom helpers become; None where all keep their rights."""


def set_person(who: Person | None) -> None:
    """Say whom helpers become that are started from now on; None for those that keep all rights."""
    global _helpers  # noqa: PLW0603 - it holds for all of this process
    _helpers = who


def person_for(environ: Mapping[str, str]) -> Person:
    """Return who is to trace: the user behind sudo, else nobody; whoever is not root stays so."""
    if os.geteuid() != 0:
        return Person(os.geteuid(), os.getegid(), _name_of(os.geteuid()))
    behind = environ.get("SUDO_UID", "")
    with contextlib.suppress(KeyError, ValueError, OverflowError):
        uid = int(behind) if behind.isdecimal() else 0
        if uid:
            user = pwd.getpwuid(uid)
            return Person(user.pw_uid, user.pw_gid, user.pw_name)
    with contextlib.suppress(KeyError):
        user = pwd.getpwnam(NOBODY_S_NAME)
        return Person(user.pw_uid, user.pw_gid, user.pw_name)
    return Person(NOBODY, NOGROUP, NOBODY_S_NAME)


def person_of(directory: str, who: Person) -> Person | None:
    """Return who can make files in a directory: `who`, else its owner, else root, else None.

    Only root can become another. A root that is confined still owns what is root's, and needs no
    capability for it.
    """
    if os.geteuid() != 0:
        return who
    owner = os.stat(directory)  # noqa: PTH116 - as all of this module
    others = Person(owner.st_uid, owner.st_gid, _name_of(owner.st_uid))
    return next((some for some in (who, others, ROOT) if _can_write(directory, some)), None)


def _can_write(directory: str, who: Person) -> bool:
    """Tell by their modes whether somebody can come to a directory, and make files there."""
    place = os.path.realpath(directory)
    may = _may(place, who, 0o3)
    while may and place != "/":
        place = os.path.dirname(place)  # noqa: PTH120 - as above
        may = _may(place, who, 0o1)
    return may


def _may(place: str, who: Person, bits: int) -> bool:
    found = os.stat(place)  # noqa: PTH116 - as above
    shift = 6 if found.st_uid == who.uid else 3 if found.st_gid == who.gid else 0
    return found.st_mode >> shift & bits == bits


def give(descriptor: int) -> None:
    """Give a file that was made just now to the user behind sudo, if that is who traces."""
    if _helpers and os.geteuid() == 0 and _helpers.name != NOBODY_S_NAME:
        os.fchown(descriptor, _helpers.uid, _helpers.gid)


def give_directory(path: str) -> None:
    """Give a directory that was made just now to the user behind sudo, if that is who traces."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        give(descriptor)
    finally:
        os.close(descriptor)


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def become(who: Person, rights: Iterable[int] = ()) -> str:
    """Be somebody for good, with those capabilities that are there and wanted.

    Return what could not be had: in a container, root may not have the right to become another.
    """
    kept = permitted_capabilities() & sum(1 << right for right in rights)
    _empty_the_bounding_set()
    refused = ""
    try:
        prctl(_PR_SET_KEEPCAPS, 1)
        _change_ids(who)
    except OSError as error:
        refused = f"this process cannot become {who.name} ({error.strerror}); it stays as it was"
    with contextlib.suppress(OSError):  # before Linux 4.3
        prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    capset(kept, kept)
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    prctl(_PR_SET_DUMPABLE, 0)
    return refused


def pass_on_no_rights() -> None:
    """Let a program that this process starts have no capability for having been started by it."""
    held = permitted_capabilities()
    capset(held, held)  # it passes on none, nor does what is ambient outlive that


def _empty_the_bounding_set() -> None:
    """Let no program that this process might start get capabilities by its file."""
    for number in range(_MOST_CAPABILITIES):
        try:
            prctl(_PR_CAPBSET_DROP, number)
        except OSError:
            return  # the kernel has no more of them, or this process not the right


def _change_ids(who: Person) -> None:
    """Change all ids; the kernel lets those for files follow. Raises OSError.

    A root that stays so has no other group either: its own may be those of disks.
    """
    if {who.uid} != {*os.getresuid()} or who.uid == 0:
        os.setgroups([])
        os.setresgid(who.gid, who.gid, who.gid)
        os.setresuid(who.uid, who.uid, who.uid)


def outlook(environ: Mapping[str, str]) -> str:
    """Return who would trace, for people, without becoming anybody."""
    who = person_for(environ)
    version = landlock.version()
    limits = Confined(version, seccomp=seccomp.is_there())
    return f"{who.name} ({who.uid}), without capabilities, {limits}"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let no library that is loaded meanwhile begin a thread: it would keep some of the rights.

    Arrow's jemalloc does so as it is loaded, to give back memory.
    """
    before = os.environ.get(_JEMALLOC)
    os.environ[_JEMALLOC] = "background_thread:false"
    try:
        yield
    finally:
        del os.environ[_JEMALLOC]
        if before is not None:
            os.environ[_JEMALLOC] = before


class Confined(NamedTuple):
    """What holds for this process now."""

    landlock: int
    """The version of Landlock, 0 where the kernel has none."""
    seccomp: bool
    refused: str = ""
    """What could not be given up."""

    def __str__(self) -> str:
        """Return it for people."""
        landlock_ = f"Landlock {self.landlock}" if self.landlock else "no Landlock in this kernel"
        return f"{landlock_}, {'seccomp' if self.seccomp else 'no seccomp on this machine'}"


def confine(who: Person, processes: Collection[int] = (), writes: Collection[str] = ()) -> Confined:
    """Leave this process, which traces, no right but to read and write what is open.

    Args:
        who: whom it becomes.
        processes: those that it may send signals to, beside itself and `child.alive`.
        writes: directories in which it may make and remove files.

    """
    own = {os.getpid(), *child.alive(), *processes}
    prctl(_PR_SET_NO_NEW_PRIVS, 1)
    landlock.restrict([*_code(), *(f"/proc/{pid}" for pid in own)], writes)
    refused = become(who)
    rules = [*seccomp.base(), *seccomp.signals(own)]
    rules += seccomp.files() if writes else seccomp.reads_only()
    return Confined(landlock.version(), seccomp.install(rules), refused)


def _code() -> set[str]:
    """Return the directories that modules came from.

    Not Python's path: the working directory can be on it, and that be the root of all.
    """
    modules = [module for name, module in sys.modules.items() if "." not in name]
    packages = [place for module in modules for place in getattr(module, "__path__", ())]
    files = [str(getattr(module, "__file__", "")) for module in modules]
    alone = [file for file in files if not file.endswith("/__init__.py")]
    return {os.path.dirname(at) for at in (*packages, *alone) if at.startswith("/")}  # noqa: PTH120


def confine_helper(
    rights: Collection[int],
    calls: Iterable[seccomp.Rule],
    files: Collection[int],
    *,
    writes: Collection[str] | None = None,
    outlives: bool = False,
) -> None:
    """Leave this process, a child that helps the one that traces, a few rights.

    Args:
        rights: capabilities that it keeps, where it has them.
        calls: system calls beside those of every process.
        files: descriptors that stay open; the standard streams lead nowhere.
        writes: directories in which it may make, write and remove files, by Landlock. None for one
            that looks into other processes, which Landlock does not let it.
        outlives: whether it sees its parent's end itself, for it has something to do then.

    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    close_others({0, 1, 2, *files})
    if _helpers is None:
        return
    parent = os.getppid()
    if writes is not None:
        prctl(_PR_SET_NO_NEW_PRIVS, 1)
        landlock.restrict(["/"], writes)
    become(_helpers, rights)
    if not outlives:
        die_with_parent(parent)  # again: the kernel forgets it where ids change
    seccomp.install([*seccomp.base(), *calls])


def given() -> set[int]:
    """Return the descriptors that this process was started with, beside the standard streams.

    Those are inheritable, which what Python opens is not: it is to be asked before others open any.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - of names alone
        with contextlib.suppress(OSError):  # that of the list itself
            if os.get_inheritable(int(name)):
                found.add(int(name))
    return found - {0, 1, 2}


def close_others(kept: Collection[int]) -> None:
    """Close all descriptors but some."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - of names alone
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # that of the list itself
                os.close(int(name))
