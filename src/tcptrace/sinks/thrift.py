"""Thrift's compact protocol, as far as the end of a Parquet file needs it.

pyarrow writes such an end when a file is complete. To put one behind each group of rows, the places
that it names are moved by so many bytes as stand before the group.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
_LONG = 15
"""Stands in a list's head where its size follows."""
Struct = dict[int, "Field"]


class Field(NamedTuple):
    """A field of a struct: the type of its value, which a list's has for its items, too."""

    type: int
    value: Any
    items: int = 0


class _Reader:
    """Reads from bytes; a fault in them is an IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _varint(self) -> int:
        result = 0
        for shift in itertools.count(0, 7):
            byte = self._byte()
            result |= (byte & 0x7F) << shift
            if byte < 0x80:
                return result
        raise AssertionError

    def _zigzag(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _take(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def struct(self) -> Struct:
        """Return the struct that comes next."""
        fields: Struct = {}
        number = 0
        while head := self._byte():
            delta, kind = head >> 4, head & 0xF
            number = number + delta if delta else self._zigzag()
            fields[number] = self._field(kind)
        return fields

    def _field(self, kind: int) -> Field:
        if kind not in {LIST, SET}:
            return Field(kind, self._value(kind))
        head = self._byte()
        size = head >> 4 if head >> 4 < _LONG else self._varint()
        items = head & 0xF
        return Field(kind, [self._item(items) for _ in range(size)], items)

    def _item(self, kind: int) -> Any:
        return self._byte() if kind in {TRUE, FALSE} else self._value(kind)

    def _value(self, kind: int) -> Any:
        if kind in {TRUE, FALSE}:
            return None
        if kind in {I16, I32, I64}:
            return self._zigzag()
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return self._take(8)
        if kind == BINARY:
            return self._take(self._varint())
        if kind == STRUCT:
            return self.struct()
        raise IndexError(kind)


def decode(data: bytes) -> Struct:
    """Return the struct in `data`. Raises IndexError."""
    return _Reader(data).struct()


def _varint(number: int) -> bytes:
    result = bytearray()
    while number >= 0x80:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _zigzag(number: int) -> bytes:
    return _varint(number << 1 if number >= 0 else (-number << 1) - 1)


def _encoded(kind: int, value: Any) -> bytes:
    if kind in {TRUE, FALSE}:
        return b"" if value is None else bytes([value])
    if kind in {I16, I32, I64}:
        return _zigzag(value)
    if kind == BYTE:
        return bytes([value])
    if kind == BINARY:
        return _varint(len(value)) + bytes(value)
    return bytes(value) if kind == DOUBLE else encode(value)


def encode(fields: Struct) -> bytes:
    """Return a struct as bytes."""
    result = bytearray()
    before = 0
    for number, field in sorted(fields.items()):
        delta = number - before
        head = bytes([delta << 4 | field.type])
        result += head if 0 < delta < _LONG else bytes([field.type]) + _zigzag(number)
        result += _list(field) if field.type in {LIST, SET} else _encoded(field.type, field.value)
        before = number
    return bytes(result) + b"\0"


def _list(field: Field) -> bytes:
    size = len(field.value)
    head = min(size, _LONG) << 4 | field.items
    more = _varint(size) if size >= _LONG else b""
    items = b"".join(
        item if isinstance(item, bytes) and field.items == STRUCT else _encoded(field.items, item)
        for item in field.value
    )
    return bytes([head]) + more + items
