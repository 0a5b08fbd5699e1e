"""The emulator's own list of every trap: logs of ``qemu-system-x86_64 -d int -D FILE``, a file a virtual CPU or one.

Each trap is a line with its vector, error code and frame, followed by the CPU's registers, of which the flags are taken
(``do_interrupt_all()`` in ``target/i386/tcg/seg_helper.c``). Returns are not logged: every trap is a point.

Time is not in the log. QEMU numbers the traps of all its CPUs; that number stands for ``tsc``, so that the order is
right and nothing else. Where the count begins again (a second run that was appended) it goes on from where it was.

``int n`` is logged with the address of the instruction; its frame returns behind it: one byte for ``int3``, two for
others. Of ``-d int,tid -D log.%d`` each file is a CPU: CPUs are numbered in the order in which the files are given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iretrace import footer as footers
from iretrace.importers import mapping
from iretrace.importers.lines import blocks, extract, hexadecimals, integers
from iretrace.importers.rows import KNOWN, ROW, TO_KERNEL
from iretrace.vectors import BP, vector_name

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.importers.job import Job
    from iretrace.importers.lines import Block

_TRAP: Final = (
    r"^\s*(?P<n>\d+): v=(?P<vector>[0-9a-f]{2}) e=(?P<error>[0-9a-f]{4,8}) i=(?P<int>[01]) cpl=(?P<cpl>[0-3]) "
    r"IP=(?P<cs>[0-9a-f]{4}):(?P<ip>[0-9a-f]{1,16}) pc=[0-9a-f]+ SP=[0-9a-f]{4}:(?P<sp>[0-9a-f]{1,16})\b"
)
_FLAGS: Final = r"\b[RE]FL=(?P<flags>[0-9a-f]{1,16}) "
_WITH_ERROR_CODE: Final = (8, 10, 11, 12, 13, 14, 17, 21, 29, 30)
_NEW_RUN: Final = 1 << 16
"""The count of traps is not locked between virtual CPUs: a small step back is a race, a large one a new run."""
_EVERYTHING: Final = sum(KNOWN[name] for name in ("vector", "cs", "ip", "sp", "to_kernel"))
_MAX_HELD_LINES: Final = 4096


def load(file: BinaryIO, size: int | None, job: Job) -> footers.Footer:
    """Import a log.

    Args:
        file: at its beginning; a pipe will do.
        size: its bytes; ``None``: a pipe.
        job: what to fill; ``job.cpu`` is the virtual CPU.

    Raises:
        InputError: it cannot be imported.
    """
    log = _Log(job)
    for block in blocks(file, size, job):
        log.take(block)
    for vector in np.flatnonzero(log.counts).tolist():
        rule = mapping.Rule(system="", event="", trap=vector_name(vector), vector=vector, hook="qemu")
        job.tally.add(f"v={vector:02x}", rule, int(log.counts[vector]))
    classes = [
        footers.TrapClass(name=vector_name(v), vectors=[v], entry="qemu", frame="the log", lacks="the exit: not logged")
        for v in sorted(vector for vector, _, _ in job.seen() if vector is not None)
    ]
    note = "the emulator's count of traps: an order of events, no time"
    return job.footer("iretrace import --format qemu", footers.Clock(source="import", note=note), classes)


class _Log:
    """The lines on their way to rows."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._held: pa.StringArray = pa.array([], pa.string())
        """Lines from the last trap on: its flags may come in the next block."""
        self._last = 0
        self._shift = 0
        self.counts = np.zeros(256, np.int64)
        job.sorter.hooks = ["qemu"]

    def take(self, block: Block) -> None:
        """Take some lines."""
        first = block.first - len(self._held)
        lines = pa.concat_arrays([self._held, block.lines])
        begins = np.flatnonzero(pc.match_substring(lines, ": v=").to_numpy(zero_copy_only=False))
        if not len(begins):
            self._held = pa.array([], pa.string())
            return
        end = len(lines)
        if not block.last and end - int(begins[-1]) < _MAX_HELD_LINES:
            end = int(begins[-1])
            begins = begins[:-1]
        self._held = lines[end:]
        if len(begins):
            self._traps(lines[:end], begins, first)

    def _traps(self, lines: pa.StringArray, begins: NDArray[np.int64], first: int) -> None:
        found = extract(lines.take(pa.array(begins)), _TRAP)
        good = found.is_valid().to_numpy(zero_copy_only=False)
        for row in np.flatnonzero(~good).tolist():
            self._job.bad(f"line {first + int(begins[row])}", "is no line of a trap")
        rows = np.zeros(len(begins), ROW)
        number, counted = integers(found.field("n"))
        values = {}
        for name in ("vector", "error", "cs", "ip", "sp"):
            values[name], read = hexadecimals(found.field(name))
            good &= read
        good &= counted
        rows["cpu"], rows["known"] = self._job.cpu, _EVERYTHING
        vector = values["vector"] % np.uint64(256)
        software = pc.equal(found.field("int"), "1").fill_null(False).to_numpy(zero_copy_only=False)  # noqa: FBT003
        length = np.where(vector == BP, np.uint64(1), np.uint64(2))
        rows["vector"], rows["cs"], rows["sp"] = vector, values["cs"] % np.uint64(1 << 16), values["sp"]
        rows["ip"] = values["ip"] + np.where(software, length, np.uint64(0))
        has_code = np.isin(vector, _WITH_ERROR_CODE) & ~software
        rows["error_code"] = np.where(has_code, values["error"] % np.uint64(1 << 32), np.uint64(0))
        rows["known"] |= np.where(has_code, np.uint16(KNOWN["error_code"]), np.uint16(0))
        rows["known"] |= np.where(values["cs"] & np.uint64(3), np.uint16(0), np.uint16(TO_KERNEL))
        self._add_flags(rows, lines, begins)
        rows, number = rows[good], number[good]
        rows["tsc"] = self._order(number)
        self.counts += np.bincount(rows["vector"], minlength=256)
        self._job.add(rows)

    @staticmethod
    def _add_flags(rows: NDArray[np.void], lines: pa.StringArray, begins: NDArray[np.int64]) -> None:
        """The flags: in the registers between a trap and the next one."""
        at = np.flatnonzero(pc.match_substring(lines, "FL=").to_numpy(zero_copy_only=False))
        if not len(at):
            return
        flags, read = hexadecimals(extract(lines.take(pa.array(at)), _FLAGS).field("flags"))
        where = np.searchsorted(at, begins)
        there = where < len(at)
        where = np.minimum(where, len(at) - 1)
        there &= (at[where] < np.append(begins[1:], len(lines))) & read[where]
        rows["flags"] = np.where(there, flags[where] % np.uint64(1 << 32), np.uint64(0))
        rows["known"] |= np.where(there, np.uint16(KNOWN["flags"]), np.uint16(0))

    def _order(self, number: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """The count of traps, going on where it begins again."""
        if not len(number):
            return number
        before = np.concatenate([np.array([self._last], np.uint64), number[:-1]])
        again = (before > number) & (before - number > np.uint64(_NEW_RUN)) | ((number == 0) & (before > 0))
        shifts = self._shift + np.cumsum(np.where(again, before + np.uint64(1), np.uint64(0)).astype(np.uint64))
        self._last, self._shift = int(number[-1]), int(shifts[-1])
        order: NDArray[np.uint64] = number + shifts.astype(np.uint64)
        return order
