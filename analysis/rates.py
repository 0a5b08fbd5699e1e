"""Counts over time in a fixed number of bins, when nobody knows beforehand how long the trace is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_BINS: Final = 300


class TimeBins:
    """Counts per time bin and group; bins double in width, pairwise merged, whenever time outgrows them.

    Args:
        origin: TSC at which the first bin begins; earlier values are counted in the first bin.
        n_groups: number of groups.

    Attributes:
        width: width of a bin in TSC cycles, a power of two.
        counts: shape ``(MAX_BINS, n_groups)``, int64.
        last: largest TSC seen, ``origin`` at first.
    """

    def __init__(self, origin: int, n_groups: int) -> None:
        self.origin = origin
        self.width = 1
        self.counts = np.zeros((MAX_BINS, n_groups), dtype=np.int64)
        self.last = origin

    def add(self, tsc: NDArray[np.uint64], group: NDArray[np.int64]) -> None:
        """Count a batch.

        Args:
            tsc: shape ``(n,)``, TSC cycles, in any order.
            group: shape ``(n,)``, from 0 to ``n_groups - 1``.
        """
        if not tsc.size:
            return
        self.cover(int(tsc.max()))
        origin = np.uint64(self.origin)
        offset = np.maximum(tsc, origin) - origin
        shift = np.uint64(self.width.bit_length() - 1)
        key = (offset >> shift).astype(np.int64) * self.counts.shape[1] + group
        self.counts += np.bincount(key, minlength=self.counts.size).reshape(self.counts.shape)

    def cover(self, tsc: int) -> None:
        """Widen the bins until they reach ``tsc``, which was recorded even if nothing happened then."""
        self.last = max(self.last, tsc)
        while (self.last - self.origin) // self.width >= MAX_BINS:
            pairs = self.counts.reshape(MAX_BINS // 2, 2, -1).sum(axis=1)
            self.counts[: MAX_BINS // 2] = pairs
            self.counts[MAX_BINS // 2 :] = 0
            self.width *= 2

    def spans(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
        """The bins that the recorded time covers.

        Returns:
            Start of each bin (cycles after ``origin``), its width (cycles) and its counts ``(n, n_groups)``. A last
            bin that is covered by less than half is merged into the one before, or its rate would be noise.
        """
        length = self.last - self.origin + 1
        n_bins = -(-length // self.width)
        starts = np.arange(n_bins, dtype=np.float64) * self.width
        widths = np.full(n_bins, float(self.width))
        widths[-1] = length - starts[-1]
        counts = self.counts[:n_bins].copy()
        if n_bins > 1 and widths[-1] < self.width / 2:
            counts[-2] += counts[-1]
            widths[-2] += widths[-1]
            starts, widths, counts = starts[:-1], widths[:-1], counts[:-1]
        return starts, widths, counts
