"""trace.dat of trace-cmd, versions 6 and 7: each CPU's ring buffer, page by page.

Clock: whatever ftrace's was. With ``trace-cmd record -C x86-tsc`` it is the TSC itself; ``local``, ``global``,
``mono``, ``boot``, … are nanoseconds. ``pid`` is the thread's: a trace.dat does not name the process.

Frames: as in perf.data, the interrupted instruction of a page fault and nothing else.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace import _native
from iretrace import footer as footers
from iretrace.errors import Damaged, InputError
from iretrace.importers import mapping
from iretrace.importers.cursor import Short
from iretrace.importers.formats import action_for
from iretrace.importers.job import Job, classes_of, cycles, ns_clock
from iretrace.importers.rows import ACTION, FIELD, N_CPUS, ROW
from iretrace.importers.trace_dat_file import MAX_PAGE_BYTES, Buffer, TraceDat, open_trace_dat, pieces

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.importers.mapping import Rule

END, FULL, MALFORMED = range(3)
"""Why a walk stops: ``enum stop`` of ``ring_scan.c``."""

_TSC_CLOCKS: Final = ("x86-tsc", "tsc2nsec")
_COUNTERS: Final = ("counter", "uptime")
_ROWS_AT_ONCE: Final = 1 << 16
_MIN_EVENT_BYTES: Final = 4
_MAX_NAMES: Final = 1 << 14


def load(file: BinaryIO, size: int | None, job: Job) -> footers.Footer:
    """Import a trace.dat.

    Args:
        file: at its beginning, seekable.
        size: its bytes.
        job: what to fill.

    Raises:
        InputError: it cannot be imported.
    """
    found = open_trace_dat(file, job.path)
    filled = [buffer for buffer in found.buffers if any(n for _, _, n in buffer.cpus)]
    if not filled:
        raise Damaged(job.path, "holds no CPU's data", expected="what trace-cmd record or extract writes")
    buffer = filled[0]
    for other in filled[1:]:
        job.notes.append(f"instance {other.name!r} is left out: {buffer.name or 'the top instance'!r} was taken")
    walk = _Walk(found, buffer, job)
    for cpu, offset, n_bytes in buffer.cpus:
        walk.read(file, cpu, offset, n_bytes)
        job.progress(min(offset + n_bytes, size or 0), size)
    walk.count()
    clock = walk.clock()
    kernel = found.uname.split()
    return job.footer(
        "iretrace import --format trace-dat",
        clock,
        classes_of(job.seen(), walk.recorded()),
        host=footers.Host(
            name=kernel[1] if len(kernel) > 1 else "",
            kernel=kernel[2] if len(kernel) > 2 else "",
            machine=kernel[3] if len(kernel) > 3 else "",
        ),
        processes=[footers.Process(pid=pid, comm=found.names[pid]) for pid in sorted(found.names)[:_MAX_NAMES]],
    )


class _Walk:
    """The walk over the pages of all CPUs."""

    def __init__(self, found: TraceDat, buffer: Buffer, job: Job) -> None:
        self._job = job
        self._found = found
        self._buffer = buffer
        self._formats = list(found.formats.by_id.values())
        self._rules: list[Rule | None] = []
        self._by_type = np.full(1 << 16, -1, np.int32)
        self._actions = np.zeros(len(self._formats), ACTION)
        for index, item in enumerate(self._formats):
            rule = mapping.find(item.system, item.event)
            self._actions[index], lacks = action_for(item, rule)
            if lacks:
                job.bad(f"event {item.name}", lacks, count=0)
            self._rules.append(rule if not lacks else None)
            self._by_type[item.id] = index
        page = found.formats.header_page
        common = found.formats.common
        self._fields = np.array([page.get("commit", (0, 0)), common("common_type"), common("common_pid")], FIELD)
        self._data_offset = page.get("data", (0, 0))[0]
        self._counts = np.zeros(len(self._formats) + 1, np.uint64)
        self._first_on_cpu = np.zeros(N_CPUS, np.uint64)
        if not self._fields["size"].all() or not 8 <= self._data_offset < buffer.page_bytes <= MAX_PAGE_BYTES:
            raise InputError(job.path, "does not say how its pages are laid out", expected="formats in its header")
        self._rows = np.empty(max(_ROWS_AT_ONCE, buffer.page_bytes // _MIN_EVENT_BYTES), ROW)

    def read(self, file: BinaryIO, cpu: int, offset: int, size: int) -> None:
        """Read one CPU's pages."""
        if cpu >= N_CPUS or not size:
            return
        at = offset
        try:
            for start, pages in pieces(file, offset, size, self._found.compression, self._buffer.page_bytes):
                at = start
                self._scan(pages, cpu, start)
        except (Short, ValueError, OverflowError, zlib.error) as error:
            self._job.bad(f"offset {at}", f"CPU {cpu}'s data cannot be read further ({error})")

    def _scan(self, pages: bytes, cpu: int, offset: int) -> None:
        page_bytes = self._buffer.page_bytes
        page, missed, cut = 0, 0, 0
        rows = self._rows
        while page < len(pages) // page_bytes:
            n, page, why, some, unknown, inside = _native.ring_scan(
                *(pages, page, page_bytes, self._data_offset, cpu, self._fields, self._actions, self._by_type),
                *(self._counts, self._first_on_cpu, rows),
            )
            missed, cut = missed + some, cut + unknown
            self._take(rows[:n])
            if why == MALFORMED:
                where = f"offset {offset}, page {page}, byte {inside}"
                self._job.bad(where, "an event is not what it should be; the rest of its page is left out")
                page += 1
        if missed or cut:
            self._job.losses.append(footers.Loss(cause="overrun", cpu=cpu, count=missed))

    def _take(self, rows: NDArray[np.void]) -> None:
        if self._in_ns and len(rows) and self._job.options.tsc_khz is not None:
            rows["tsc"] = cycles(rows["tsc"], self._job.options.tsc_khz)
        self._job.add(rows)

    @property
    def _in_ns(self) -> bool:
        return self._buffer.clock not in (*_TSC_CLOCKS, *_COUNTERS)

    def count(self) -> None:
        """Put the counts of the events into the account."""
        for item, rule, count in zip(self._formats, self._rules, self._counts[:-1].tolist(), strict=True):
            if count:
                self._job.tally.add(item.name, rule, count)
        if self._counts[-1]:
            self._job.tally.add("events of no known format", None, int(self._counts[-1]))

    def recorded(self) -> list[str]:
        """Tracepoints that occur: the file names all that the kernel has, not those that were enabled."""
        return [item.event for item, n in zip(self._formats, self._counts[:-1].tolist(), strict=True) if n]

    def clock(self) -> footers.Clock:
        """The footer's clock."""
        name = self._buffer.clock or "local"
        if name in _TSC_CLOCKS:
            khz = self._job.options.tsc_khz or self._found.tsc_khz
            return footers.Clock(source="import", tsc_khz=khz, note=f"ftrace's clock {name}: TSC cycles")
        if name in _COUNTERS:
            return footers.Clock(source="import", note=f"ftrace's clock {name}: an order of events, no time")
        return ns_clock(self._job.options, f"ftrace's clock {name}")
