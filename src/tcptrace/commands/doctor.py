"""``tcptrace doctor``."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import click

import tcptrace.commands
from tcptrace.commands.prepare import tracing_commands
from tcptrace.errors import TcptraceError
from tcptrace.kernel import facts, in_child
from tcptrace.kernel.facts import NOT_ASKED, Fact
from tcptrace.kernel.privileges import may_trace
from tcptrace.shell.command import TraceCommand
from tcptrace.shell.say import say, show_progress
from tcptrace.shell.stop import Stop
from tcptrace.sinks.color import CHOICES, palette
from tcptrace.sinks.report import Line, write_report
from tcptrace.sources.attach import Attaching
from tcptrace.sources.bpf import find_bcc
from tcptrace.sources.bpf.prepare import Inventory, inventory
from tcptrace.sources.live import LiveSource

BUILT_IN = Path(tcptrace.commands.__path__[0]).parent
REFUSED = " refused: "
MOST_AT_ONCE = 4
"""Commands that are tried at the same time; the child of each may need 140 MB."""
FROM = {True: ", to be compiled first", False: ", from kept programs", None: ""}


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """What became of attaching a subcommand's probe as ``--backend auto`` does."""

    name: str
    built_in: bool
    backend: str | None
    refused: tuple[str, ...]
    """Why better backends were refused."""
    error: str = ""
    """Why there is no backend."""
    compiles: bool | None = None
    """Whether a start without options compiles; None where that is not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """All that the doctor found."""

    kernel: tuple[Fact, ...]
    hooks: tuple[Fact, ...]
    software: tuple[Fact, ...]
    programs: Inventory
    trials: tuple[Trial, ...]

    @property
    def ok(self) -> bool:
        """Whether everything built in can run."""
        return all(trial.backend for trial in self.trials if trial.built_in)

    @property
    def advice(self) -> list[str]:
        """What to do, if not everything built in can run."""
        if self.ok:
            return []
        known = [fact.advice for fact in (*self.kernel, *self.software) if fact.advice]
        return list(dict.fromkeys(known)) or [trial.error for trial in self.trials if trial.error]


def _asked(key: str, question: Callable[[], Iterable[Fact]]) -> list[Fact]:
    try:
        answers = in_child.ask(
            lambda: [dataclasses.asdict(fact) for fact in question()], "examines the kernel"
        )
        return [Fact(**answer) for answer in answers]
    except TcptraceError as error:
        return [Fact(key, str(error), good=False)]


def _software() -> list[Fact]:
    """Ask a child that imports bcc: LLVM may crash it."""
    try:
        bcc = in_child.ask(find_bcc.describe, "imports bcc")
    except TcptraceError as error:
        found, _, advice = str(error).partition("\n")
        return [Fact("bcc", found.rstrip("."), good=False, advice=advice)]
    return [
        Fact("bcc", f"{bcc['version']} in {bcc['place']}", good=True),
        Fact("llvm", bcc["llvm"], good=True),
    ]


class _Attempt:
    """The probe of a command, attached for a moment, as a run of it would attach it."""

    def __init__(self, name: str, command: TraceCommand) -> None:
        """Begin; the kernel and a child have work while others are begun."""
        self.name = name
        self._built_in = command.probe.source.is_relative_to(BUILT_IN)
        self._attaching: Attaching | None = None
        self._error = TcptraceError(NOT_ASKED)
        if may_trace():
            try:
                plan = dataclasses.replace(command.plan([]), cache="use")
                self._attaching = Attaching(plan)
            except TcptraceError as error:
                self._error = error

    def result(self, stopped: Callable[[], bool], attached: list[LiveSource]) -> Trial:
        """Wait until it is attached, and note that; or tell why it cannot be."""
        if self._attaching is None:
            return self._failed(self._error)
        try:
            with closing(self._attaching):
                session = self._attaching.session(stopped)
        except TcptraceError as error:
            return self._failed(error)
        if session is None:
            return self._failed(TcptraceError("stopped before it was attached"))
        attached.append(session)
        refusals = _refusals(session.notes)
        return Trial(
            self.name, self._built_in, session.backend, refusals, compiles=session.compiles
        )

    def _failed(self, error: TcptraceError) -> Trial:
        refusals = _refusals(error.details.splitlines())
        return Trial(self.name, self._built_in, None, refusals, str(error))


def _trials(commands: Mapping[str, TraceCommand], stopped: Callable[[], bool]) -> Iterator[Trial]:
    """Yield what becomes of each command; as many are tried at once as there are processors."""
    at_once = min(os.cpu_count() or 1, MOST_AT_ONCE)
    begun: deque[_Attempt] = deque()
    left = iter(commands.items())
    with _closed_together() as attached:
        while True:
            begun.extend(_Attempt(*command) for command in islice(left, at_once - len(begun)))
            if not begun:
                return
            show_progress(f"Trying {begun[0].name} ...")
            yield begun.popleft().result(stopped, attached)


@contextmanager
def _closed_together() -> Iterator[list[LiveSource]]:
    """Yield a list; what is in it at the end is closed at the same time.

    The kernel takes a third of a second to let a command's hooks go. Threads begin only here, when
    no child is to be forked any more.
    """
    attached: list[LiveSource] = []
    try:
        yield attached
    finally:
        with ThreadPoolExecutor(len(attached) or 1) as threads:
            for _ in threads.map(lambda session: session.close(), attached):
                pass


def _refusals(notes: Iterable[str]) -> tuple[str, ...]:
    """Return why backends were refused; what two variants were refused for is told once."""
    return tuple(dict.fromkeys(note for note in notes if REFUSED in note))


def examine(commands: Mapping[str, TraceCommand], stopped: Callable[[], bool]) -> Findings:
    """Ask the kernel, the software and the probes of `commands`."""
    show_progress("Asking the kernel ...")
    kernel, hooks = _asked("kernel", facts.gather), _asked("hooks", facts.gather_hooks)
    show_progress("Looking for bcc ...")
    software, programs = _software(), inventory()
    trials = tuple(_trials(commands, stopped))
    show_progress()
    return Findings(tuple(kernel), tuple(hooks), tuple(software), programs, trials)


def _as_json(findings: Findings) -> str:
    def values(group: Iterable[Fact]) -> dict[str, Any]:
        return {fact.key: {"value": fact.value, "good": fact.good} for fact in group}

    return json.dumps(
        {
            "ok": findings.ok,
            "kernel": values(findings.kernel),
            "hooks": values(findings.hooks),
            "software": values(findings.software),
            "programs": {
                "place": findings.programs.place,
                "files": len(findings.programs.entries),
                "bytes": sum(entry.bytes for entry in findings.programs.entries),
                "oldest": min(
                    (entry.written_s for entry in findings.programs.entries), default=None
                ),
                "newest": max(
                    (entry.written_s for entry in findings.programs.entries), default=None
                ),
                "problem": findings.programs.problem or None,
            },
            "commands": {
                trial.name: {
                    "backend": trial.backend,
                    "refused": trial.refused,
                    "error": trial.error or None,
                    "compiles": trial.compiles,
                }
                for trial in findings.trials
            },
            "advice": findings.advice,
        },
        indent=2,
    )


def _lines(group: Iterable[Fact]) -> list[Line]:
    return [Line(fact.key.replace("_", " "), fact.value, fact.good) for fact in group]


def _program_lines(programs: Inventory) -> Iterable[Line]:
    """Yield where programs are kept, how many and how old."""
    yield Line("place", programs.problem or programs.place, False if programs.problem else None)
    entries = programs.entries
    if not entries:
        yield Line("kept", "none; `tcptrace prepare` compiles ahead", None)
        return
    size_kb = sum(entry.bytes for entry in entries) / 1024
    ages = [_age(entry.written_s) for entry in sorted(entries, key=attrgetter("written_s"))]
    yield Line("kept", f"{len(entries)} files, {size_kb:.0f} KB, {ages[-1]} to {ages[0]} old", None)


def _age(written_s: float) -> str:
    """Return how long ago that was, in one unit."""
    seconds = max(0, int(time.time() - written_s))
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"


def _trial_lines(trials: Iterable[Trial]) -> Iterable[Line]:
    for trial in trials:
        good = bool(trial.backend) if trial.error != NOT_ASKED else None
        found = f"{trial.backend}{FROM[trial.compiles]}" if trial.backend else trial.error
        yield Line(trial.name, found.splitlines()[0], good)
        for refusal in trial.refused:
            yield Line("", refusal, None)


@click.command
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option(
    "--color",
    type=click.Choice(CHOICES),
    default="auto",
    help="Default: on a terminal that has colours, unless NO_COLOR is set.",
)
@click.pass_context
def doctor(context: click.Context, *, as_json: bool, color: str) -> None:
    """Tell how this host can be traced, and how not.

    Says what each command would use, and what to do where one cannot run. Exits with 0 when every
    built-in command can run, else with 1. Run it as root: each hook is tried for a moment, and
    nothing remains.
    """
    stop = Stop()
    stop.take_signals()
    findings = examine(tracing_commands(context), stop.is_asked)
    if stop.is_asked():
        say("stopped before all was asked")
        context.exit(1)
    if as_json:
        click.echo(_as_json(findings))
    else:
        sections = {
            "Kernel": _lines(findings.kernel),
            "Hooks": _lines(findings.hooks),
            "Software": _lines(findings.software),
            "Programs": [*_program_lines(findings.programs)],
            "Commands": [*_trial_lines(findings.trials)],
        }
        if findings.advice:
            sections["What to do"] = [Line("", advice, None) for advice in findings.advice]
        write_report(sections, sys.stdout, palette(color, sys.stdout))
    context.exit(0 if findings.ok else 1)
