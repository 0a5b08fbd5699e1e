"""Corrections for having asked many questions at once.

Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6 (1979): bounds the
chance of any false alarm, whatever the tests have to do with each other. Benjamini & Hochberg, "Controlling the false
discovery rate: a practical and powerful approach to multiple testing", Journal of the Royal Statistical Society B 57
(1995): bounds the expected share of false alarms among all alarms; where nothing changed, that is the chance of any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's adjusted p-values; NaN (not tested) stays NaN and does not count.

    Args:
        p: shape ``(n,)``.
    """
    return _step(p, lambda ordered, m: np.maximum.accumulate(ordered * (m - np.arange(m))))


def benjamini_hochberg(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini and Hochberg's adjusted p-values; NaN (not tested) stays NaN and does not count.

    Args:
        p: shape ``(n,)``.
    """
    return _step(p, lambda ordered, m: np.minimum.accumulate((ordered * m / np.arange(1, m + 1))[::-1])[::-1])


def _step(
    p: NDArray[np.float64], adjust: Callable[[NDArray[np.float64], int], NDArray[np.float64]]
) -> NDArray[np.float64]:
    p = np.asarray(p, np.float64)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    found = np.full(p.shape, np.nan)
    if order.size:
        found[order] = np.minimum(adjust(p[order], order.size), 1.0)
    return found
