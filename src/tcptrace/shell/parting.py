"""How the process that traces gives up its rights, when the probes are attached."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence

from tcptrace.errors import TcptraceError
from tcptrace.kernel import apart, clock, landlock, lookups, privileges
from tcptrace.kernel.apart import Confined, Person
from tcptrace.kernel.keeper import Keeper
from tcptrace.kernel.shortage import FORKING, check_shortage
from tcptrace.model.batch import Batch
from tcptrace.shell.follow import Child
from tcptrace.shell.say import say
from tcptrace.sources.live import LiveSource


class Parting:
    """Gives up this process's rights, when the first events are asked for."""

    def __init__(
        self,
        source: LiveSource,
        who: Person,
        command: Child | None,
        place: str | None,
        given: Collection[int],
        *,
        verbose: bool,
    ) -> None:
        """Prepare.

        Args:
            source: what is attached; when the rights are given up, it asks a keeper.
            who: the user that this process becomes.
            command: the command that is followed.
            place: where the run is kept; files are made there if it is a directory.
            given: the descriptors that this process was started with, which are closed.
            verbose: whether to say which user traces, and with which rights.

        """
        self._command = command
        self._place = place
        self._given = given
        self._writes: Collection[str] = ()
        self._source = source
        self._who = who
        self._verbose = verbose
        self._prepare: Sequence[Callable[[], None]] = ()

    def settle(self, prepare: Sequence[Callable[[], None]] = ()) -> None:
        """Settle which user traces, now that all output is open. Raises TcptraceError.

        `prepare` is called while there are still rights, but after the fork of the keeper, which
        stays small for that.
        """
        self._prepare = prepare
        if not self._place or not os.path.isdir(self._place):  # noqa: PTH112 - it is text
            return
        who = apart.person_of(self._place, self._who)
        if who is None:
            raise TcptraceError(
                f"{self._place} can be written to by no one user alone, without capabilities.\n"
                f"Give a directory that {self._who.name} can come to, or --keep-privileges"
            )
        if self._verbose and who.uid == 0 and not landlock.version():
            say(
                f"{self._place} is root's, and this kernel has no Landlock (Linux 5.13): what "
                "traces can write to all that root owns.\n"
                "Give a directory of another user, where that user can come to it"
            )
        self._writes, self._who = (self._place,), who
        apart.set_person(who)

    def then(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Part with the rights, and yield batches.

        A command's function has started the children that it needs before it asks for the first.
        """
        keeper = self._part()
        is_told = False
        for batch in batches:
            yield batch
            if keeper.problem and not is_told:
                is_told = True
                say(
                    f"the keeper {keeper.problem}: from now on, names of cgroups, containers and "
                    "users are not known, and what the kernel skips is not counted"
                )

    def _part(self) -> Keeper:
        clock.now_ns()  # what it reads is not to be had later, nor is the time zone
        time.localtime()
        import unicodedata  # noqa: F401, PLC0415 - the first wide letter that is shown needs it

        if self._verbose:
            import traceback  # noqa: F401, PLC0415 - slow; it could not be read later

            for what in privileges.missed():
                say(what)
        keeper = self._keeper()
        self._source.part(keeper)
        lookups.ask(keeper)
        for prepare in self._prepare:
            prepare()
        command = self._command
        processes = [command.pid] if command else []
        for descriptor in self._given:
            with contextlib.suppress(OSError):  # somebody has closed it
                os.close(descriptor)
        confined = apart.confine(self._who, processes, self._writes)
        if self._verbose:
            say(description(self._who, confined))
            say(f"its keeper, process {keeper.pid}, has {privileges.names_of(keeper.rights)}")
        return keeper

    def _keeper(self) -> Keeper:
        held = self._source.holdings()
        command = self._command
        is_others = command is not None and command.uid != self._who.uid
        if command and is_others:
            held = held._replace(command=command.descriptor)
        try:
            keeper = Keeper(held)
        except OSError as error:
            check_shortage(error, "cannot start a process", FORKING)
            raise
        if command and is_others:
            command.pass_on_by(keeper.signal)
        return keeper


def description(who: Person, confined: Confined) -> str:
    """Return who traces, for people."""
    if confined.refused:
        return f"{confined.refused}; it traces without capabilities, {confined}"
    return f"{who.name} ({who.uid}) traces, without capabilities, {confined}"
