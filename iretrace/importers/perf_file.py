"""Opening perf.data: the header of a file, or the beginning of a pipe."""

from __future__ import annotations

import dataclasses
import os
import struct
from typing import TYPE_CHECKING, Final

from iretrace.errors import Damaged, InputError
from iretrace.importers import perf_header
from iretrace.importers.cursor import Cursor, Short
from iretrace.importers.perf_header import Attr, Header, add_feature, parse_attr

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

_FILE_HEADER: Final = struct.Struct("<8sQQQQQQQQ")
_FEATURE_BITS: Final = 256
_MAX_ATTR_BYTES: Final = 4096


def open_header(file: BinaryIO, path: Path) -> Header:
    """Read what stands before (and, in a file, behind) the records; the file then stands at the first record.

    Raises:
        InputError: it is no perf.data, or one that cannot be read.
    """
    head = file.read(perf_header.PIPE_HEADER_BYTES)
    if head[:8] == perf_header.SWAPPED:
        raise InputError(path, "was recorded on a big-endian machine", expected="perf.data of an x86 machine")
    if len(head) < perf_header.PIPE_HEADER_BYTES or head[:8] != perf_header.MAGIC:
        raise InputError(path, f"begins with {head[:8]!r}", expected="perf.data (PERFILE2)")
    size = int.from_bytes(head[8:], "little")
    if size == perf_header.PIPE_HEADER_BYTES:
        return Header(pipe=True, data=(size, 0))
    rest = file.read(_FILE_HEADER.size - len(head))
    bits = file.read(_FEATURE_BITS // 8)
    if size < _FILE_HEADER.size + len(bits) or len(bits) < _FEATURE_BITS // 8:
        raise Damaged(path, f"its header is {min(size, len(head + rest + bits))} bytes long", expected="104 bytes")
    numbers = _FILE_HEADER.unpack(head + rest)
    attr_bytes, attrs, data = numbers[2], numbers[3:5], numbers[5:7]
    end = file.seek(0, os.SEEK_END)
    if max(data[0], sum(data) if data[1] else 0) > end:
        raise Damaged(
            path,
            f"was cut after {end:,} bytes: its records go on to {sum(data):,}, and what describes them follows",
            expected="the whole file",
            remedy="copy or record it again",
        )
    try:
        header = Header(data=data, attrs=_attrs(file, attr_bytes, attrs))
        if data[1]:
            _features(file, header, data[0] + data[1], int.from_bytes(bits, "little"))
    except (Short, ValueError, OverflowError, RecursionError) as error:
        raise Damaged(path, f"its header cannot be read ({error})", expected="an intact perf.data") from None
    file.seek(data[0])
    return header


def _section(file: BinaryIO, offset: int, size: int, limit: int = perf_header.MAX_SECTION_BYTES) -> bytes:
    if size > limit:
        raise ValueError(f"a section of {size} bytes")
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:
        raise Short(f"a section of {size} bytes at {offset} ends after {len(data)}")
    return data


def _attrs(file: BinaryIO, attr_bytes: int, section: tuple[int, int]) -> list[Attr]:
    if not 16 <= attr_bytes <= _MAX_ATTR_BYTES:
        raise ValueError(f"events of {attr_bytes} bytes")
    table = Cursor(_section(file, *section, limit=_MAX_ATTR_BYTES * 1024))
    found, n_ids = [], 0
    while table.left >= attr_bytes:
        attr = parse_attr(table.take(attr_bytes - 16))
        offset, size = table.u64(), table.u64()
        ids = Cursor(_section(file, offset, size, limit=8 * perf_header.MAX_IDS)).u64s(size // 8)
        n_ids += len(ids)
        if n_ids > perf_header.MAX_IDS:
            raise ValueError(f"{n_ids} ids of events")
        found.append(dataclasses.replace(attr, ids=ids))
    if not found:
        raise ValueError("it names no event")
    return found


def _features(file: BinaryIO, header: Header, table_at: int, bits: int) -> None:
    numbers = [number for number in range(_FEATURE_BITS) if bits >> number & 1]
    table = Cursor(_section(file, table_at, 16 * len(numbers)))
    for number in numbers:
        offset, size = table.u64(), table.u64()
        if number in perf_header.KEPT:
            add_feature(header, number, _section(file, offset, size))
