"""What stands before the records of perf.data: the events, their ids, the machine.

Layout: ``tools/perf/Documentation/perf.data-file-format.txt``, ``include/uapi/linux/perf_event.h``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from iretrace import footer as footers
from iretrace.importers.cursor import Cursor, Short
from iretrace.importers.formats import Formats, read_tracing_data

MAGIC: Final = b"PERFILE2"
SWAPPED: Final = b"2ELIFREP"
PIPE_HEADER_BYTES: Final = 16

TRACING_DATA: Final = 1
HOSTNAME: Final = 3
OSRELEASE: Final = 4
ARCH: Final = 6
CPUDESC: Final = 8
CPUID: Final = 9
CMDLINE: Final = 11
EVENT_DESC: Final = 12
KEPT: Final = (TRACING_DATA, HOSTNAME, OSRELEASE, ARCH, CPUDESC, CPUID, CMDLINE, EVENT_DESC)
MAX_SECTION_BYTES: Final = 64 << 20
_MAX_EVENTS: Final = 1 << 14
MAX_IDS: Final = 1 << 18
_ATTR_BYTES_MIN: Final = 64

TYPE_TRACEPOINT: Final = 2
SAMPLE_TIME: Final = 1 << 2
SAMPLE_ID: Final = 1 << 6
SAMPLE_CPU: Final = 1 << 7
SAMPLE_STREAM_ID: Final = 1 << 9
SAMPLE_TID: Final = 1 << 1
SAMPLE_RAW: Final = 1 << 10
SAMPLE_IDENTIFIER: Final = 1 << 16
_BEFORE_ID: Final = 0b1111  # IP, TID, TIME, ADDR
_SAMPLE_ID_ALL: Final = 1 << 18
_CPUID = re.compile(r"^(\w+)[,-](\d+)[,-]([0-9A-Fa-f]+)(?:[,-]([0-9A-Fa-f]+))?$")


@dataclass(frozen=True, kw_only=True)
class Attr:
    """One event that was recorded (``struct perf_event_attr``)."""

    type: int
    config: int
    sample_type: int
    read_format: int
    branch_type: int
    user_regs: int
    sample_id_all: bool
    name: str = ""
    ids: tuple[int, ...] = ()


@dataclass(kw_only=True)
class Header:
    """What is known of a recording before its samples.

    Attributes:
        attrs: its events.
        formats: its tracepoints; ``None``: it has none (yet).
        texts: features that are one text, by number.
        command: the command line of ``perf record``.
        names: event names by id, from EVENT_DESC.
        pipe: the file was written to a pipe: events and formats are records among the others.
        data: (offset, size) of the records; a size of 0: to the end, the recording was cut.
    """

    attrs: list[Attr] = field(default_factory=list)
    formats: Formats | None = None
    texts: dict[int, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    names: dict[int, str] = field(default_factory=dict)
    pipe: bool = False
    data: tuple[int, int] = (0, 0)

    def name_of(self, attr: Attr) -> str:
        """An event's name: that of its tracepoint, else perf's."""
        if attr.type == TYPE_TRACEPOINT and self.formats is not None and attr.config in self.formats.by_id:
            return self.formats.by_id[attr.config].name
        named = [self.names[one] for one in attr.ids if one in self.names]
        return named[0] if named else attr.name or f"event of type {attr.type}, config {attr.config:#x}"

    def host(self) -> footers.Host:
        """The machine, for the footer."""
        return footers.Host(
            name=self.texts.get(HOSTNAME, ""),
            kernel=self.texts.get(OSRELEASE, ""),
            machine=self.texts.get(ARCH, ""),
        )

    def cpu(self) -> footers.Cpu:
        """The processor, for the footer; ``cpuid`` is vendor,family,model,stepping (arch/x86/util/header.c)."""
        match = _CPUID.match(self.texts.get(CPUID, ""))
        name = self.texts.get(CPUDESC, "")
        if match is None:
            return footers.Cpu(name=name)
        base = 10 if "," in self.texts[CPUID] else 16
        try:
            numbers = [int(text, base) if text is not None else None for text in match.groups()[1:]]
        except ValueError:
            return footers.Cpu(name=name, vendor=match[1])
        return footers.Cpu(name=name, vendor=match[1], family=numbers[0], model=numbers[1], stepping=numbers[2])


def parse_attr(data: bytes) -> Attr:
    """A ``struct perf_event_attr`` of whatever length its writer knew.

    Raises:
        Short: it is shorter than the first version of the struct.
    """
    if len(data) < _ATTR_BYTES_MIN:
        raise Short(f"an event's attributes are {len(data)} bytes long, not {_ATTR_BYTES_MIN}")
    cursor = Cursor(data.ljust(136, b"\0"))
    kind, _size = cursor.u32(), cursor.u32()
    config, _period, sample_type, read_format, flags = cursor.u64s(5)
    cursor.at = 72
    branch_type, user_regs = cursor.u64s(2)
    return Attr(
        type=kind,
        config=config,
        sample_type=sample_type,
        read_format=read_format,
        branch_type=branch_type,
        user_regs=user_regs,
        sample_id_all=bool(flags & _SAMPLE_ID_ALL),
    )


def add_feature(header: Header, number: int, data: bytes) -> None:
    """Take one feature of the header; those that nothing here needs are left alone.

    Raises:
        Short, ValueError: it is not what it should be.
    """
    cursor = Cursor(data)
    if number == TRACING_DATA:
        header.formats = read_tracing_data(cursor)
    elif number in (HOSTNAME, OSRELEASE, ARCH, CPUDESC, CPUID):
        header.texts[number] = _text(cursor)
    elif number == CMDLINE:
        header.command = [_text(cursor) for _ in range(min(cursor.u32(), 4096))]
    elif number == EVENT_DESC:
        _add_names(header, cursor)


def _text(cursor: Cursor) -> str:
    """``struct perf_header_string``: a length that counts padding, then the text."""
    return cursor.take(cursor.u32()).split(b"\0", 1)[0].decode("utf-8", "replace")


def _add_names(header: Header, cursor: Cursor) -> None:
    count, attr_bytes = cursor.u32(), cursor.u32()
    for _ in range(min(count, _MAX_EVENTS)):
        cursor.take(attr_bytes)
        n_ids = cursor.u32()
        name = _text(cursor)
        header.names.update(dict.fromkeys(cursor.u64s(n_ids), name))


def id_position(attrs: list[Attr]) -> int | None:
    """Where in a sample the id of its event stands, in words; -1: there is one event; ``None``: nowhere."""
    if all(attr.sample_type & SAMPLE_IDENTIFIER for attr in attrs):
        return 0
    kinds = {attr.sample_type for attr in attrs}
    if len(kinds) == 1 and attrs[0].sample_type & SAMPLE_ID:
        return (attrs[0].sample_type & _BEFORE_ID).bit_count()
    return -1 if len(attrs) == 1 else None
