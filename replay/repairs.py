"""What pairing had to make up for: which of it is as it must be, and which means that something is wrong.

A trace begins and ends inside traps, and some classes of trap have no exit hook or no frame on a kernel; that is no
fault. All else is: an event was lost, or a trap slept and came back on another CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.replay import contexts
from iretrace.replay.contexts import Target
from iretrace.replay.engine import MAX_DEPTH, REPAIRS, End
from iretrace.replay.policies import DEVICE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.replay.run import Returns

EDGE_SECONDS: Final = 1.0
"""No trap lasts longer: the kernel's own watchdog calls ten seconds with interrupts off a lockup."""

MEANINGS: Final = {
    "entry_without_exit_hook": "no hook sees the exits of its class on this kernel; it returns at its entry",
    "implied_exit": "a trap below it ended first: its exit is missing",
    "orphan_exit": "an exit without an entry",
    "open_at_end": "the trace ended inside it",
    "stack_overflow": f"more than {MAX_DEPTH} traps were open on a CPU: exits are missing",
    "unknown_target": "nothing told whether it returns to the kernel",
}

EXPLAINED: Final = {
    "orphan_exit": "the trap was open when the trace began",
    "open_at_end": "the trap was open when the trace ended",
    "unknown_target": "its class has no frame on this kernel",
}
"""Why a repair may be as it must be; the others never are."""

_N_CPUS: Final = 1 << 16
_U64_MAX: Final = 2**64 - 1


@dataclass(frozen=True, kw_only=True)
class Repair:
    """One kind of repair over a trace.

    Attributes:
        name: one of :data:`iretrace.replay.engine.REPAIRS`.
        count: how many there were.
        unexplained: of these, those that mean that something is wrong.
    """

    name: str
    count: int
    unexplained: int


class Triage:
    """Takes the returns of a trace batch by batch, and tells repairs apart.

    An orphan exit is of a trap that was open when the trace began, unless the CPU had been in user mode since,
    traps were open above it, or more than :data:`EDGE_SECONDS` had passed. A trap open at the end is no fault, unless
    its CPU was in user mode since, or it had been open for longer than that. User code cannot run inside a trap.
    """

    def __init__(self, footer: Footer) -> None:
        khz = footer.clock.tsc_khz
        self._edge_cycles = None if khz is None else int(khz * 1e3 * EDGE_SECONDS)
        self._frameless = np.zeros(contexts.N_SLOTS, np.bool_)
        for trap_class in footer.classes:
            if trap_class.entry is not None and trap_class.frame is None:
                self._frameless[trap_class.vectors or ([DEVICE] if trap_class.name == "device" else [])] = True
        self._start: int | None = footer.window.start_tsc
        self._end = footer.window.stop_tsc or 0
        self._user_first = np.full(_N_CPUS, _U64_MAX, np.uint64)
        self._user_last = np.zeros(_N_CPUS, np.uint64)
        self._counts = dict.fromkeys(REPAIRS, 0)
        self._unexplained = dict.fromkeys(REPAIRS, 0)

    def take(self, batch: Returns) -> None:
        """Look at the next returns."""
        rows, tsc = batch.rows, batch.tsc
        if not rows.size:
            return
        end, cpu = rows["end"], rows["cpu"]
        target = (rows["context"] >> contexts.SHIFT) % len(Target)
        began = np.where(end == End.ORPHAN, rows["exit_tsc"], rows["entry_tsc"])
        if self._start is None:
            self._start = int(began.min())
        self._end = max(self._end, int(tsc.max()))
        user = target == Target.OTHER
        np.minimum.at(self._user_first, cpu[user], began[user])
        np.maximum.at(self._user_last, cpu[user], began[user])

        orphan = end == End.ORPHAN
        self._add("orphan_exit", orphan, (self._user_first[cpu] < tsc) | (rows["depth"] > 0) | self._late(tsc))
        still_open = end == End.OPEN
        self._add("open_at_end", still_open, (self._user_last[cpu] > tsc) | self._early(tsc))
        self._add("unknown_target", target == Target.UNKNOWN, ~self._frameless[rows["slot"]])
        self._add("entry_without_exit_hook", end == End.NO_HOOK, np.zeros(end.shape, np.bool_))
        for name, kind in (("implied_exit", End.IMPLIED), ("stack_overflow", End.OVERFLOW)):
            self._add(name, end == kind, np.ones(end.shape, np.bool_))

    def repairs(self) -> tuple[Repair, ...]:
        """The repairs of all that was taken, in the order of :data:`iretrace.replay.engine.REPAIRS`."""
        return tuple(
            Repair(name=name, count=self._counts[name], unexplained=self._unexplained[name]) for name in REPAIRS
        )

    def _late(self, tsc: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if self._edge_cycles is None or self._start is None:
            return np.zeros(tsc.shape, np.bool_)
        return tsc > min(self._start + self._edge_cycles, _U64_MAX)

    def _early(self, tsc: NDArray[np.uint64]) -> NDArray[np.bool_]:
        if self._edge_cycles is None:
            return np.zeros(tsc.shape, np.bool_)
        return tsc < max(self._end - self._edge_cycles, 0)

    def _add(self, name: str, which: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> None:
        self._counts[name] += int(np.count_nonzero(which))
        self._unexplained[name] += int(np.count_nonzero(which & wrong))
