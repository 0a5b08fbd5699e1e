"""Writes trace.dat of versions 6 and 7, and pages of a ring buffer, as the kernel and trace-cmd do."""

from __future__ import annotations

import struct
import zlib
from typing import Final

import zstandard

from tests.perf_writer import TRACEPOINTS, tracing_data

PAGE: Final = 4096
_FORMATS: Final = tracing_data(TRACEPOINTS)
_AFTER_MAGIC: Final = len(b"\x17\x08\x44tracing0.6\0\0\x08") + 4


def page(time: int, events: list[bytes], missed: int | None = None) -> bytes:
    """A page: its events follow each other; ``missed`` says how many were lost before it."""
    data = b"".join(events)
    flags = 0 if missed is None else 1 << 31 | 1 << 30
    body = data + (b"" if missed is None else struct.pack("<Q", missed))
    assert len(body) <= PAGE - 16
    return (struct.pack("<QQ", time, len(data) | flags) + body).ljust(PAGE, b"\0")


def event(delta: int, raw: bytes, *, long: bool = False) -> bytes:
    """An event ``delta`` after the one before; ``long`` puts its length into a word of its own."""
    assert delta < 1 << 27
    raw = raw.ljust(-(-len(raw) // 4) * 4, b"\0")
    if long or len(raw) > 28 * 4:
        return struct.pack("<II", delta << 5, len(raw) + 4) + raw
    return struct.pack("<I", delta << 5 | len(raw) // 4) + raw


def extend(delta: int) -> bytes:
    """A time extension."""
    return struct.pack("<II", (delta & (1 << 27) - 1) << 5 | 30, delta >> 27)


def stamp(time: int) -> bytes:
    """An absolute time stamp (of 59 bits)."""
    return struct.pack("<II", (time & (1 << 27) - 1) << 5 | 31, time >> 27 & 0xFFFFFFFF)


def padding(size: int) -> bytes:
    """A discarded event."""
    return struct.pack("<II", 1 << 5 | 29, size + 4) + b"\xee" * size


def _option(number: int, data: bytes) -> bytes:
    return struct.pack("<HI", number, len(data)) + data


def version_6(cpus: list[bytes], clock: str = "[local] x86-tsc") -> bytes:
    """The bytes of a trace.dat: one buffer, pages of each CPU."""
    head = b"\x17\x08\x44tracing6\0\0\x08" + struct.pack("<I", PAGE)
    names = b"1 init\n42 my task\n"
    # As perf has it, without its three last (and empty) parts: symbols, formats of printk, command lines.
    head += _FORMATS[_AFTER_MAGIC:-16] + struct.pack("<IIQ", 0, 0, len(names)) + names + struct.pack("<I", len(cpus))
    options = _option(4, clock.encode() + b"\0") + _option(5, b"Linux box 6.1 x86_64\0")
    head += b"options  \0" + options + b"\0\0flyrecord\0"
    at = -(-(len(head) + 16 * len(cpus)) // PAGE) * PAGE
    table, data = b"", b""
    for pages in cpus:
        table += struct.pack("<QQ", at + len(data), len(pages))
        data += pages
    return (head + table).ljust(at, b"\0") + data


def version_7(cpus: list[bytes], clock: str = "x86-tsc", compression: str = "none") -> bytes:
    """The bytes of a trace.dat of version 7."""
    out = bytearray(b"\x17\x08\x44tracing7\0\0\x08" + struct.pack("<I", PAGE) + compression.encode() + b"\0" + b"1.0\0")
    at_options = len(out)
    out += b"\0" * 8
    formats = _FORMATS[_AFTER_MAGIC:-16]
    split = formats.index(b"# compressed entry header\n") + len(b"# compressed entry header\n")
    options = _option(5, b"Linux box 6.1 x86_64\0")
    for number, data in ((16, formats[:split]), (17, formats[split : split + 4]), (18, formats[split + 4 :])):
        options += _option(number, struct.pack("<Q", len(out)))
        out += _section(number, data, compression)
    option = struct.pack("<Q", len(out)) + b"\0" + clock.encode() + b"\0" + struct.pack("<II", PAGE, len(cpus))
    for cpu, pages in enumerate(cpus):
        data = pages if compression == "none" else struct.pack("<I", 1) + _packed(pages, compression)
        option += struct.pack("<IQQ", cpu, len(out), len(data))
        out += data
    options += _option(3, option) + _option(0, struct.pack("<Q", 0))
    out[at_options : at_options + 8] = struct.pack("<Q", len(out))
    return bytes(out + struct.pack("<HHIQ", 0, 0, 0, len(options)) + options)


def _section(number: int, data: bytes, compression: str) -> bytes:
    packed = data if compression == "none" else _packed(data, compression)
    return struct.pack("<HHIQ", number, compression != "none", 0, len(packed)) + packed


def _packed(data: bytes, compression: str) -> bytes:
    packed = zlib.compress(data) if compression == "zlib" else zstandard.ZstdCompressor().compress(data)
    return struct.pack("<II", len(packed), len(data)) + packed
