"""Fetch arguments: from C expressions to what a probe in tracefs reads, with offsets from BTF.

A probe that is defined in tracefs knows no types: it dereferences registers at offsets, as in
``+656(+24($arg1)):u32`` (Documentation/trace/kprobetrace.rst). Here that is written as the C
expression over the kernel function's parameters, ``sock->sk->sk_max_ack_backlog``.

A filter cannot compare what is in network order, nor arrays. So a ``__be16`` is fetched byte for
byte, and an array element for element; the parts of `name` are ``name_0``, ``name_1``, ….
"""

from __future__ import annotations

import dataclasses
import re

from tcptrace.errors import TcptraceError
from tcptrace.kernel import btf

RETURN_VALUE = "$retval"
COMM = "$comm"
PORT_TYPE = "__be16"
_TOKEN = re.compile(r"\(struct \w+ \*\)|->|\w+|[().]")


@dataclasses.dataclass(frozen=True, slots=True)
class _Value:
    """A value: in a register or, with an offset, in the memory that `base` points to."""

    base: str
    offset: int | None
    type_id: int
    """Its type, or of a pointer what it points to."""
    is_pointer: bool

    @property
    def text(self) -> str:
        """How a fetch argument names it."""
        return self.base if self.offset is None else f"+{self.offset}({self.base})"


class _Parser:
    """Reads a C expression of parameters, members and casts to pointers to structs."""

    def __init__(self, types: btf.Btf, function: str, expression: str) -> None:
        self._types = types
        self._function = function
        self._expression = expression
        self._tokens = _TOKEN.findall(expression)

    def cast(self) -> _Value:
        """Read casts, or none, and what they are of."""
        if not self._tokens[0].startswith("(struct "):
            return self._postfix()
        name = self._tokens.pop(0).split()[1]
        struct = self._types.id_of(name, btf.KIND_STRUCT)
        if not struct:
            raise self._error(f"struct {name}")
        return dataclasses.replace(self.cast(), type_id=struct, is_pointer=True)

    def _postfix(self) -> _Value:
        value = self._primary()
        while self._tokens and self._tokens[0] in {"->", "."}:
            if self._tokens.pop(0) == "->":
                value = _Value(value.text, 0, value.type_id, is_pointer=False)
            name = self._tokens.pop(0)
            member = self._types.member(value.type_id, name)
            if not member:
                raise self._error(f"member {name}")
            value = self._value(value.base, (value.offset or 0) + member.offset, member.type_id)
        return value

    def _primary(self) -> _Value:
        token = self._tokens.pop(0)
        if token == "(":  # noqa: S105 - no password
            value = self.cast()
            self._tokens.pop(0)
            return value
        parameter = self._types.parameter(self._function, token)
        if not parameter:
            raise self._error(f"parameter {token} of {self._function}")
        return self._value(f"$arg{parameter.position}", None, parameter.type_id)

    def _value(self, base: str, offset: int | None, type_id: int) -> _Value:
        """Return a value; of a pointer, with the type that it points to."""
        plain = self._types.type(self._types.plain(type_id))
        if plain.kind == btf.KIND_POINTER:
            return _Value(base, offset, self._types.plain(plain.target), is_pointer=True)
        return _Value(base, offset, type_id, is_pointer=False)

    def _error(self, missing: str) -> TcptraceError:
        return TcptraceError(f"this kernel has no {missing}, for {self._expression}")


def fetch_arguments(types: btf.Btf, function: str, name: str, expression: str) -> list[str]:
    """Return the arguments that fetch the value of `expression` at `function`, as `name`.

    Raises:
        TcptraceError: this kernel's types do not have what the expression names.

    """
    if expression == COMM:
        return [f"{name}={expression}"]
    if expression == RETURN_VALUE:
        return [f"{name}={expression}:s32"]
    value = _Parser(types, function, expression).cast()
    if value.is_pointer:
        return [f"{name}={value.text}:u64"]
    size, parts = types.size(value.type_id), 1
    if types.type(types.plain(value.type_id)).kind == btf.KIND_ARRAY:
        element, parts = types.element(types.plain(value.type_id))
        size = types.size(element)
    elif types.type(value.type_id).name == PORT_TYPE:
        size, parts = 1, 2
    if parts == 1:
        return [f"{name}={value.text}:u{8 * size}"]
    offsets = range(value.offset or 0, (value.offset or 0) + size * parts, size)
    return [f"{name}_{n}=+{at}({value.base}):u{8 * size}" for n, at in enumerate(offsets)]


def zeros(name: str, parts: int) -> list[str]:
    """Return arguments for a value of so many words that a kernel does not have."""
    names = [f"{name}_{n}" for n in range(parts)] if parts > 1 else [name]
    return [f"{part}=\\0:u32" for part in names]
