"""Lines of text, by functions that are made of what a line consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from tcptrace.model.generate import function


class Part(NamedTuple):
    """A piece of a line that is not the same in each."""

    value: str
    """An expression over `row`, and `first_ns`: when the first row that is shown happened."""
    form: str = ""
    """How it stands in the line: what an f-string has behind an expression."""
    fields: Sequence[str] | None = None
    """The fields of `row` that it depends on; None if they are not known."""
    before_number: str | None = None
    """Where its one field is a number for sure, it is this and that number, in the same form."""


Parts = Sequence["str | Part"]
"""What a line consists of; a `str` stands in it as it is."""
Line = Callable[[Any, int], str]
"""Makes a line of a row and `first_ns`."""


class Form(NamedTuple):
    """What lines of a class consist of."""

    parts: Parts
    names: Mapping[str, Any]
    """What their expressions use."""


class Lines(NamedTuple):
    """Events that are lines already."""

    texts: Sequence[str]

    @property
    def weight(self) -> int:
        """How many events they tell."""
        return len(self.texts)

    def pieces(self) -> Iterator[tuple[str, int]]:
        """Yield each line, and that it tells of one event."""
        return zip(self.texts, repeat(1))


def line_of(form: Form) -> Line:
    """Return what makes a line of a row."""
    body, template = evaluated(form.parts)
    made: Line = function("row, first_ns", [*body, f"return f{template!r}"], form.names)
    return made


def evaluated(parts: Parts) -> tuple[list[str], str]:
    """Return statements that evaluate parts, and what an f-string has for all of them."""
    body: list[str] = []
    template = ""
    for at, part in enumerate(parts):
        if isinstance(part, str):
            template += part.replace("{", "{{").replace("}", "}}")
        else:
            body.append(f"p{at} = {part.value}")
            template += f"{{p{at}{part.form}}}"
    return body, template
