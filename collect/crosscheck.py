"""Holding a recording against the kernel's own counts of interrupts (/proc/interrupts).

The probes count what they cannot write. What they never saw they cannot count: on Linux 6.18 a BPF raw tracepoint was
seen to miss a few interrupts in a million under a load of short processes, which ftrace on the same tracepoint and
/proc/interrupts had, and which no counter of BPF's showed (``benchmarks/untraced.py``). So every run compares, and
what is missing is a loss like any other.

The kernel counts an interrupt somewhere between its entry and its exit, and the counts are read somewhere between two
readings of the TSC; only what is missing whichever way those fell is called missing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace import _native
from iretrace.collect.wire import SEEN_VECTOR
from iretrace.footer import Loss
from iretrace.schema import PHASES

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from iretrace.footer import TrapClass

ROWS: Final[dict[str, tuple[int, ...]]] = {
    "LOC": (0xEC,),
    "RES": (0xFD,),
    "CAL": (0xFB, 0xFC),
    "IWI": (0xF6,),
    "SPU": (0xFF,),
    "TRM": (0xFA,),
    "THR": (0xF9,),
    "DFR": (0xF4,),
    "PLT": (0xF7,),
}
"""Rows of /proc/interrupts and the vectors they count (arch/x86/kernel/irq.c, arch_show_interrupts)."""

COUNT_WRAPS: Final = 1 << 32
"""The kernel's counts are unsigned int (irq_cpustat_t, arch/x86/include/asm/hardirq.h), which wrap after weeks."""

_VECTORS: Final = 256
_COUNTED: Final = np.isin(np.arange(_VECTORS), [vector for vectors in ROWS.values() for vector in vectors])


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One reading of /proc/interrupts.

    Attributes:
        before: TSC just before it.
        after: TSC just after it.
        counts: count by row and CPU.
    """

    before: int
    after: int
    counts: dict[str, dict[int, int]]


def parse_interrupts(text: str) -> dict[str, dict[int, int]]:
    """Rows of :data:`ROWS` in /proc/interrupts; the first line names the CPUs."""
    lines = text.splitlines()
    cpus = [int(name.removeprefix("CPU")) for name in lines[0].split()] if lines else []
    found = {}
    for line in lines[1:]:
        name, _, rest = line.partition(":")
        if name.strip() in ROWS:
            found[name.strip()] = dict(zip(cpus, map(int, rest.split()[: len(cpus)]), strict=False))
    return found


def read_interrupts(path: Path = Path("/proc/interrupts")) -> Reading:
    """Read the kernel's counts now."""
    before = _native.rdtsc()
    text = path.read_text(encoding="ascii", errors="replace")
    return Reading(before=before, after=_native.rdtsc(), counts=parse_interrupts(text))


class CrossCheck:
    """Counts drained interrupts between two readings.

    Args:
        begin: taken when all probes were attached.
        classes: what is attached; a row is compared where all its vectors show entry and exit.
        cpus: those that are recorded.
    """

    def __init__(self, begin: Reading, classes: Collection[TrapClass], cpus: Collection[int]) -> None:
        shown = {vector for item in classes if item.entry and item.exit for vector in item.vectors}
        self._rows = {row: vectors for row, vectors in ROWS.items() if shown.issuperset(vectors)}
        self._cpus = frozenset(cpus)
        self._begin = begin
        self._end: Reading | None = None
        self._exits = np.zeros((max(cpus) + 1) * _VECTORS, np.int64)
        self._open = np.zeros((max(cpus) + 1) * _VECTORS, np.bool_)

    def end(self, reading: Reading) -> None:
        """The second reading; events drained from now on may be later than it."""
        self._end = reading

    def add(self, events: NDArray[np.void]) -> None:
        """Count wire events (:data:`~iretrace.collect.wire.TRAP_EVENT`), in order on each CPU, absolute TSC."""
        wanted = (events["seen"] & SEEN_VECTOR != 0) & _COUNTED[events["vector"]] & (events["tsc"] > self._begin.before)
        if self._end is not None:
            wanted &= events["tsc"] < self._end.after
        at = np.flatnonzero(wanted)
        slot = events["cpu"][at].astype(np.intp) * _VECTORS + events["vector"][at]
        is_exit = events["phase"][at] == PHASES.index("exit")
        self._exits += np.bincount(slot[is_exit], minlength=self._exits.size)
        self._open[slot] = ~is_exit  # of several events of a slot the last one stays

    def forget(self, vectors: Collection[int]) -> None:
        """Do not compare these any more: they were switched off."""
        self._rows = {row: counted for row, counted in self._rows.items() if not set(counted) & set(vectors)}

    def missing(self) -> list[Loss]:
        """Interrupts that the kernel counted between the readings and no probe saw, by CPU."""
        if self._end is None:
            return []
        found: dict[int, int] = {}
        at_most = (self._exits + self._open).reshape(-1, _VECTORS)
        for row, vectors in self._rows.items():
            first, last = self._begin.counts.get(row, {}), self._end.counts.get(row, {})
            for cpu in first.keys() & last.keys() & self._cpus:
                known = (last[cpu] - first[cpu]) % COUNT_WRAPS
                short = known - int(at_most[cpu, list(vectors)].sum())
                if short > 0:
                    found[cpu] = found.get(cpu, 0) + short
        return [Loss(cause="not-traced", cpu=cpu, count=count) for cpu, count in sorted(found.items())]
