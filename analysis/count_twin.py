"""The counting of ``analysis/count.c`` with numpy: slower, plainer, the oracle of its property tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iretrace.analysis import histogram
from iretrace.analysis.accumulate import Accumulator
from iretrace.analysis.nesting import NestedSums
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.engine import MAX_DEPTH, End
from iretrace.replay.policies import Choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.replay.run import Returns


class Twin(Accumulator):
    """Counts what :class:`~iretrace.analysis.accumulate.Accumulator` counts."""

    def __init__(self, *, saving_cycles: float | None = None, origin: int | None = None) -> None:
        super().__init__(saving_cycles=saving_cycles, origin=origin)
        self._nested = NestedSums(1)

    def add(self, batch: Returns) -> None:
        """Count a batch, judged by its first policy."""
        rows = batch.rows
        if not rows.size:
            return
        slot = rows["slot"].astype(np.int64)
        _count(self.depths, np.minimum(rows["depth"], MAX_DEPTH).astype(np.int64) * N_SLOTS + slot)
        self.cpus[rows["cpu"]] = True
        tsc = batch.tsc
        self.cover(int(tsc.min()), int(tsc.max())).add(tsc, slot)
        self._add_durations(batch, slot, batch.decisions[0].choice == Choice.RET)

    def _add_durations(self, batch: Returns, slot: NDArray[np.int64], ret: NDArray[np.bool_]) -> None:
        rows = batch.rows
        timed = rows["end"] == End.EXIT
        latency = rows["exit_tsc"] - rows["entry_tsc"]
        key = slot * histogram.N_BUCKETS
        bucket = histogram.bucket_of(latency)
        _count(self.latency, (key + bucket)[timed])
        alone = timed & rows["self_known"]
        _count(self.self_time, key[alone] + histogram.bucket_of(rows["self_cycles"][alone]))
        kept = timed & ret
        _count(self.ret_latency, (key + bucket)[kept])
        if self.saving_cycles is None:
            return
        nested = self._nested.add(rows, ret[:, None].astype(np.int64))[kept, 0]
        shorter = np.maximum(latency[kept].astype(np.float64) - nested * self.saving_cycles, 0.0)
        projected = np.where(nested > 0, shorter.astype(np.uint64), latency[kept])
        _count(self.ret_projected, key[kept] + histogram.bucket_of(projected))


def _count(counts: NDArray[np.int64], key: NDArray[np.int64]) -> None:
    """Add one to ``counts.ravel()[key]`` for every key."""
    if key.size:
        counts += np.bincount(key, minlength=counts.size).reshape(counts.shape)
