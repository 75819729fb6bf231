"""Lines made straight of records' bytes, where nobody needs the rows that they stand for.

Of a line's parts only those are evaluated that depend on what is `FRESH` in each record. The
others, such as who it was, come again and again: their text is made of a row, and remembered by the
bytes that it depends on.
"""

from __future__ import annotations

import dataclasses
import re
import struct
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain, groupby, islice
from typing import Any, Protocol

from tcptrace.model.events import KIND, Decoder, Event, InCgroup, Layout, Row, conversions
from tcptrace.model.generate import function
from tcptrace.model.identity import Identity, Program
from tcptrace.model.lines import Form, Line, Lines, Part, Parts, evaluated, line_of

MOST_REMEMBERED = 4096
MOST_AT_ONCE = 64
"""So many lines are handed over in one piece."""
StraightLine = Callable[[bytes, int, int], str]
"""Makes a line of a record's bytes, what the wall clock is ahead, and `first_ns`."""
Complete = Callable[[bytes], tuple[Event, bool]]
"""Makes a row of a record, as a source does; tells whether it would be the same another time."""

_FIELD = re.compile(r"\brow\.(\w+)")
_ROW = re.compile(r"\brow\b")
_SKIPPED = re.compile(r"^\d*x")
_MAY_LACK = ("laddr", "raddr", "lport", "rport")
_ENDS = (*_MAY_LACK, "family")
_UNKNOWN = "?"
"""Stands for a field that no record has."""


class _Fields:
    """The fields of a record class, fresh or not, and what parts of a line need of them."""

    def __init__(self, layout: Layout) -> None:
        self._record = record = layout.record
        binary = {field.name for field in layout.fields}
        self._fresh = {field.name for field in layout.fields if field.is_fresh} | {"wall_ns"}
        made_late = {field.name for field in dataclasses.fields(record)} - binary - self._fresh
        if hasattr(record, "__post_init__") and not record.derives_steadily:
            made_late &= {"identity", "program"}
        of_parts = {
            name
            for name in (*Identity._fields, *Program._fields)
            if getattr(record, name) is getattr(InCgroup, name)
        }
        self._numbers = {
            field.name
            for field in layout.fields
            if field.is_fresh and not field.convert and field.name not in _MAY_LACK
        }
        self._steady = (binary - self._fresh) | made_late | of_parts | {"type"}

    def suffice(self, parts: Parts) -> bool:
        """Tell whether each part is made of fields of one kind alone, fresh or not."""
        needs = [self._needs(part) for part in parts]
        return all(need <= self._steady or need - {"type"} <= self._fresh for need in needs)

    def runs(self, parts: Parts) -> Iterator[tuple[bool, list[str | Part]]]:
        """Yield parts in pieces of one kind, and whether it is the fresh one.

        What is the same in all lines belongs to what stands before it.
        """
        is_fresh = True

        def kind(part: str | Part) -> bool:
            nonlocal is_fresh
            if isinstance(part, Part):
                is_fresh = self._is_fresh(part)
            return is_fresh

        return ((is_fresh, list(run)) for is_fresh, run in groupby(parts, kind))

    def of_variables(self, part: str | Part) -> Iterator[str | Part]:
        """Yield what makes a part of the variables v_NAME, which stand for a row's fields."""
        if isinstance(part, str):
            yield part
        elif part.before_number is not None and self._needs(part) <= self._numbers:
            yield part.before_number
            yield Part("".join(f"v_{name}" for name in self._needs(part)), part.form)
        else:
            yield _of_variables(part)

    def needed(self, parts: Parts) -> set[str]:
        """Return the fresh fields that parts need; both ends are among them."""
        needs = (self._needs(part) for part in parts)
        return {"ts_ns", *_ENDS}.union(*needs) & self._fresh

    def asked(self, parts: Parts) -> list[str]:
        """Return the fields that functions in fresh parts ask a row for."""
        asking = [part for part in parts if self._is_fresh(part) and _asks_row(part)]
        return sorted(set().union(*map(self._needs, asking)) & self._fresh)

    def _is_fresh(self, part: str | Part) -> bool:
        return not self._needs(part) <= self._steady

    def _needs(self, part: str | Part) -> set[str]:
        """Return the fields that a part needs; if they are not known, one that no record has."""
        if isinstance(part, str):
            return set()
        if part.fields is None:
            return {_UNKNOWN}
        return {name for name in part.fields if hasattr(self._record, name)}


def _of_variables(part: Part) -> Part:
    return part._replace(value=_FIELD.sub(r"v_\1", part.value))


def _asks_row(part: str | Part) -> bool:
    """Tell whether a part needs a row, for a function that is given it."""
    return isinstance(part, Part) and bool(_ROW.search(_of_variables(part).value))


def _taken_apart(layout: Layout, needed: Collection[str]) -> tuple[str, list[str], list[str]]:
    """Return the `struct` format that takes a record apart, and the variables for what it gives.

    Fields that are not fresh are taken as bytes, those beside each other in one piece. The
    variables of these are named once more.
    """
    form, whole, at = "=", "@", 0
    variables: list[str] = []
    keys: list[str] = []
    for is_fresh, fields in groupby(layout.fields, lambda field: field.is_fresh):
        for field in fields:
            whole += field.form
            if field.name in needed:
                own = _SKIPPED.sub("", field.form)
                begin = struct.calcsize(whole) - struct.calcsize("=" + own)
                form += f"{begin - at}x{own}"
                at = struct.calcsize(whole)
                variables.append(f"v_{field.name}")
        end = struct.calcsize(whole)
        form += f"{end - at}{'x' if is_fresh else 's'}"
        if not is_fresh:
            keys.append(f"k{len(keys)}")
            variables.append(keys[-1])
        at = end
    return f"{form}{layout.size - at}x", variables, keys


class _Memory(dict[bytes, tuple[str, ...]]):
    """The texts of what comes again and again, by its bytes."""

    def __init__(self, complete: Complete) -> None:
        super().__init__()
        self.lines: list[Line] = []
        self._complete = complete

    def learn(self, data: bytes, key: bytes) -> tuple[str, ...]:
        """Return the texts for a record, and remember them if they are to stay."""
        row, is_settled = self._complete(data)
        texts = tuple(line(row, 0) for line in self.lines)
        if is_settled:
            if len(self) >= MOST_REMEMBERED:
                self.clear()
            self[key] = texts
        return texts


def straight_line_of(layout: Layout, form: Form, complete: Complete) -> StraightLine | None:
    """Return what makes a line of a record's bytes; None where that takes a row."""
    fields, has_one_weight = _Fields(layout), layout.record.weight is Row.weight
    if layout.has_tail or not has_one_weight or not fields.suffice(form.parts):
        return None
    memory = _Memory(complete)
    parts = [*_split(fields, form, memory)]
    needed = fields.needed(form.parts)
    taken, variables, keys = _taken_apart(layout, needed)
    conversion, names = conversions([field for field in layout.fields if field.name in needed])
    statements, template = evaluated(parts)
    remembered = f"texts = known(key := {' + '.join(keys)}) or learn(data, key)"
    made: StraightLine = function(
        "data, offset_ns, first_ns",
        [
            f"{', '.join(variables)}, = unpack(data)",
            *conversion,
            "v_wall_ns = v_ts_ns + offset_ns",
            *([remembered] if memory.lines else []),
            *(f"row.{name} = v_{name}" for name in fields.asked(form.parts)),
            *statements,
            f"return f{template!r}",
        ],
        {
            **form.names,
            **names,
            "known": memory.get,
            "learn": memory.learn,
            "row": object.__new__(layout.record),
            "unpack": struct.Struct(taken).unpack,
        },
    )
    return made


def _split(fields: _Fields, form: Form, memory: _Memory) -> Iterator[str | Part]:
    """Yield a line's parts as they are made of a record's bytes; the rest goes into a memory."""
    for is_fresh, run in fields.runs(form.parts):
        if is_fresh:
            yield from chain.from_iterable(map(fields.of_variables, run))
        else:
            yield Part(f"texts[{len(memory.lines)}]")
            memory.lines.append(line_of(Form(run, form.names)))


class Writer(Protocol):
    """What writes lines, as whoever makes them sees it."""

    def form(self, record: Any, /) -> Form | None:
        """Return what lines of a class of rows consist of, if it can take `Lines`."""

    def first_ns(self, ts_ns: int) -> int:
        """Return when the first row of all happened: this one, if none was there before."""


class LineMaker:
    """Makes lines of the records of one session."""

    def __init__(
        self,
        decoder: Decoder,
        writer: Writer,
        straight: Mapping[bytes, StraightLine],
    ) -> None:
        """Make lines for `writer` by the functions in `straight`; their keys are kinds."""
        self._decoder = decoder
        self._writer = writer
        self._straight = straight

    def lines(self, records: Iterator[bytes], offset_ns: int) -> Iterator[Lines]:
        """Yield records as lines, some at a time; `offset_ns` is what the wall clock is ahead.

        Raises:
            TcptraceError: the buffer cannot be trusted.

        """
        while some := list(islice(records, MOST_AT_ONCE)):
            first_ns = self._writer.first_ns(int.from_bytes(some[0][:8], sys.byteorder))
            straight = self._straight
            try:
                yield Lines([straight[data[KIND]](data, offset_ns, first_ns) for data in some])
            except (KeyError, struct.error):
                for data in some:
                    self._decoder.decode(data)
                raise


def line_maker(decoder: Decoder, writer: Writer, complete: Complete) -> LineMaker | None:
    """Return what makes lines of a session's records; None where that takes rows."""
    straight = {}
    for kind, layout in decoder.by_kind.items():
        form = writer.form(layout.record)
        line = straight_line_of(layout, form, complete) if form else None
        if line is None:
            return None
        straight[kind] = line
    return LineMaker(decoder, writer, straight)
