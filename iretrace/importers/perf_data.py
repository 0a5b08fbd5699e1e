"""perf.data, read natively: what ``perf record -e 'irq_vectors:*_entry,…'`` wrote, to a file or into a pipe.

Samples of tracepoints become events of the trace (:mod:`iretrace.importers.mapping`); other records are used where
they say something of the whole (lost records, the clock) and counted otherwise. The walk over the records is in C
(``perf_scan.c``), a piece of the file at a time; records of each CPU's buffer lie one after the other, and the sorter
puts them into one order.

Clock: perf's own (``PERF_SAMPLE_TIME``), nanoseconds. Where the file says how it follows the TSC
(``PERF_RECORD_TIME_CONV``) the events get TSC cycles.

Frames: a tracepoint's registers are those of the kernel at the tracepoint. Of a page fault the interrupted instruction
is known; with ``--user-regs`` the whole frame, if it came from user mode. An interrupt in the idle task, or (with
``--user-regs``) in a kernel thread, returns to the kernel; of others that is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace import _native
from iretrace import footer as footers
from iretrace.errors import Damaged, InputError
from iretrace.importers import mapping, perf_header, perf_special
from iretrace.importers.formats import Format, action_for
from iretrace.importers.job import Job, classes_of, cycles, ns_clock
from iretrace.importers.perf_file import open_header
from iretrace.importers.rows import ACTION, N_CPUS
from iretrace.importers.source import read_into

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.importers.mapping import Rule
    from iretrace.importers.perf_header import Attr, Header

EVENT: Final = np.dtype(
    [
        ("sample_type", "<u8"),
        ("read_format", "<u8"),
        ("branch_type", "<u8"),
        ("user_regs", "<u8"),
        ("action", ACTION),
        ("reserved", "<u4"),
    ]
)
"""``struct perf_event`` of ``perf_scan.c``."""
ID: Final = np.dtype([("id", "<u8"), ("event", "<u8")])

END, FULL, SPECIAL, MALFORMED, LENGTH = range(5)
"""Why a walk stops: ``enum stop`` of ``perf_scan.c``."""

_CHUNK_BYTES: Final = 1 << 20
_ROWS_AT_ONCE: Final = 1 << 14
"""Both of them so small that what one step has written the next finds in the cache."""
_RECORD_HEADER_BYTES: Final = 8
_MAX_RECORD_BYTES: Final = 1 << 16
_NEEDED: Final = perf_header.SAMPLE_TIME | perf_header.SAMPLE_CPU | perf_header.SAMPLE_RAW


def load(file: BinaryIO, size: int | None, job: Job) -> footers.Footer:
    """Import a perf.data.

    Args:
        file: at its beginning; a pipe will do where the file was written to one.
        size: bytes of the file, for the progress; ``None``: not known.
        job: what to fill.

    Raises:
        InputError: it cannot be imported.
    """
    header = open_header(file, job.path)
    recording = Recording(header, job)
    recording.read(file, size)
    recording.count_events()
    clock = recording.clock()
    processes = recording.processes()
    recorded = [name.partition(":")[2] for name in recording.trap_names()]
    return job.footer(
        "iretrace import --format perf",
        clock,
        classes_of(job.seen(), recorded),
        host=header.host(),
        cpu=header.cpu(),
        command=header.command,
        processes=processes,
    )


class Recording:
    """The records of a perf.data on their way to rows.

    Args:
        header: what is known so far; in a pipe's file more comes.
        job: what to fill.
    """

    def __init__(self, header: Header, job: Job) -> None:
        self.header = header
        self.job = job
        self.conversion: perf_special.ToCycles | None = None
        self.special = perf_special.Special(self)
        self._events = np.zeros(0, EVENT)
        self._ids = np.zeros(0, ID)
        self._id_position = -1
        self._counts = np.zeros(0, np.uint64)
        self._rules: list[Rule | None] = []
        self._first_on_cpu = np.zeros(N_CPUS, np.uint64)
        self._ready = False

    def read(self, file: BinaryIO, size: int | None) -> None:
        """Read all records."""
        begin, length = self.header.data
        limit = None if self.header.pipe or not length else length
        if limit is None and not self.header.pipe:
            self.job.bad(f"offset {begin}", "the recording was cut: the header does not say where the records end")
        memory = memoryview(bytearray(_CHUNK_BYTES + _MAX_RECORD_BYTES))
        rest, position, done = 0, begin, 0
        while True:
            want = _CHUNK_BYTES if limit is None else min(_CHUNK_BYTES, max(limit - done, 0))
            n = read_into(file, memory[rest : rest + want])
            if not n:
                break
            done += n
            data = memory[: rest + n]
            used = self.scan(data, position, file)
            if used < 0:
                return
            position += used
            rest = len(data) - used
            memory[:rest] = data[used:]
            done += self.special.read_beyond
            position += self.special.read_beyond
            self.special.read_beyond = 0
            self.job.progress(min(begin + done, size or begin + done), size)
        if rest or (limit is not None and done < limit):
            self.job.bad(f"offset {position}", f"the file ends inside a record, after {rest} bytes of it")
        self.special.finish()

    def scan(self, data: bytes | memoryview, offset: int, file: BinaryIO | None) -> int:
        """Turn the records in ``data`` into rows.

        Args:
            data: whole records, the last of which may be cut.
            offset: where in the file it begins.
            file: where more can be read from, for records that are followed by data; ``None`` inside compressed ones.

        Returns:
            Bytes used; negative: the rest of the file cannot be read.
        """
        position = 0
        while True:
            position, why = self._walk(data, position)
            if why == END:
                return position
            if why != FULL:
                position = self._beside(data, position, why, offset, file)
                if position < 0:
                    return -1

    def _walk(self, data: bytes | memoryview, position: int) -> tuple[int, int]:
        """Read samples up to what is none; where that is, and why it stopped there."""
        if not self._ready and (not self.header.pipe or _kind(data, position) == perf_special.SAMPLE):
            self.prepare()
        if self._ready:
            rows = self.job.sorter.room()[:_ROWS_AT_ONCE]
            n, position, why = _native.perf_scan(
                *(data, position, self._events, self._ids, self._id_position, self.special.types),
                *(self._counts, self._first_on_cpu, rows),
            )
            self._take(rows[:n])
            return position, why
        length = _length(data, position)  # a pipe's events come before its samples
        if len(data) - position < max(length, _RECORD_HEADER_BYTES):
            return position, END
        if length < _RECORD_HEADER_BYTES:
            return position, LENGTH
        handled = _kind(data, position) >= len(self.special.types) or self.special.types[_kind(data, position)]
        return (position, SPECIAL) if handled else (position + length, FULL)

    def _beside(self, data: bytes | memoryview, position: int, why: int, offset: int, file: BinaryIO | None) -> int:
        """Deal with a record at which the walk stopped; where the next one begins, negative: nowhere."""
        where, length = f"offset {offset + position}", _length(data, position)
        if why == LENGTH:
            self.job.bad(where, f"a record of {length} bytes; what follows cannot be read")
            return -1
        if why == MALFORMED:
            self.job.bad(where, "a sample does not hold what its event promises")
            return position + length
        record = bytes(data[position : position + length])
        after = memoryview(data)[position + length :]
        return position + length + self.special.take(record, where, after, file)

    def prepare(self) -> None:
        """Make the tables of events for the walk; all that is known of them has been read.

        Raises:
            InputError: none of them is a trap's, or they lack what a trace needs.
        """
        self._ready = True
        attrs = self.header.attrs
        if not attrs:
            raise Damaged(self.job.path, "holds samples, but names no event", expected="an intact perf.data")
        position = perf_header.id_position(attrs)
        if position is None:
            raise InputError(self.job.path, "its samples do not say which event they are of", expected="sample ids")
        self._id_position = position
        self._events = np.zeros(len(attrs), EVENT)
        self._counts = np.zeros(len(attrs), np.uint64)
        self._rules = []
        for event, attr in zip(self._events, attrs, strict=True):
            event["sample_type"], event["read_format"] = attr.sample_type, attr.read_format
            event["branch_type"], event["user_regs"] = attr.branch_type, attr.user_regs
            rule, action = self._meaning(attr)
            self._rules.append(rule)
            event["action"] = action
        if not self._events["action"]["is_trap"].any():
            names = ", ".join(sorted({self.header.name_of(attr) for attr in attrs})[:6])
            lacks = "" if self.header.formats is not None else " (and it holds no formats of tracepoints)"
            raise InputError(
                self.job.path,
                f"none of its events is a trap's: {names}{lacks}",
                expected="irq_vectors, exceptions, irq or nmi tracepoints",
                remedy="record with: perf record -a -e 'exceptions:*,irq:*,nmi:*,irq_vectors:*_entry,…' (see docs)",
            )
        pairs = sorted({one: index for index, attr in enumerate(attrs) for one in attr.ids}.items())
        self._ids = np.array(pairs, ID) if pairs else np.zeros(0, ID)

    def _meaning(self, attr: Attr) -> tuple[Rule | None, np.void]:
        nothing = np.zeros(1, ACTION)[0]
        item: Format | None = None
        if attr.type == perf_header.TYPE_TRACEPOINT and self.header.formats is not None:
            item = self.header.formats.by_id.get(attr.config)
        if item is None:
            return None, nothing
        rule = mapping.find(item.system, item.event)
        action, lacks = action_for(item, rule)
        if action["is_trap"] and attr.sample_type & _NEEDED != _NEEDED:
            lacks = "recorded without its time, CPU or raw data"
        if lacks:
            self.job.bad(f"event {item.name}", lacks, count=0)
            return None, nothing
        return rule, action

    def _take(self, rows: NDArray[np.void]) -> None:
        if not len(rows):
            return
        if self.conversion is not None or self.job.options.tsc_khz is not None:
            rows["tsc"] = self.to_tsc(rows["tsc"])
        self.job.took(rows)

    def to_tsc(self, nanoseconds: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Perf's time to the trace's."""
        if self.conversion is not None:
            return self.conversion.tsc(nanoseconds)
        khz = self.job.options.tsc_khz
        return nanoseconds if khz is None else cycles(nanoseconds, khz)

    def count_events(self) -> None:
        """Put the counts of the events into the account."""
        if self._ready:
            for attr, rule, count in zip(self.header.attrs, self._rules, self._counts.tolist(), strict=True):
                self.job.tally.add(self.header.name_of(attr), rule, count)

    def trap_names(self) -> list[str]:
        """Tracepoints of traps that were recorded."""
        return [
            self.header.name_of(attr)
            for attr, rule in zip(self.header.attrs, self._rules, strict=False)
            if rule is not None and rule.trap
        ]

    def processes(self) -> list[footers.Process]:
        """What the processes with traps were called; names that were too many become a loss."""
        processes, losses = self.special.tasks.named(self.job.met, self.to_tsc)
        self.job.losses += losses
        return processes

    @property
    def began(self) -> bool:
        """Whether samples have been read."""
        return bool(self.job.sorter.n_rows)

    @property
    def sample_type(self) -> int:
        """The first event's: it tells what the ends of other records hold."""
        attr = self.header.attrs[0] if self.header.attrs else None
        return attr.sample_type if attr is not None and attr.sample_id_all else 0

    def clock(self) -> footers.Clock:
        """The footer's clock."""
        if self.conversion is not None:
            note = "perf's time, put back into TSC cycles as the file says (PERF_RECORD_TIME_CONV)"
            return footers.Clock(source="import", tsc_khz=self.conversion.khz, note=note)
        return ns_clock(self.job.options, "perf's time")


def _kind(data: bytes | memoryview, position: int) -> int:
    return int.from_bytes(data[position : position + 4], "little")


def _length(data: bytes | memoryview, position: int) -> int:
    return int.from_bytes(data[position + 6 : position + 8], "little")
