"""One pass over a replay, a batch at a time, into counts of fixed size.

A trace of a hundred million traps needs the memory of a small one: about 40 MB of counts. The frames of
:mod:`iretrace.analysis.frames` are made of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iretrace.analysis import histogram
from iretrace.analysis.nesting import NestedSums
from iretrace.analysis.rates import TimeBins
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.engine import MAX_DEPTH, End
from iretrace.replay.policies import Choice

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.replay.run import Returns


class Accumulator:
    """Durations, depths and times of one policy's returns. A slot is a vector, or a device whose vector was not seen.

    Give :meth:`add` to :func:`iretrace.replay.run.replay` as its sink; what depends on contexts alone (vector, rule,
    target, hazards) the replay counts itself.

    Args:
        saving_cycles: TSC cycles that a RET saves over IRET (negative: costs more); ``None``: not known, and nothing
            is projected.
        origin: TSC at which recording began; ``None``: the first batch's smallest.

    Attributes:
        depths: int64, shape ``(MAX_DEPTH + 1, N_SLOTS)``: returns by the number of traps below on the stack.
        latency: int64, shape ``(N_SLOTS, histogram.N_BUCKETS)``: exit minus entry in cycles, where both were seen.
        self_time: likewise, without nested traps.
        ret_latency: like ``latency``, of the returns that become RET.
        ret_projected: likewise, less what their nested traps save (their own saving is not taken off: it shifts
            all of them alike, which is exact where a bucket is not). Empty where no saving is known.
        saving_cycles: as given.
        cpus: bool, shape ``(65536,)``: CPUs that returns were seen on.
        bins: counts over time by slot; ``None`` before the first batch.
    """

    def __init__(self, *, saving_cycles: float | None = None, origin: int | None = None) -> None:
        self.depths = np.zeros((MAX_DEPTH + 1, N_SLOTS), dtype=np.int64)
        self.latency = np.zeros((N_SLOTS, histogram.N_BUCKETS), dtype=np.int64)
        self.self_time = np.zeros_like(self.latency)
        self.ret_latency = np.zeros_like(self.latency)
        self.ret_projected = np.zeros_like(self.latency)
        self.cpus = np.zeros(1 << 16, dtype=np.bool_)
        self.bins: TimeBins | None = None
        self.saving_cycles = saving_cycles
        self._origin = origin
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
        if self.bins is None:
            first = int(tsc.min())
            self.bins = TimeBins(first if self._origin is None else min(first, self._origin), N_SLOTS)
        self.bins.add(tsc, slot)
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
