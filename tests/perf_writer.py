"""Writes perf.data as perf does, from samples given as dictionaries: what the real tool will not record to order."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any, Final

PAGE_FORMAT: Final = (
    "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n"
    "\tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n"
    "\tfield: char data;\toffset:16;\tsize:4080;\tsigned:0;\n"
)
COMMON: Final = (
    "\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n"
    "\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;\n"
    "\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n"
)


@dataclass(frozen=True, kw_only=True)
class Tracepoint:
    """A tracepoint: its fields are (name, offset, size)."""

    id: int
    system: str
    event: str
    fields: tuple[tuple[str, int, int], ...]

    def text(self) -> bytes:
        """Its format, as the kernel prints it."""
        lines = "".join(f"\tfield:u64 {n};\toffset:{o};\tsize:{s};\tsigned:0;\n" for n, o, s in self.fields)
        return f'name: {self.event}\nID: {self.id}\nformat:\n{COMMON}{lines}\nprint fmt: ""\n'.encode()

    def raw(self, values: dict[str, int]) -> bytes:
        """An event's bytes; the kernel pads them so that they and their size fill words."""
        size = max(o + s for _, o, s in self.fields)
        data = bytearray(size + (-(size + 4)) % 8)
        struct.pack_into("<HBBi", data, 0, self.id, 0, 0, values.get("pid", 0))
        for name, offset, width in self.fields:
            data[offset : offset + width] = values[name].to_bytes(width, "little")
        return bytes(data)


FAULT_USER: Final = Tracepoint(
    id=190,
    system="exceptions",
    event="page_fault_user",
    fields=(("address", 8, 8), ("ip", 16, 8), ("error_code", 24, 8)),
)
TIMER_ENTRY: Final = Tracepoint(id=165, system="irq_vectors", event="local_timer_entry", fields=(("vector", 8, 4),))
TIMER_EXIT: Final = Tracepoint(id=164, system="irq_vectors", event="local_timer_exit", fields=(("vector", 8, 4),))
IRQ_ENTRY: Final = Tracepoint(id=225, system="irq", event="irq_handler_entry", fields=(("irq", 8, 4), ("name", 12, 4)))
NMI: Final = Tracepoint(id=170, system="nmi", event="nmi_handler", fields=(("handler", 8, 8), ("handled", 24, 4)))
SOFTIRQ: Final = Tracepoint(id=223, system="irq", event="softirq_entry", fields=(("vec", 8, 4),))
STRANGE: Final = Tracepoint(id=77, system="my", event="own_event", fields=(("x", 8, 4),))
TRACEPOINTS: Final = (FAULT_USER, TIMER_ENTRY, TIMER_EXIT, IRQ_ENTRY, NMI, SOFTIRQ, STRANGE)

IP, TID, TIME, ADDR, READ, CALLCHAIN, ID, CPU, PERIOD, STREAM, RAW, BRANCH, REGS = (1 << bit for bit in range(13))
IDENTIFIER: Final = 1 << 16
REGS_MASK: Final = 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10  # sp, ip, flags, cs


def tracing_data(tracepoints: tuple[Tracepoint, ...] = TRACEPOINTS) -> bytes:
    """HEADER_TRACING_DATA."""
    parts = [b"\x17\x08\x44tracing0.6\0\0\x08", struct.pack("<I", 4096)]
    for name, text in (("header_page", PAGE_FORMAT.encode()), ("header_event", b"# compressed entry header\n")):
        parts += [name.encode() + b"\0", struct.pack("<Q", len(text)), text]
    parts.append(struct.pack("<I", 0))
    systems = sorted({item.system for item in tracepoints})
    parts.append(struct.pack("<I", len(systems)))
    for system in systems:
        own = [item for item in tracepoints if item.system == system]
        parts += [system.encode() + b"\0", struct.pack("<I", len(own))]
        for item in own:
            parts += [struct.pack("<Q", len(item.text())), item.text()]
    return b"".join([*parts, struct.pack("<IIQ", 0, 0, 0)])


@dataclass(kw_only=True)
class PerfFile:
    """A recording: every tracepoint is an event of one sample type."""

    sample_type: int = IDENTIFIER | IP | TID | TIME | CPU | PERIOD | RAW
    read_format: int = 0
    tracepoints: tuple[Tracepoint, ...] = TRACEPOINTS
    records: list[bytes] = field(default_factory=list)

    def ids(self, index: int) -> tuple[int, int]:
        """The two ids of an event (one a CPU)."""
        return 1000 + 2 * index, 1001 + 2 * index

    def sample(self, item: Tracepoint, *, time: int, cpu: int, pid: int, raw: bytes, **more: Any) -> bytes:
        """A sample's record."""
        kind, identifier = self.sample_type, self.ids(self.tracepoints.index(item))[cpu % 2]
        parts = []
        for bit, data in (
            (IDENTIFIER, struct.pack("<Q", identifier)),
            (IP, b"\1" * 8),
            (TID, struct.pack("<II", pid, pid + 1)),
            (TIME, struct.pack("<Q", time)),
            (ADDR, b"\2" * 8),
            (ID, struct.pack("<Q", identifier)),
            (STREAM, b"\3" * 8),
            (CPU, struct.pack("<II", cpu, 0)),
            (PERIOD, b"\4" * 8),
            (READ, self._read()),
            (CALLCHAIN, struct.pack("<Q", 3) + b"\5" * 24),
            (RAW, struct.pack("<I", len(raw)) + raw),
            (BRANCH, struct.pack("<Q", 2) + b"\6" * 48),
            (REGS, struct.pack("<QQQQQ", 2, *more["regs"]) if more.get("regs") else struct.pack("<Q", 0)),
        ):
            if kind & bit:
                parts.append(data)
        return record(9, b"".join(parts))

    def _read(self) -> bytes:
        words = 1 + (self.read_format & 1) + (self.read_format >> 1 & 1)
        each = 1 + (self.read_format >> 2 & 1) + (self.read_format >> 4 & 1)
        if self.read_format & 8:
            return struct.pack("<Q", 2) + b"\7" * 8 * (words - 1 + 2 * each)
        return b"\7" * 8 * (words - 1 + each)

    def attr(self, item: Tracepoint) -> bytes:
        """``struct perf_event_attr``."""
        flags = 1 << 18
        head = struct.pack("<IIQQQQQ", 2, 128, item.id, 1, self.sample_type, self.read_format, flags)
        return (head.ljust(80, b"\0") + struct.pack("<Q", REGS_MASK)).ljust(128, b"\0")

    def to_file(self) -> bytes:
        """The bytes of a perf.data."""
        ids_at = 104
        attrs_at = ids_at + 16 * len(self.tracepoints)
        data_at = attrs_at + 144 * len(self.tracepoints)
        data = b"".join(self.records)
        out = [b"PERFILE2", struct.pack("<QQQQQQQQ", 104, 144, attrs_at, data_at - attrs_at, data_at, len(data), 0, 0)]
        out.append((1 << 1 | 1 << 3).to_bytes(32, "little"))
        out += [struct.pack("<QQ", *self.ids(index)) for index in range(len(self.tracepoints))]
        for index, item in enumerate(self.tracepoints):
            out += [self.attr(item), struct.pack("<QQ", ids_at + 16 * index, 16)]
        table_at = data_at + len(data)
        formats, host = tracing_data(self.tracepoints), struct.pack("<I", 8) + b"box\0\0\0\0\0"
        out += [data, struct.pack("<QQQQ", table_at + 32, len(formats), table_at + 32 + len(formats), len(host))]
        return b"".join([*out, formats, host])

    def to_pipe(self) -> bytes:
        """The bytes that perf record writes to a pipe."""
        formats = tracing_data(self.tracepoints)
        out = [b"PERFILE2", struct.pack("<Q", 16), record(69, b"\0" * 8)]
        out += [
            record(64, self.attr(item) + struct.pack("<QQ", *self.ids(index)))
            for index, item in enumerate(self.tracepoints)
        ]
        out += [record(66, struct.pack("<II", len(formats), 0)), formats.ljust(-(-len(formats) // 8) * 8, b"\0")]
        return b"".join([*out, *self.records])


def record(kind: int, body: bytes, misc: int = 0) -> bytes:
    """A record with its header."""
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body
