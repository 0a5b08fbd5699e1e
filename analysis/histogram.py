"""Log-linear histograms: any number of durations in fixed memory, with quantiles of stated error.

A power of two is split into :data:`SUB_BUCKETS` equal buckets (as in HdrHistogram, http://hdrhistogram.org):
bucket ``i`` of values below ``SUB_BUCKETS`` holds the value ``i`` alone; above, a bucket is at most
``1/SUB_BUCKETS`` of its lower edge wide. A quantile is read as the middle of its bucket, so it is off by at most
:data:`RELATIVE_ERROR` of the true order statistic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SUB_BITS: Final = 6
SUB_BUCKETS: Final = 1 << SUB_BITS
N_BUCKETS: Final = (64 - SUB_BITS + 1) * SUB_BUCKETS
"""Buckets that hold every 64-bit value."""

RELATIVE_ERROR: Final = 0.5 / SUB_BUCKETS
"""Bound of ``abs(quantile - order statistic) / order statistic``: 0.8 %."""


def bucket_of(values: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Bucket index of each value.

    Args:
        values: any shape, uint64.

    Returns:
        The same shape, int64, from 0 to ``N_BUCKETS - 1``; never falls as the value rises.
    """
    values = np.asarray(values, dtype=np.uint64)
    high = values >> np.uint64(32)
    # A double holds 32 bits exactly, 64 it would round up into the next power of two.
    upper = high != 0
    exponent = np.frexp(np.where(upper, high, values).astype(np.float64))[1].astype(np.int64) - 1
    exponent += np.where(upper, 32, 0)
    shift = np.maximum(exponent - SUB_BITS, 0)
    index: NDArray[np.int64] = (shift << SUB_BITS) + (values >> shift.astype(np.uint64)).astype(np.int64)
    return index


def edges(index: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Smallest and largest value of each bucket (both inclusive), as float64.

    Args:
        index: bucket indices, any shape.
    """
    index = np.asarray(index, dtype=np.int64)
    shift = np.maximum((index >> SUB_BITS) - 1, 0)
    low = np.ldexp((index - (shift << SUB_BITS)).astype(np.float64), shift)
    return low, low + np.ldexp(1.0, shift) - 1.0


def middles(index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Middle of each bucket, float64: what stands for its values."""
    low, high = edges(index)
    return (low + high) / 2


def quantiles(counts: NDArray[np.int64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles of what a histogram counted.

    The estimator is the inverted distribution function: the smallest value that at least the fraction ``q`` of the
    values does not exceed (numpy's ``method="inverted_cdf"``; Hyndman & Fan 1996, definition 1).

    Args:
        counts: shape ``(..., N_BUCKETS)``.
        at: shape ``(k,)``, fractions from 0 to 1.

    Returns:
        Shape ``(..., k)``, float64, within :data:`RELATIVE_ERROR`; NaN where nothing was counted.
    """
    counts = np.asarray(counts)
    cumulative = np.cumsum(counts, axis=-1)
    total = cumulative[..., -1:]
    # Subtracting before the ceiling undoes the rounding of q * n, as numpy does.
    rank = np.maximum(np.ceil(np.asarray(at) * total - 1e-9), 1)
    index = (cumulative[..., None, :] < rank[..., :, None]).sum(axis=-1)
    found = middles(np.minimum(index, N_BUCKETS - 1))
    return np.where(total > 0, found, np.nan)
