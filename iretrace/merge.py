"""Putting nearly sorted batches into order, a few in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def safe_until(first_tsc: Sequence[int]) -> NDArray[np.uint64]:
    """For each batch of a sequence, the TSC up to which all is known once the batch has been read.

    Args:
        first_tsc: the smallest TSC of each batch, in the order of reading.

    Returns:
        Array of shape (n,): the smallest TSC of all later batches; 2^64 - 1 after the last.
    """
    if not first_tsc:
        return np.empty(0, np.uint64)
    later = np.array([*first_tsc[1:], 2**64 - 1], np.uint64)
    earliest: NDArray[np.uint64] = np.minimum.accumulate(later[::-1])[::-1]
    return earliest
