"""The layout of trace.dat: what stands in which section, and each CPU's pages.

Sources: ``trace-cmd.dat.v6(5)``, ``trace-cmd.dat.v7(5)``; versions 6 and 7 differ in everything but the formats.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from iretrace.errors import Damaged, InputError
from iretrace.importers import formats
from iretrace.importers.cursor import Cursor, Short
from iretrace.importers.formats import Formats

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

DONE, BUFFER, TRACECLOCK, UNAME, CPUCOUNT, TSC2NSEC = 0, 3, 4, 5, 8, 14
HEADER_INFO, FTRACE_EVENTS, EVENT_FORMATS, CMDLINES = 16, 17, 18, 21
_COMPRESSED: Final = 1
_MAX_SECTION_BYTES: Final = 64 << 20
_MAX_CHUNK_BYTES: Final = 32 << 20
_MAX_OPTION_SECTIONS: Final = 1024
_MAX_OPTIONS: Final = 1 << 16
_MAX_CPUS: Final = 1 << 16
_MAX_NAME_BYTES: Final = 256
MAX_PAGE_BYTES: Final = 1 << 20
_MAX_WINDOW_BYTES: Final = 1 << 27
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One instance's ring buffer: (CPU, offset, size) of each CPU's data."""

    name: str
    clock: str
    page_bytes: int
    cpus: tuple[tuple[int, int, int], ...]


@dataclass(kw_only=True)
class TraceDat:
    """What a trace.dat says before its events."""

    version: int = 6
    compression: str = "none"
    formats: Formats = field(default_factory=Formats)
    buffers: list[Buffer] = field(default_factory=list)
    clock: str = ""
    uname: str = ""
    tsc_khz: float | None = None
    names: dict[int, str] = field(default_factory=dict)
    """Names of tasks, by pid."""


def open_trace_dat(file: BinaryIO, path: Path) -> TraceDat:
    """Read everything but the events.

    Raises:
        InputError: it is no trace.dat, or one that cannot be read.
    """
    try:
        head = Cursor(file.read(256))
        found = TraceDat(formats=formats.read_tracing_data(head, sections=False))
        version = _version(head.data)
        if version == 6:
            _read_v6(file, head.at, found)
        elif version == 7:
            found.version = 7
            found.compression, _version_of_it = head.text(), head.text()
            _read_v7(file, head.u64(), found)
        else:
            raise InputError(path, f"is a trace.dat of version {version}", expected="6 or 7")
    except (Short, ValueError, OverflowError, zlib.error) as error:
        raise Damaged(path, f"its header cannot be read ({error})", expected="an intact trace.dat") from None
    return found


def _version(head: bytes | memoryview) -> int:
    text = bytes(head[len(formats.MAGIC) :]).split(b"\0", 1)[0]
    return int(text) if text.isdigit() and len(text) < 4 else -1


def _read(file: BinaryIO, offset: int, size: int, limit: int = _MAX_SECTION_BYTES) -> bytes:
    if size > limit:
        raise ValueError(f"{size} bytes at {offset}")
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise Short(f"{size} bytes at {offset} wanted, {len(data)} are there")
    return data


def _take(file: BinaryIO, n: int) -> bytes:
    return _read(file, file.tell(), n)


def _u32(file: BinaryIO) -> int:
    return int.from_bytes(_take(file, 4), "little")


def _u64(file: BinaryIO) -> int:
    return int.from_bytes(_take(file, 8), "little")


def _read_v6(file: BinaryIO, offset: int, found: TraceDat) -> None:
    """Version 6: part after part, each with its size."""
    file.seek(offset)
    _v6_formats(file, found)
    file.seek(_u32(file), 1)  # kallsyms
    file.seek(_u32(file), 1)  # printk
    _add_names(found, _take(file, _u64(file)))
    n_cpus = _u32(file)
    buffers: list[tuple[int, str]] = []
    kind = _take(file, 10)
    while kind == b"options  \0":
        for _ in range(_MAX_OPTIONS):
            number = int.from_bytes(_take(file, 2), "little")
            if number == DONE:
                break
            option = Cursor(_take(file, _u32(file)))
            if number == BUFFER:
                buffers.append((option.u64(), option.text()))
            elif number == CPUCOUNT:
                n_cpus = option.u32()
            else:
                _add_option(found, number, option)
        kind = _take(file, 10)
    buffers.insert(0, (file.tell() - len(kind), ""))
    if n_cpus > _MAX_CPUS:
        raise ValueError(f"{n_cpus} CPUs")
    for place, name in buffers:
        file.seek(place)
        if _take(file, 10) != b"flyrecord\0":
            continue  # a latency trace is text
        table = Cursor(_take(file, 16 * n_cpus))
        cpus = tuple((cpu, table.u64(), table.u64()) for cpu in range(n_cpus))
        found.buffers.append(Buffer(name=name, clock=found.clock, page_bytes=found.formats.page_bytes, cpus=cpus))


def _v6_formats(file: BinaryIO, found: TraceDat) -> None:
    begin = file.tell()
    for _ in range(2):
        _take(file, 12 if file.tell() == begin else 13)
        file.seek(_u64(file), 1)
    for _ in range(min(_u32(file), _MAX_OPTIONS)):
        file.seek(_u64(file), 1)
    for _ in range(min(_u32(file), _MAX_OPTIONS)):
        name = iter(lambda: _take(file, 1), b"\0")
        if sum(1 for _ in itertools.islice(name, _MAX_NAME_BYTES)) == _MAX_NAME_BYTES:
            raise ValueError("a system's name has no end")
        for _ in range(min(_u32(file), _MAX_OPTIONS)):
            file.seek(_u64(file), 1)
    cursor = Cursor(_read(file, begin, file.tell() - begin))
    formats.read_header_page(cursor, found.formats)
    formats.read_ftrace_formats(cursor, found.formats)
    formats.read_event_formats(cursor, found.formats)


def _read_v7(file: BinaryIO, offset: int, found: TraceDat) -> None:
    """Version 7: sections, found by options."""
    readers = {
        HEADER_INFO: formats.read_header_page,
        FTRACE_EVENTS: formats.read_ftrace_formats,
        EVENT_FORMATS: formats.read_event_formats,
    }
    for _ in range(_MAX_OPTION_SECTIONS):
        options = Cursor(_section(file, offset, found))
        offset = 0
        while options.left >= 6:
            number, size = options.u16(), options.u32()
            option = Cursor(options.take(size))
            if number == DONE:
                offset = option.u64()
                break
            if number in readers:
                readers[number](Cursor(_section(file, option.u64(), found)), found.formats)
            elif number == CMDLINES:
                names = Cursor(_section(file, option.u64(), found))
                _add_names(found, names.take(names.u64()))
            elif number == BUFFER:
                found.buffers.append(_v7_buffer(option))
            else:
                _add_option(found, number, option)
        if not offset:
            return
    raise ValueError("its sections of options never end")


def _section(file: BinaryIO, offset: int, found: TraceDat) -> bytes:
    header = Cursor(_read(file, offset, 16))
    _number, flags, _description, size = header.u16(), header.u16(), header.u32(), header.u64()
    if not flags & _COMPRESSED:
        return _take(file, size)
    packed, plain = _u32(file), _u32(file)
    if plain > _MAX_SECTION_BYTES:
        raise ValueError(f"a section of {plain} bytes")
    return decompress(found.compression, _take(file, packed), plain)


def _v7_buffer(option: Cursor) -> Buffer:
    option.u64()
    name, clock, page_bytes, n_cpus = option.text(), option.text(), option.u32(), option.u32()
    if n_cpus > _MAX_CPUS:
        raise ValueError(f"{n_cpus} CPUs")
    cpus = tuple((option.u32(), option.u64(), option.u64()) for _ in range(n_cpus))
    return Buffer(name=name, clock=clock, page_bytes=page_bytes, cpus=cpus)


def _add_option(found: TraceDat, number: int, option: Cursor) -> None:
    if number == TRACECLOCK:
        text = option.take(option.left).split(b"\0", 1)[0].decode("utf-8", "replace")
        found.clock = text.partition("[")[2].partition("]")[0] or text.strip()
    elif number == UNAME:
        found.uname = option.take(option.left).split(b"\0", 1)[0].decode("utf-8", "replace").strip()
    elif number == TSC2NSEC:
        multiplier, shift = option.u32(), option.u32()
        if multiplier and shift <= 32:
            found.tsc_khz = 1e6 * 2**shift / multiplier


def _add_names(found: TraceDat, data: bytes) -> None:
    """``saved_cmdlines``: a pid and a name a line."""
    for line in data.split(b"\n", _MAX_CPUS)[:_MAX_CPUS]:
        pid, _, name = line.partition(b" ")
        if pid.isdigit() and len(pid) <= 10 and int(pid) < 1 << 32:
            found.names[int(pid)] = name.rstrip(b"\0").decode("utf-8", "replace")


def decompress(name: str, data: bytes, size: int) -> bytes:
    """Decompress what is said to become ``size`` bytes; never more of them.

    Raises:
        ValueError, zlib.error: it is not so.
    """
    if name == "zlib":
        plain = zlib.decompressobj().decompress(data, size)
    elif name == "zstd":
        import zstandard  # noqa: PLC0415 - only where a file is compressed

        try:
            with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(data) as reader:
                plain = reader.read(size)
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
    else:
        raise ValueError(f"compressed by {name!r}; known are zstd and zlib (trace-cmd convert --compression zstd)")
    if len(plain) < size:
        raise ValueError(f"{len(plain)} bytes came out of compressed data, not {size}")
    return plain


def pieces(file: BinaryIO, offset: int, size: int, compression: str, page_bytes: int) -> Iterator[tuple[int, bytes]]:
    """A CPU's data as (offset in the file, whole pages), in turn.

    Raises:
        Short, ValueError, zlib.error: it cannot be read further.
    """
    if not 16 <= page_bytes <= MAX_PAGE_BYTES:
        raise ValueError(f"pages of {page_bytes} bytes")
    if compression == "none":
        at = offset
        while at < offset + size:
            n = min(_PIECE_BYTES // page_bytes * page_bytes or page_bytes, offset + size - at)
            yield at, _read(file, at, n)
            at += n
        return
    chunks = int.from_bytes(_read(file, offset, 4), "little")
    at = offset + 4
    for _ in range(chunks):
        packed, plain = Cursor(_read(file, at, 8)).u64s(1)[0] & 0xFFFFFFFF, 0
        plain = int.from_bytes(_read(file, at + 4, 4), "little")
        if plain > _MAX_CHUNK_BYTES or packed > _MAX_CHUNK_BYTES:
            raise ValueError(f"a piece of {plain} bytes")
        yield at, decompress(compression, _read(file, at + 8, packed), plain)
        at += 8 + packed
