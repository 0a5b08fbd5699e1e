"""Structures of Thrift in its compact protocol, as far as Parquet's metadata needs them, and only to be written.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from iretrace.varint import varint

if TYPE_CHECKING:
    from collections.abc import Sequence

_I8, _I32, _I64, _BINARY, _LIST, _STRUCT = 3, 5, 6, 8, 9, 12
"""Types of fields."""
_TRUE, _FALSE = 1, 2
_LONG: Final = 15
"""A list of so many needs a length of its own; so does a step between the numbers of fields that is longer."""


class Fields:
    """A structure of Thrift, as bytes of the compact protocol: fields are added in the order of their numbers."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._last = 0

    def _begin(self, number: int, kind: int) -> None:
        step = number - self._last
        assert 0 < step <= _LONG  # noqa: S101 - the caller's numbers are constants
        self._bytes.append(step << 4 | kind)
        self._last = number

    def integer(self, number: int, value: int, kind: int = _I32) -> Fields:
        """An integer; ``kind`` tells its size."""
        self._begin(number, kind)
        self._bytes += varint(value << 1 if value >= 0 else ~(value << 1))
        return self

    def long(self, number: int, value: int) -> Fields:
        """An integer of 64 bits."""
        return self.integer(number, value, _I64)

    def byte(self, number: int, value: int) -> Fields:
        """An integer of 8 bits, which are all there is of it."""
        self._begin(number, _I8)
        self._bytes.append(value)
        return self

    def boolean(self, number: int, *, value: bool) -> Fields:
        """A boolean: its type is its value."""
        self._begin(number, _TRUE if value else _FALSE)
        return self

    def binary(self, number: int, value: bytes) -> Fields:
        """Bytes, or a text in UTF-8."""
        self._begin(number, _BINARY)
        self._bytes += varint(len(value)) + value
        return self

    def struct(self, number: int, value: Fields) -> Fields:
        """Another structure."""
        self._begin(number, _STRUCT)
        self._bytes += value.done()
        return self

    def structs(self, number: int, values: Sequence[bytes]) -> Fields:
        """A list of structures that are done."""
        return self._list(number, _STRUCT, values)

    def integers(self, number: int, values: Sequence[int]) -> Fields:
        """A list of integers that are not negative."""
        return self._list(number, _I32, [varint(value << 1) for value in values])

    def texts(self, number: int, values: Sequence[bytes]) -> Fields:
        """A list of texts."""
        return self._list(number, _BINARY, [varint(len(value)) + value for value in values])

    def _list(self, number: int, kind: int, values: Sequence[bytes]) -> Fields:
        self._begin(number, _LIST)
        n = len(values)
        self._bytes += bytes([n << 4 | kind]) if n < _LONG else bytes([0xF0 | kind]) + varint(n)
        self._bytes += b"".join(values)
        return self

    def done(self) -> bytes:
        """The structure, with the mark of its end."""
        return bytes(self._bytes) + b"\0"
