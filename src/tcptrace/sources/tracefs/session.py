"""The backend without BPF: probes in tracefs, read from a ring buffer of our own there.

The kernel filters by expressions over what the probes fetch, and by process through the instance's
own list of thread ids. Its events have thread ids only: which process a thread belongs to is known
from /proc at the start, and from then on from the event task:task_newtask in the same buffer.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from math import inf
from pathlib import Path
from typing import Any

from tcptrace.errors import HungError, RefusedError, ShortageError, TcptraceError
from tcptrace.kernel import btf, clock, in_child, tracefs
from tcptrace.kernel.fetch import fetch_arguments, zeros
from tcptrace.kernel.in_child import enter_test_network
from tcptrace.kernel.keeper import Holdings
from tcptrace.kernel.processes import is_in_initial, parent_of, threads_of
from tcptrace.kernel.shortage import check_shortage
from tcptrace.kernel.trace_buffer import Field, Record, parse_fields, parse_id
from tcptrace.model.events import Event, decode_text
from tcptrace.model.filters import Filters
from tcptrace.model.losses import Losses
from tcptrace.probes.probe import FTRACE
from tcptrace.probes.trace_points import Sample, TraceEvent, TraceVariant
from tcptrace.sources.bpf.choose import no_backend
from tcptrace.sources.live import LiveSource
from tcptrace.sources.plan import Plan
from tcptrace.sources.rest import Rest

NEW_TASK = "task/task_newtask"
# include/uapi/linux/sched.h. Workers of io_uring are made without a word to the list of threads
# (create_io_thread in kernel/fork.c); they are known by CLONE_IO.
CLONE_THREAD, CLONE_IO = 0x10000, 0x80000000
PAGE = mmap.PAGESIZE
KTHREADD = 2  # makes all kernel threads
SETTLE_NS = 40_000_000
"""After so long, what a CPU has begun to write is there."""
TASK_FILTERS = frozenset({"pid", "comm", "uid"})
MOST_PIDS = 4096
LEAST_BUFFER_KB = 64


class Layout:
    """How the fields of one event are read."""

    def __init__(self, name: str, description: str) -> None:
        """Read the event's format file."""
        self.name = name
        self.id = parse_id(description)
        parts: dict[str, list[Field]] = {}
        for field_name, field in parse_fields(description).items():
            whole, _, number = field_name.rpartition("_")
            parts.setdefault(whole if number.isdigit() else field_name, []).append(field)
        form, at = "=", 0
        for fields in parts.values():
            offset, size = fields[0].offset, sum(field.size for field in fields)
            form += f"{offset - at}x{fields[0].code if len(fields) == 1 else f'{size}s'}"
            at = offset + size
        self._names = list(parts)
        self._struct = struct.Struct(form)

    def fields(self, data: bytes) -> dict[str, Any]:
        """Return the values in a record of this event; of parts and arrays, their bytes."""
        values = dict(zip(self._names, self._struct.unpack_from(data), strict=True))
        comm = values.get("comm")
        if isinstance(comm, int):  # __data_loc: the string's length and offset
            size, offset = divmod(comm, 1 << 16)
            values["comm"] = decode_text(data[offset : offset + size])
        return values


class Threads:
    """Which process each thread belongs to: its thread group, in the initial PID namespace."""

    def __init__(self, asked: Collection[int] = ()) -> None:
        self._groups: dict[int, int] = {}
        """Threads that are not the first of their process."""
        self._asked = frozenset(asked)
        self.reused: set[int] = set()
        """Ids of processes that were asked for and that others have now."""
        self._kernel = {KTHREADD}

    def scan(self) -> None:
        """Read those that are there; others' births have to be recorded before."""
        for process in Path("/proc").glob("[0-9]*"):
            pid = int(process.name)
            self._groups.update(dict.fromkeys(threads_of(pid), pid))
            if parent_of(pid) == KTHREADD:
                self._kernel.add(pid)

    def born(self, creator: int, tid: int, *, is_thread: bool) -> None:
        """Take note of a new task."""
        self._groups.pop(tid, None)
        self._kernel.discard(tid)
        if tid in self._asked:
            self.reused.add(tid)
        if is_thread:
            self._groups[tid] = self.group(creator)
        elif creator == KTHREADD:
            self._kernel.add(tid)

    def is_kernel(self, tid: int) -> bool:
        """Tell whether a thread is one of the kernel's."""
        return tid in self._kernel

    def group(self, tid: int) -> int:
        """Return a thread's process."""
        return self._groups.get(tid, tid)


class FtraceSession(LiveSource):
    """Probes in tracefs, with what is read from them."""

    def __init__(self, plan: Plan) -> None:
        """Attach.

        Raises:
            TcptraceError: this kernel does not permit it.
            RefusedError: the plan cannot be honoured.

        """
        check(plan)
        super().__init__(plan, FTRACE)
        self._plan = plan
        self._take_filters(plan.filters)
        self._follows_pids = False
        self._armed_ns = 0
        self.notes = []
        for variant in plan.probe.trace_variants:
            try:
                self._attach(variant)
            except (HungError, ShortageError):
                raise
            except TcptraceError as error:
                self.notes.append(f"ftrace refused: {variant.name}: {error}")
                continue
            except OSError as error:
                check_shortage(error, "cannot define the probes")
                self.notes.append(f"ftrace refused: {variant.name}: {error.strerror}")
                continue
            return
        raise TcptraceError(no_backend(plan), details="\n".join(self.notes))

    def _take_filters(self, filters: Filters) -> None:
        """Prepare to compare here what the kernel cannot."""
        asked = filters.values
        self._threads = Threads(asked["pid"].began if "pid" in asked else ())
        self._by_task = {name: filters.test(name) for name in TASK_FILTERS & asked.keys()}
        self._of_ports = filters.test("port")

    def _attach(self, variant: TraceVariant) -> None:
        cpus = os.cpu_count() or 1
        buffer_kb = max(LEAST_BUFFER_KB, self._plan.buffer_mb * 1024 // cpus)
        self._instance = tracefs.Instance(buffer_kb)
        self._in_softirq, self._ports = variant.in_softirq, variant.ports
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(self._instance.close)
            points = list(self._define(variant))
            self._instance.open()
            events = [event for event in variant.events if event.name in self._instance.probes]
            names = [*(event.name for event in events), NEW_TASK]
            layouts = [Layout(name, self._instance.format(name)) for name in names]
            self._layouts = {layout.id: layout for layout in layouts}
            self._follow = variant.follow(self._wants, self._wants_ports)
            self._test(variant, events)
            self._instance.enable(NEW_TASK)
            self._threads.scan()
            if not variant.in_softirq:
                self._follow_pids()
            for event in events:
                self._instance.enable(event.name, condition(self._plan, variant, event))
            self._armed_ns = clock.now_ns()
            on_failure.pop_all()
        self.rest = Rest(self._instance.pipes)
        self.notes += [f"{self._plan.probe.name}: {FTRACE}", *(f"  {point}" for point in points)]

    def _define(self, variant: TraceVariant) -> Iterator[str]:
        """Define the events of `variant`; yield where they are."""
        types = btf.running_kernel()
        for event in variant.events:
            for point in event.points:
                if not types.id_of(point.function, btf.KIND_FUNC):
                    if point.optional:
                        continue
                    raise TcptraceError("this kernel has no such function")
                arguments = [
                    argument
                    for name, expression in point.fetch.items()
                    for argument in _arguments(
                        types, point.function, name, expression, variant.may_lack.get(name)
                    )
                ]
                kind = "r4096" if point.at_return else "p"
                self._instance.define(event.name, kind, point.function, arguments)
                yield f"{'kretprobe' if point.at_return else 'kprobe'}:{point.function}"

    def _test(self, variant: TraceVariant, events: Iterable[TraceEvent]) -> None:
        """Raise TcptraceError where the hooks do not see the event that the probe's test makes.

        A compiler may have inlined a function at the calls that matter; its hook is then silent.
        """
        self_test = self._plan.probe.self_test
        if not self_test:
            return

        def test() -> int:
            try:
                inode = enter_test_network()
                self_test()
            except OSError as error:
                raise TcptraceError(str(error)) from None
            return inode

        for event in events:
            self._instance.enable(event.name, event.condition)
        try:
            inode = in_child.ask(test, "tries the probes")
        except TcptraceError as error:
            self.notes.append(f"whether hooks fire was not tried: {error}")
            return
        follow = variant.follow(lambda _: True, lambda _: True)
        samples = filter(None, map(self._sample, self._instance.records()))
        made = list(chain.from_iterable(map(follow, samples)))
        if not any(event.netns == inode for event in made):
            raise TcptraceError("stays silent")

    def _follow_pids(self) -> None:
        """Have the kernel record the asked processes alone, and the threads that they will make."""
        ranges = self._plan.filters.values.get("pid")
        if not ranges or not ranges.keep:
            return
        if sum(high - low + 1 for low, high in ranges.keep) > MOST_PIDS:
            return  # told apart here
        self._follows_pids = True
        pids = {pid for low, high in ranges.keep for pid in range(low, high + 1)}
        self._instance.write("options/event-fork", "1")
        known: set[int] = set()
        while new := {*pids, *(tid for pid in pids for tid in threads_of(pid))} - known:
            self._instance.write("set_event_pid", " ".join(map(str, new)))
            known |= new

    def holdings(self) -> Holdings:
        """Return what was made in tracefs."""
        return Holdings(instance=self._instance)

    def close(self) -> None:
        """Remove what was made in tracefs, or let the keeper."""
        if self.rest:
            self.rest.close()
        if self._keeper:
            self._instance.close_buffer()
            self._keeper.close()
        else:
            self._instance.close()

    def _lost(self) -> Losses:
        keeper = self._keeper or self._instance
        return Losses(self._instance.dropped(), keeper.missed())

    def _read(self, before_ns: int, *, last: bool) -> tuple[Iterator[Event], int]:
        if last:
            (self._keeper or self._instance).stop()
        else:
            before_ns = clock.now_ns() - SETTLE_NS
        records = self._instance.records(inf if last else before_ns, most=tracefs.MOST_PAGES)
        return chain.from_iterable(map(self._events, records)), before_ns

    def _taken(self) -> int:
        return self._instance.taken

    def _holds_back(self) -> bool:
        return self._instance.holds_back

    def _has_more(self) -> bool:
        return self._instance.has_more

    def _waiting(self) -> int:
        return self._instance.waiting()

    def _events(self, record: Record) -> Iterable[Event]:
        """Return the events that a record completes and that are wanted."""
        sample = self._sample(record)
        if not sample or sample.ts_ns < self._armed_ns:
            return ()
        return self._follow(sample) if self._in_softirq or self._wants(sample) else ()

    def _wants(self, sample: Sample) -> bool:
        """Tell whether the filters by task keep a sample, whatever the kernel has compared."""
        pid = 0 if sample.pid in self._threads.reused else sample.pid
        values = {"pid": pid, **sample.fields}
        return all(wants(values[name]) for name, wants in self._by_task.items() if name in values)

    def _wants_ports(self, sample: Sample) -> bool:
        """Tell whether the filter by port keeps a sample, where the kernel cannot."""
        ports = (int.from_bytes(sample.fields[name], "big") for name in self._ports)
        return self._of_ports(*ports)

    def _sample(self, record: Record) -> Sample | None:
        """Return what a record says, unless it is of a new task."""
        layout = self._layouts.get(int.from_bytes(record.data[:2], sys.byteorder))
        if not layout:
            return None  # an event that somebody else turned on in our instance
        fields = layout.fields(record.data)
        tid = fields["common_pid"]
        if layout.name == NEW_TASK:
            self._born(tid, fields["pid"], fields["clone_flags"])
            return None
        pid, is_kernel = self._threads.group(tid), self._threads.is_kernel(tid)
        return Sample(layout.name, record.ts_ns, pid, tid, fields, is_kernel)

    def _born(self, creator: int, tid: int, flags: int) -> None:
        self._threads.born(creator, tid, is_thread=bool(flags & CLONE_THREAD))
        if self._follows_pids and flags & CLONE_IO:
            (self._keeper or self._instance).follow(tid)


def _arguments(
    types: btf.Btf, function: str, name: str, expression: str, words: int | None
) -> list[str]:
    """Return what fetches a value; where the kernel may lack it, and does, of so many words."""
    try:
        return fetch_arguments(types, function, name, expression)
    except TcptraceError:
        if words is None:
            raise
        return zeros(name, words)


def condition(plan: Plan, variant: TraceVariant, event: TraceEvent) -> str:
    """Return the filter expression of an event: its own, and of what the user asked."""
    asked = plan.filters if event.is_filtered else Filters()
    if variant.in_softirq:
        asked = asked.without(TASK_FILTERS)
    ports = asked.only({"port"}).expression(variant.ports)
    if ports and event.any_port:
        ports = f"{event.any_port} || {ports}"
    rest = asked.without({"port"}).expression(variant.ports)
    conditions = (event.condition, rest, ports)
    return " && ".join(f"({part})" for part in conditions if part)


def check(plan: Plan) -> None:
    """Raise where tracefs cannot do what is planned, on any kernel.

    Raises:
        RefusedError: an option that it cannot honour was given, or too many values.
        TcptraceError: this process cannot tell what tracefs's process ids mean.

    """
    if plan.not_in_ftrace:
        raise RefusedError(f"the backend ftrace cannot honour {', '.join(plan.not_in_ftrace)}")
    variants = plan.probe.trace_variants
    if any(
        len(condition(plan, variant, event)) >= PAGE
        for variant in variants
        for event in variant.events
    ):
        raise RefusedError(
            "the backend ftrace cannot honour so many filters: tracefs takes a page of text.\n"
            "Give ranges (8000-8100), or fewer values"
        )
    if not is_in_initial("pid"):
        raise TcptraceError(
            "the backend ftrace works in the initial PID namespace alone: the kernel's buffer has "
            "process ids of that.\nRun it on the host"
        )
