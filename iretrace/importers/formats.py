"""The formats of tracepoints, as perf.data and trace.dat carry them: where each field lies is never assumed.

Layout: ``tools/perf/util/trace-event-info.c`` and ``trace-cmd.dat.v6(5)``; the text of a format is that of
``/sys/kernel/tracing/events/SYSTEM/EVENT/format``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.importers import mapping
from iretrace.importers.cursor import Cursor, Short
from iretrace.importers.rows import ACTION, TARGET_KERNEL, TARGET_UNKNOWN, TARGET_USER, VECTOR_FIELD, VECTOR_NONE

if TYPE_CHECKING:
    from iretrace.importers.mapping import Rule

MAGIC: Final = b"\x17\x08\x44tracing"
_FIELD = re.compile(r"field:\s*([^;]*);\s*offset:\s*(\d+);\s*size:\s*(\d+);")
_ID = re.compile(r"^ID:\s*(\d+)", re.MULTILINE)
_NAME = re.compile(r"^name:\s*(\S+)", re.MULTILINE)
_MAX_SYSTEMS: Final = 4096
_MAX_EVENTS: Final = 1 << 16
_SIZES: Final = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class Format:
    """One tracepoint.

    Attributes:
        id: its number, as in an event's ``common_type``.
        system: its group.
        event: its name.
        fields: offset and size of each field, by name.
    """

    id: int
    system: str
    event: str
    fields: dict[str, tuple[int, int]]

    @property
    def name(self) -> str:
        """``system:event``."""
        return f"{self.system}:{self.event}"


@dataclass(kw_only=True)
class Formats:
    """What the tracing data of a file says.

    Attributes:
        by_id: the tracepoints.
        header_page: fields of a ring buffer's page.
        page_bytes: size of a page.
        long_bytes: size of the kernel's ``long``.
    """

    by_id: dict[int, Format] = field(default_factory=dict)
    header_page: dict[str, tuple[int, int]] = field(default_factory=dict)
    page_bytes: int = 4096
    long_bytes: int = 8

    def common(self, name: str) -> tuple[int, int]:
        """Where a field lies that all tracepoints begin with; size 0: nowhere."""
        for item in self.by_id.values():
            if name in item.fields:
                return item.fields[name]
        return (0, 0)

    def add(self, text: str, system: str) -> None:
        """Take a tracepoint's format; one that does not say its number is left out."""
        number, name = _ID.search(text), _NAME.search(text)
        if number is None or name is None or len(number[1]) > 5 or int(number[1]) > 65535:
            return
        found = Format(id=int(number[1]), system=system, event=name[1], fields=parse_fields(text))
        self.by_id[found.id] = found


def parse_fields(text: str) -> dict[str, tuple[int, int]]:
    """Offset and size of each field of a format."""
    found = {}
    for declaration, offset, size in _FIELD.findall(text):
        name = declaration.split("[")[0].split()[-1:] or [""]
        if len(offset) <= 5 and len(size) <= 5:
            found[name[0].lstrip("*")] = (int(offset), int(size))
    return found


def read_tracing_data(cursor: Cursor, *, sections: bool = True) -> Formats:
    """Read tracing data from its magic on; the cursor then stands behind the events' formats.

    Args:
        cursor: where it begins.
        sections: whether all parts follow the magic (perf.data and trace.dat v6), or only its first fields do.

    Raises:
        Short: it is cut.
        ValueError: it is none.
    """
    if cursor.take(len(MAGIC)) != MAGIC:
        raise ValueError("the tracing data has no magic")
    cursor.text()  # version
    if cursor.take(1) != b"\x00":
        raise ValueError("the tracing data is big-endian; x86 is little-endian")
    formats = Formats(long_bytes=cursor.take(1)[0], page_bytes=cursor.u32())
    if sections:
        read_header_page(cursor, formats)
        read_ftrace_formats(cursor, formats)
        read_event_formats(cursor, formats)
    return formats


def read_header_page(cursor: Cursor, formats: Formats) -> None:
    """The formats of a page and of an event's header."""
    for expected in ("header_page", "header_event"):
        if cursor.text() != expected:
            raise ValueError(f"the tracing data lacks {expected}")
        text = _sized(cursor, cursor.u64())
        if expected == "header_page":
            formats.header_page = parse_fields(text)


def read_ftrace_formats(cursor: Cursor, formats: Formats) -> None:
    """The formats of ftrace's own events."""
    count = cursor.u32()
    if count > _MAX_EVENTS:
        raise ValueError(f"{count} events of ftrace")
    for _ in range(count):
        formats.add(_sized(cursor, cursor.u64()), "ftrace")


def read_event_formats(cursor: Cursor, formats: Formats) -> None:
    """The formats of the tracepoints, system by system."""
    systems = cursor.u32()
    if systems > _MAX_SYSTEMS:
        raise ValueError(f"{systems} systems of tracepoints")
    for _ in range(systems):
        system = cursor.text()
        count = cursor.u32()
        if count > _MAX_EVENTS:
            raise ValueError(f"{count} events of {system}")
        for _ in range(count):
            formats.add(_sized(cursor, cursor.u64()), system)


def _sized(cursor: Cursor, size: int) -> str:
    if size > cursor.left:
        raise Short(f"a format of {size} bytes at {cursor.at}, {cursor.left} are there")
    return cursor.take(size).decode("utf-8", "replace")


def action_for(item: Format, rule: Rule | None) -> tuple[np.void, str]:
    """How a tracepoint's bytes become a row.

    Returns:
        The action, and what its format lacks (empty: nothing); an event that lacks a field is no trap.
    """
    action = np.zeros(1, ACTION)
    if rule is None or not rule.trap:
        return action[0], ""
    action["phase"] = rule.phase == "exit"
    action["hook"] = mapping.HOOKS.index(rule.hook)
    target = {None: TARGET_UNKNOWN, False: TARGET_USER, True: TARGET_KERNEL}[rule.to_kernel]
    action["target"] = target
    action["vector"] = VECTOR_NONE if rule.vector is None else rule.vector
    wanted = {
        "vector_at": rule.vector_field,
        "irq_at": rule.irq_field,
        "ip_at": rule.ip_field,
        "error_code_at": rule.error_code_field,
        "once_at": rule.once_field,
    }
    for place, name in wanted.items():
        if not name:
            continue
        offset, size = item.fields.get(name, (0, 0))
        if size not in _SIZES:
            return np.zeros(1, ACTION)[0], f"its format has no field {name!r} of 1 to 8 bytes"
        action[place] = (offset, size)
    if rule.vector_field:
        action["vector"] = VECTOR_FIELD
    action["is_trap"] = 1
    return action[0], ""
