"""One pass over a replay, a batch at a time, into counts of fixed size.

A trace of a hundred million traps needs the memory of a small one: about 40 MB of counts. The frames of
:mod:`iretrace.analysis.frames` are made of them. The counting itself is ``analysis/count.c``;
:mod:`iretrace.analysis.count_twin` is the same with numpy, its oracle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from iretrace import _native
from iretrace.analysis import histogram
from iretrace.analysis.rates import TimeBins
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.engine import MAX_DEPTH

if TYPE_CHECKING:
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
        self._inner = np.zeros((1 << 16, MAX_DEPTH + 2), dtype=np.int64)  # virtual: only CPUs that are met take memory

    def add(self, batch: Returns) -> None:
        """Count a batch, judged by its first policy."""
        rows = batch.rows
        if not rows.size:
            return
        rows = np.ascontiguousarray(rows)
        judged = batch.decisions[0]
        bins = self.cover(*_native.returns_span(rows))
        _native.count_returns(
            rows,
            np.ascontiguousarray(judged.context),
            np.ascontiguousarray(judged.table.choice),
            self.depths,
            self.latency,
            self.self_time,
            self.ret_latency,
            self.ret_projected,
            self.cpus,
            bins.counts,
            self._inner,
            bins.origin,
            bins.width.bit_length() - 1,
            self.saving_cycles is not None,
            self.saving_cycles or 0.0,
        )

    def cover(self, first: int, last: int) -> TimeBins:
        """The bins over time, made to reach ``last``; ``first`` is the smallest TSC of this batch."""
        if self.bins is None:
            self.bins = TimeBins(first if self._origin is None else min(first, self._origin), N_SLOTS)
        self.bins.cover(last)
        return self.bins
