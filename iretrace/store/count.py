"""Counts of one pass over a replay from which a run of the store is made; memory does not grow with the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.analysis import histogram
from iretrace.analysis.nesting import NestedSums
from iretrace.analysis.projection import project
from iretrace.replay.contexts import N_SLOTS, SHIFT, Target
from iretrace.replay.engine import MAX_DEPTH, End
from iretrace.replay.policies import Choice
from iretrace.store.run import Times
from iretrace.store.schema import QUANTILES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.replay.run import Returns

MAX_BINS: Final = 128
"""Time bins; a power of two. Between half of them and all are used, enough for blocks of a bootstrap."""

_MAX_TSC: Final = 1 << 64


class RunCounter:
    """Give :meth:`add` every batch of a replay under the same policies, in turn.

    Histograms are kept by time bin, since only at the end it is known where a quantile lies whose counts over time
    tell how sure it is: 4 MB a vector.

    Args:
        n_policies: policies of the batches.
        saving_cycles: what one RET saves; ``None``: not known.
        origin: TSC at which recording began; ``None``: the first batch's smallest.
        stop: TSC at which it ended; ``None``: with the last return.
    """

    def __init__(
        self, n_policies: int, *, saving_cycles: float | None = None, origin: int | None = None, stop: int | None = None
    ) -> None:
        self.saving_cycles = saving_cycles
        self.origin = origin
        self.last = origin or 0
        self._stop = stop
        self._width = 1
        self._place = np.full(N_SLOTS, -1, np.int64)
        self._slots: list[int] = []
        self._n_policies = n_policies
        self._nested = NestedSums(n_policies)
        self.cpus = np.zeros(1 << 16, np.bool_)
        # The first axis is the vector's place, in the order in which vectors turned up.
        self._depths = np.zeros((0, MAX_DEPTH + 1), np.int64)
        self._returns = np.zeros((0, MAX_BINS, len(Target)), np.int64)
        self._ret = np.zeros((0, n_policies, MAX_BINS), np.int64)
        self._latency = np.zeros((0, MAX_BINS, histogram.N_BUCKETS), np.uint32)
        self._self = np.zeros_like(self._latency)
        self._ret_latency = np.zeros((0, n_policies, histogram.N_BUCKETS), np.int64)
        self._ret_projected = np.zeros_like(self._ret_latency)

    def add(self, batch: Returns) -> None:
        """Count a batch."""
        rows = batch.rows
        if not rows.size:
            return
        place = self._places(rows["slot"])
        bins = self._bins(batch.tsc)
        self.cpus[rows["cpu"]] = True
        _add(self._depths, place, np.minimum(rows["depth"], MAX_DEPTH).astype(np.int64))
        _add(self._returns, place, bins, (rows["context"] >> SHIFT).astype(np.int64) % len(Target))
        ret = np.stack([made.choice == Choice.RET for made in batch.decisions], axis=1)
        for k in range(self._n_policies):
            _add(self._ret, place[ret[:, k]], k, bins[ret[:, k]])
        timed = rows["end"] == End.EXIT
        latency = rows["exit_tsc"] - rows["entry_tsc"]
        bucket = histogram.bucket_of(latency)
        _add(self._latency, place[timed], bins[timed], bucket[timed])
        alone = timed & rows["self_known"]
        _add(self._self, place[alone], bins[alone], histogram.bucket_of(rows["self_cycles"][alone]))
        nested = self._nested.add(rows, ret.astype(np.int64))
        for k in range(self._n_policies):
            kept = timed & ret[:, k]
            _add(self._ret_latency, place[kept], k, bucket[kept])
            if self.saving_cycles is not None:
                # Its own saving is not taken off: it shifts all of them alike, which is exact where a bucket is not.
                shorter, _ = project(latency[kept], nested[kept, k], self.saving_cycles)
                _add(self._ret_projected, place[kept], k, histogram.bucket_of(shorter))

    @property
    def vectors(self) -> NDArray[np.int64]:
        """Vectors met, ascending; what else is given has them in this order."""
        return np.sort(np.array(self._slots, np.int64))

    def histograms(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Latencies and self times, each ``(v, N_BUCKETS)``."""
        order = self._order()
        return (
            self._latency[order].sum(axis=1, dtype=np.int64),
            self._self[order].sum(axis=1, dtype=np.int64),
        )

    def depths(self) -> NDArray[np.int64]:
        """Returns by depth, ``(v, MAX_DEPTH + 1)``."""
        return self._depths[self._order()]

    def of_policy(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Latencies of what becomes RET, the same projected (each ``(v, N_BUCKETS)``), RETs over time ``(n, v)``."""
        order = self._order()
        ret = self._merge(self._ret[order, k].T)
        return self._ret_latency[order, k], self._ret_projected[order, k], ret

    def widths(self) -> NDArray[np.float64]:
        """Widths of the time bins in TSC cycles; the last one may be up to half as wide again, or half."""
        n, cut = self._n_bins()
        widths = np.full(n, float(self._width))
        length = self.last - (self.origin or 0) + 1
        widths[-1] = length - (n - 1) * self._width if cut else float(self._width)
        return widths

    def times(self) -> Times:
        """Counts over time."""
        order = self._order()
        returns = self._returns[order].transpose(1, 0, 2)
        kernel = returns[:, :, Target.KERNEL]
        known = kernel + returns[:, :, Target.OTHER]
        latency, latency_below = self._over_time(self._latency[order])
        alone, self_below = self._over_time(self._self[order])
        _, all_latency_below = self._over_time(self._latency.sum(axis=0, keepdims=True, dtype=np.uint32))
        _, all_self_below = self._over_time(self._self.sum(axis=0, keepdims=True, dtype=np.uint32))
        return Times(
            returns=self._merge(returns.sum(axis=2)),
            known=self._merge(known),
            to_kernel=self._merge(kernel),
            latency=latency,
            latency_below=latency_below,
            self_time=alone,
            self_below=self_below,
            all_latency_below=all_latency_below[:, 0],
            all_self_below=all_self_below[:, 0],
        )

    def _over_time(self, counts: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Durations by time bin, and those up to each quantile of all of them."""
        total = counts.sum(axis=1, dtype=np.int64)
        rank = np.ceil(np.array(list(QUANTILES.values())) * total.sum(axis=1, keepdims=True) - 1e-9)
        at = (np.cumsum(total, axis=1)[:, None, :] < np.maximum(rank, 1)[:, :, None]).sum(axis=2)
        below = np.zeros((len(counts), len(QUANTILES), MAX_BINS), np.int64)
        for i, row in enumerate(counts):
            upto = np.cumsum(row, axis=1, dtype=np.int64)
            below[i] = upto[:, np.minimum(at[i], histogram.N_BUCKETS - 1)].T
        merged = self._merge(below.transpose(2, 0, 1))
        return self._merge(counts.sum(axis=2, dtype=np.int64).T), merged

    def _order(self) -> NDArray[np.int64]:
        return self._place[self.vectors]

    def _places(self, slot: NDArray[np.uint16]) -> NDArray[np.int64]:
        new = [int(s) for s in np.unique(slot) if self._place[s] < 0]
        if new:
            self._place[new] = np.arange(len(self._slots), len(self._slots) + len(new))
            self._slots += new
            for name in ("depths", "returns", "ret", "latency", "self", "ret_latency", "ret_projected"):
                held: NDArray[np.int64] = getattr(self, f"_{name}")
                setattr(self, f"_{name}", np.concatenate([held, np.zeros((len(new), *held.shape[1:]), held.dtype)]))
        return self._place[slot]

    def _bins(self, tsc: NDArray[np.uint64]) -> NDArray[np.int64]:
        first, last = int(tsc.min()), int(tsc.max())
        if self.origin is None:
            self.origin = first
        self._cover(last)
        if self._stop is not None and self.origin <= self._stop < _MAX_TSC:
            self._cover(self._stop)
        origin = np.uint64(self.origin)
        offset = np.maximum(tsc, origin) - origin
        return (offset >> np.uint64(self._width.bit_length() - 1)).astype(np.int64)

    def _cover(self, tsc: int) -> None:
        self.last = max(self.last, tsc)
        origin = self.origin or 0
        while (self.last - origin) // self._width >= MAX_BINS:
            for held, axis in ((self._returns, 1), (self._ret, 2), (self._latency, 1), (self._self, 1)):
                half = MAX_BINS // 2
                over = np.moveaxis(held, axis, 0)
                over[:half] = over[::2] + over[1::2]
                over[half:] = 0
            self._width *= 2

    def _n_bins(self) -> tuple[int, bool]:
        """Bins that the recorded time covers; and whether the last one is not as wide as the others.

        A last bin covered by less than half is merged into the one before, or its rate would be noise.
        """
        length = self.last - (self.origin or 0) + 1
        n = -(-length // self._width)
        rest = length - (n - 1) * self._width
        if n > 1 and rest < self._width / 2:
            n -= 1
        return n, rest != self._width

    def _merge(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Counts by bin (first axis) as :meth:`widths` has the bins."""
        n, _ = self._n_bins()
        found = counts[:n].copy()
        if n < MAX_BINS:
            found[n - 1] += counts[n:].sum(axis=0)
        return found


def _add(counts: NDArray[np.int64] | NDArray[np.uint32], *index: NDArray[np.int64] | int) -> None:
    """Add one at every index."""
    key = np.ravel_multi_index(tuple(np.broadcast_arrays(*index)), counts.shape)
    np.add.at(counts.reshape(-1), key, counts.dtype.type(1))
