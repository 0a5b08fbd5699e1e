"""Integers of any length in bytes of seven bits, the lowest first (ULEB128), as protobuf and Thrift write them."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """An integer that is not negative."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
