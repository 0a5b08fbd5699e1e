"""What lies inside each trap, at any depth, exactly: a sum over nested traps, batch by batch, without a row loop.

Returns come in post-order (:class:`iretrace.replay.run.Returns`): on one CPU a nested trap comes before the one it is
in. Read from left to right, depths therefore rise by any number of levels (that many traps were entered and are still
open) but fall by one at most (the innermost open trap returned). A trap that was entered where the depths rose past
its level is matched with the return that fell back to it by one stable sort by level, as brackets are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from iretrace.replay.engine import End

if TYPE_CHECKING:
    from numpy.typing import NDArray

_N_CPUS: Final = 1 << 16


class NestedSums:
    """Sums a weight over the traps nested inside each trap.

    Holds what is open between batches: at most :data:`iretrace.replay.engine.MAX_DEPTH` sums a CPU.

    Args:
        n_weights: number of weights a return carries (one a policy, say).
    """

    def __init__(self, n_weights: int) -> None:
        # Levels are absolute: an overflow takes the oldest trap away below the others, whose depths all fall by one.
        self._gone = np.zeros(_N_CPUS, dtype=np.int64)
        self._level = np.zeros(_N_CPUS, dtype=np.int64)
        self._open_cpu = np.zeros(0, dtype=np.int64)
        self._open_level = np.zeros(0, dtype=np.int64)
        self._open_sum = np.zeros((0, n_weights), dtype=np.int64)

    def add(self, rows: NDArray[Any], weight: NDArray[np.int64]) -> NDArray[np.int64]:
        """Take the next returns.

        Args:
            rows: :data:`iretrace.replay.engine.RETURN_DTYPE`, shape ``(n,)``, in the engine's order, every return.
            weight: int64, shape ``(n, n_weights)``.

        Returns:
            int64, shape ``(n, n_weights)``: the sum of the weights of all traps inside each, those of earlier batches
            too. 0 for a trap that overflowed, of which the end is not known.
        """
        found = np.zeros_like(weight)
        order = np.argsort(rows["cpu"], kind="stable")
        cpu = rows["cpu"][order].astype(np.int64)
        level, kept = self._levels(rows[order], cpu)
        order, cpu, level = order[kept], cpu[kept], level[kept]
        if not cpu.size:
            return found
        before = _before(weight[order])
        starts = np.flatnonzero(np.diff(cpu, prepend=-1))
        ends = np.append(starts[1:], cpu.size)
        previous = np.concatenate((level[:1], level[:-1]))
        previous[starts] = self._level[cpu[starts]]
        self._level[cpu[starts]] = level[ends - 1]

        risen = np.flatnonzero(level > previous)
        by = (level - previous)[risen]
        entered = np.repeat(risen, by)
        entered_level = previous[entered] + np.arange(entered.size) - np.repeat(np.cumsum(by) - by, by)
        fallen = np.flatnonzero(level < previous)

        here = np.isin(self._open_cpu, cpu[starts])
        carried_cpu = self._open_cpu[here]
        of_carried = np.searchsorted(cpu[starts], carried_cpu)
        # What was summed when a trap was entered: for one of an earlier batch that much before this one.
        at_entry = np.concatenate((before[starts[of_carried]] - self._open_sum[here], before[entered]))
        entry_cpu = np.concatenate((carried_cpu, cpu[entered]))
        entry_level = np.concatenate((self._open_level[here], entered_level))
        # A trap entered before row i lies before it in time, and a return is the row itself.
        time = np.concatenate((np.full(carried_cpu.size, -1), 2 * entered, 2 * fallen + 1))
        sort = np.lexsort(
            (time, np.concatenate((entry_level, level[fallen])), np.concatenate((entry_cpu, cpu[fallen])))
        )
        returned = np.flatnonzero(sort >= entry_cpu.size)
        row, entry = fallen[sort[returned] - entry_cpu.size], sort[returned - 1]
        found[order[row]] = before[row] - at_entry[entry]

        still = np.ones(entry_cpu.size, dtype=np.bool_)
        still[entry] = False
        still &= entry_level >= self._gone[entry_cpu]
        until = before[ends[np.searchsorted(cpu[starts], entry_cpu[still])]]
        self._open_cpu = np.concatenate((self._open_cpu[~here], entry_cpu[still]))
        self._open_level = np.concatenate((self._open_level[~here], entry_level[still]))
        self._open_sum = np.concatenate((self._open_sum[~here], until - at_entry[still]))
        return found

    def _levels(self, rows: NDArray[Any], cpu: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Absolute level of each return (sorted by CPU), and which did not overflow."""
        overflowed = rows["end"] == End.OVERFLOW
        level = rows["depth"].astype(np.int64) + self._gone[cpu]
        if overflowed.any():
            sums = np.cumsum(overflowed) - overflowed
            first = np.searchsorted(cpu, cpu)
            level += sums - sums[first]
            np.add.at(self._gone, cpu[overflowed], 1)
        return level, ~overflowed


def _before(weight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of all rows before each, and of all of them: shape ``(n + 1, k)``."""
    sums = np.zeros((len(weight) + 1, weight.shape[1]), dtype=np.int64)
    np.cumsum(weight, axis=0, out=sums[1:])
    return sums
