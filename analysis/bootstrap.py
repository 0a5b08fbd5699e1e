"""Intervals of a mean over time whose values depend on their neighbours: the moving block bootstrap.

Traps come in bursts, so that neighbouring seconds are alike and drawing them one by one would make an interval far too
narrow. Blocks of neighbours are drawn instead: Künsch, "The jackknife and the bootstrap for general stationary
observations", Annals of Statistics 17 (1989), Zbl 0684.62035. How long a block must be is read from the
autocorrelations: Politis & White, "Automatic block-length selection for the dependent bootstrap", Econometric
Reviews 23 (2004), doi:10.1081/ETC-120028836, as corrected by Patton, Politis & White, Econometric Reviews 28(4) (2009),
372-375, doi:10.1080/07474930802459016 (the length for blocks of equal length, which they call circular).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL: Final = 0.95
REPLICATES: Final = 2000
MIN_BLOCKS: Final = 8
"""With fewer blocks side by side the distribution of their mean cannot be told."""

_GROUPS_AT_ONCE: Final = 1024


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Ends of an interval of means, as deviations from the means.

    Attributes:
        low: float64, shape ``(groups,)``, not above 0 in practice.
        high: float64, likewise, not below 0 in practice.
        block: length of a block, in observations.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    block: int


def block_length(series: NDArray[np.float64]) -> int:
    """Length of blocks that keep the series' dependence.

    Args:
        series: shape ``(n,)``, equally spaced.

    Returns:
        From 1 (no dependence) to ``max(1, min(3 * sqrt(n), n / 3))`` rounded up; ``n`` where values stay alike as far
        as the lags reach (a trend, a burst as long as the series): no shorter block shows what they depend on.
    """
    n = len(series)
    most = max(1, int(np.ceil(min(3 * np.sqrt(n), n / 3))))
    away = series - series.mean()
    if n < 4 or not away.any():
        return 1
    run = max(5, int(np.ceil(np.sqrt(np.log10(n)))))
    lags = min(n - 1, int(np.ceil(np.sqrt(n))) + run)
    covariance = np.array([away[lag:] @ away[: n - lag] for lag in range(lags + 1)]) / n
    correlation = covariance[1:] / covariance[0]
    alike = 2 * np.sqrt(np.log10(n) / n)
    if (correlation >= alike).all():
        return n
    small = np.abs(correlation) < alike
    # The first lag after which a whole run of correlations is small; without one, the largest that is not.
    runs = [lag for lag in range(len(small) - run + 1) if small[lag : lag + run].all()]
    last = runs[0] if runs else int(np.flatnonzero(~small)[-1]) + 1
    bandwidth = min(2 * max(last, 1), lags)
    lag = np.arange(1, bandwidth + 1)
    taper = np.clip(2 * (1 - lag / bandwidth), 0, 1)
    weighted = taper * covariance[1 : bandwidth + 1]
    spectrum = covariance[0] + 2 * weighted.sum()
    slope = 2 * (lag * weighted).sum()
    if slope <= 0 or spectrum <= 0:
        # Waves: the rule would ask for ever longer blocks, while short ones only overstate the spread. So their usual
        # order does (Hall, Horowitz & Jing, "On blocking rules for the bootstrap with dependent data", Biometrika 82,
        # 1995, doi:10.1093/biomet/82.3.561).
        return int(np.ceil(n ** (1 / 3)))
    length = (2 * slope**2 / (4 / 3 * spectrum**2)) ** (1 / 3) * n ** (1 / 3)
    return int(np.clip(np.ceil(length), 1, most))


def spread_of_means(series: NDArray[np.float64], *, seed: int = 0) -> Spread | None:
    """How far the means of several series may be off, at :data:`LEVEL`, by percentiles of the bootstrap.

    All groups are drawn by the same blocks, which keeps what they have to do with each other; a block's length is that
    of their sum. Replicates are centred, as the ends of a series are in fewer blocks than its middle.

    Args:
        series: shape ``(n, groups)``, equally spaced in time.
        seed: of the random numbers; the same seed gives the same interval.

    Returns:
        ``None``: cannot tell, fewer than :data:`MIN_BLOCKS` blocks.
    """
    n, groups = series.shape
    block = block_length(series.sum(axis=1)) if n else 1
    drawn = n // block
    if drawn < MIN_BLOCKS:
        return None
    sums = np.zeros((n + 1, groups))
    np.cumsum(series, axis=0, out=sums[1:])
    means = (sums[block:] - sums[:-block]) / block
    picks = np.random.default_rng(seed).integers(0, len(means), (REPLICATES, drawn))
    times = np.zeros((REPLICATES, len(means)))
    np.add.at(times, (np.arange(REPLICATES)[:, None], picks), 1 / drawn)
    centred = means - means.mean(axis=0)
    tail = (1 - LEVEL) / 2
    ends = [
        np.quantile(times @ centred[:, first : first + _GROUPS_AT_ONCE], [tail, 1 - tail], axis=0)
        for first in range(0, groups, _GROUPS_AT_ONCE)
    ]
    low, high = np.concatenate(ends, axis=1)
    return Spread(low=low, high=high, block=block)
