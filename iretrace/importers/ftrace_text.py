"""Text of ftrace and of perf: ``trace``, ``trace_pipe``, ``trace-cmd report``, ``perf script``.

A line is ``TASK-PID [CPU] FLAGS TIME: EVENT: FIELD=VALUE …``; perf has ``TASK PID [CPU] TIME: SYSTEM:EVENT: …``, the
flags may be missing, and so may the system. Times with a point are seconds, without one they are counts of the
``x86-tsc`` clock (or of ``counter``, which the text does not tell apart). ``pid`` is the thread's, unless the text has
the process too (ftrace's ``record-tgid``, ``perf script -F pid,tid``).

An address that the text gives as a symbol (``ip=elf_load``) is not known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iretrace import footer as footers
from iretrace.importers import mapping
from iretrace.importers.job import Job, classes_of, cycles, ns_clock
from iretrace.importers.lines import blocks, extract, hexadecimals, integers
from iretrace.importers.rows import KNOWN, ROW, TO_KERNEL

if TYPE_CHECKING:
    from typing import BinaryIO

    from numpy.typing import NDArray

    from iretrace.importers.lines import Block
    from iretrace.importers.mapping import Rule

_LINE: Final = (
    r"^.*?[- ](?P<pid>\d+)(?:/\d+)?\s+(?:\(\s*(?P<tgid>[\d-]+)\)\s+)?\[(?P<cpu>\d+)\](?:\s+[^\s:]+\s+|\s*)"
    r"(?P<time>\d+)(?P<part>\.\d{1,9})?:\s+(?:(?P<system>[A-Za-z_]\w*):)?(?P<event>[A-Za-z_]\w*):(?P<rest>.*)$"
)
_NOISE: Final = (
    r"^\s*$|^#|^cpus=\d+|^version = |^CPU \d+ is empty|^CPU\d+|^\s*=>|^\s+[0-9a-f]{6,16} |<stack trace|^\s*\[\d+\] <|"
    r"^Buffer: |^\s+<| <-|^\s*trigger"
)
"""Lines that are no events: comments, headings, stacks, the function tracer's."""
_LOST: Final = r"^CPU:\s*(?P<cpu>\d+) \[(?:LOST )?(?P<n>\d*) ?EVENTS"
_SECOND: Final = np.uint64(10**9)
_CHANGE: Final = "the clock changes from seconds to counts"


def load(file: BinaryIO, size: int | None, job: Job) -> footers.Footer:
    """Import a text.

    Args:
        file: at its beginning; a pipe will do.
        size: its bytes; ``None``: a pipe.
        job: what to fill.

    Raises:
        InputError: it cannot be imported.
    """
    text = _Text(job)
    for block in blocks(file, size, job):
        text.take(block)
    job.losses += [footers.Loss(cause="overrun", cpu=cpu, count=n) for cpu, n in sorted(text.lost.items())]
    note = "the text's times are whole numbers: counts of ftrace's x86-tsc clock"
    clock = (
        footers.Clock(source="import", tsc_khz=job.options.tsc_khz, note=note)
        if text.counts
        else ns_clock(job.options, "the text's time")
    )
    recorded = [name.rpartition(":")[2] for name in job.tally.events if job.tally.meaning(name) == "trap"]
    return job.footer("iretrace import --format ftrace", clock, classes_of(job.seen(), recorded))


class _Text:
    """The lines on their way to rows."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.lost: dict[int, int] = {}
        self.counts: bool | None = None
        """Whether times are counts; ``None``: no event yet."""
        self._first_handler: dict[int, str] = {}

    def take(self, block: Block) -> None:
        """Take some lines."""
        found = extract(block.lines, _LINE)
        matched = found.is_valid()
        here = matched.to_numpy(zero_copy_only=False)
        if not here.all():
            self._others(block, ~here)
        if not here.any():
            return
        numbers = block.first + np.flatnonzero(here)
        fields = {field.name: found.field(field.name).filter(matched) for field in found.type}
        time, good = self._times(fields)
        cpu, cpu_good = integers(fields["cpu"], 16)
        process = pc.match_substring_regex(fields["tgid"], r"^\d+$")
        pid, pid_good = integers(pc.if_else(process, fields["tgid"], fields["pid"]), 32)
        self._tell(~good, numbers, "its time cannot be read" if self.counts is None else _CHANGE)
        self._tell(good & ~(cpu_good & pid_good), numbers, "its CPU or process is out of range")
        good &= cpu_good & pid_good
        rows = np.zeros(len(numbers), ROW)
        rows["tsc"], rows["cpu"], rows["pid"] = time, cpu % N16, pid % N32
        taken = self._events(fields, rows, good, numbers)
        self._job.add(rows[taken])

    def _times(self, fields: dict[str, Any]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
        """Times in cycles of the trace, and which could be read."""
        whole, good = integers(fields["time"])
        point = pc.starts_with(fields["part"], ".").to_numpy(zero_copy_only=False)
        if self.counts is None:
            self.counts = not bool(point[0])
        good &= point != self.counts
        if self.counts:
            return whole, good
        part = pc.utf8_rpad(pc.utf8_slice_codeunits(fields["part"], 1), 9, "0")
        nanoseconds, part_good = integers(part)
        good &= part_good & (whole < np.uint64(2**64 // 10**9))
        time = np.where(good, whole, np.uint64(0)) * _SECOND + nanoseconds
        return (cycles(time, self._job.options.tsc_khz) if self._job.options.tsc_khz is not None else time), good

    def _events(
        self, fields: dict[str, Any], rows: NDArray[np.void], good: NDArray[np.bool_], numbers: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Fill in what each event says; which rows are traps."""
        names = pc.binary_join_element_wise(fields["system"], fields["event"], ":").dictionary_encode()
        codes = names.indices.to_numpy(zero_copy_only=False)
        taken = np.zeros(len(rows), np.bool_)
        for code, joined in enumerate(names.dictionary.to_pylist()):
            system, _, event = joined.rpartition(":")
            rule = mapping.find(system, event)
            mine = np.flatnonzero((codes == code) & good)
            self._job.tally.add(joined.lstrip(":"), rule, len(mine))
            if rule is not None and rule.trap and len(mine):
                rest = fields["rest"].take(pa.array(mine))
                part = rows[mine]
                read = self._read(rule, rest, part)
                self._tell(~read, numbers[mine], f"{event} does not say what it should")
                read &= self._first_of_its_cpu(rule, rest, part)
                rows[mine] = part
                taken[mine[read]] = True
        return taken

    @staticmethod
    def _read(rule: Rule, rest: pa.StringArray, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        """Read an event's fields into rows; which could be read."""
        read = np.ones(len(rows), np.bool_)
        rows["phase"] = rule.phase == "exit"
        rows["hook"] = mapping.HOOKS.index(rule.hook)
        if rule.vector is not None:
            rows["vector"] = rule.vector
            rows["known"] |= KNOWN["vector"]
        for name, column, bits in ((rule.vector_field, "vector", 8), (rule.irq_field, "irq", 16)):
            if name:
                values, good = integers(extract(rest, rf"\b{name}=(?P<n>\d+)").field("n"), bits)
                rows[column] = values % np.uint64(1 << bits)
                rows["known"] |= KNOWN[column]
                read &= good
        for name, column in ((rule.ip_field, "ip"), (rule.error_code_field, "error_code")):
            if name:
                values, good = hexadecimals(extract(rest, rf"\b{name}=0x(?P<n>[0-9a-f]{{1,16}})\b").field("n"))
                good &= values < np.uint64(2**32) if column == "error_code" else True
                rows[column] = np.where(good, values, np.uint64(0))
                rows["known"] |= np.where(good, np.uint16(KNOWN[column]), np.uint16(0))
        kernel = rows["pid"] == 0 if rule.to_kernel is None else np.full(len(rows), rule.to_kernel)
        if rule.to_kernel is not None or kernel.any():
            told = np.ones(len(rows), np.bool_) if rule.to_kernel is not None else kernel
            rows["known"] |= np.where(told, np.uint16(KNOWN["to_kernel"]), np.uint16(0))
            rows["known"] |= np.where(kernel, np.uint16(TO_KERNEL), np.uint16(0))
        return read

    def _first_of_its_cpu(self, rule: Rule, rest: pa.StringArray, rows: NDArray[np.void]) -> NDArray[np.bool_]:
        """Of events that repeat for each handler, those of a CPU's first handler."""
        if not rule.once_field:
            return np.ones(len(rows), np.bool_)
        handler = extract(rest, r"^\s*(?P<h>[\w.]+)").field("h").fill_null("")
        keys = pc.binary_join_element_wise(pa.array(rows["cpu"]).cast(pa.string()), handler, " ").dictionary_encode()
        codes = keys.indices.to_numpy(zero_copy_only=False)
        kept = []
        for text in keys.dictionary.to_pylist():  # in the order of their first appearance
            cpu, _, name = text.partition(" ")
            kept.append(self._first_handler.setdefault(int(cpu), name) == name)
        first: NDArray[np.bool_] = np.array(kept, np.bool_)[codes]
        return first

    def _others(self, block: Block, which: NDArray[np.bool_]) -> None:
        """Lines that are no events: losses, noise, and what cannot be read."""
        index = np.flatnonzero(which)
        lines = block.lines.take(pa.array(index))
        bad = ~pc.match_substring_regex(lines, _NOISE).to_numpy(zero_copy_only=False)
        lost = extract(lines, _LOST)
        for row in np.flatnonzero(lost.is_valid().to_numpy(zero_copy_only=False)).tolist():
            bad[row] = False
            cpu, n = lost[row]["cpu"].as_py(), lost[row]["n"].as_py()
            if len(cpu) <= 5 and int(cpu) < N16:
                self.lost[int(cpu)] = self.lost.get(int(cpu), 0) + (int(n[:15]) if n else 0)
        self._tell(bad, block.first + index, "is no line of an event")

    def _tell(self, bad: NDArray[np.bool_], numbers: NDArray[np.int64], found: str) -> None:
        rows = np.flatnonzero(bad)
        for row in rows[:8].tolist():
            self._job.bad(f"line {numbers[row]}", found)
        if len(rows) > 8:
            self._job.bad(f"line {numbers[rows[8]]}", found, count=len(rows) - 8)


N16: Final = 1 << 16
N32: Final = 1 << 32
