"""Where the level of a series of runs changes, and how sure that is.

**Where**: in the segmentation whose sum of squares, with a penalty for each segment, is least (Jackson et al., "An
algorithm for optimal partitioning of data on an interval", IEEE Signal Processing Letters 12, 2005). It is what PELT
finds too (Killick, Fearnhead & Eckley, "Optimal detection of changepoints with a linear computational cost", Journal of
the American Statistical Association 107, 2012), whose pruning would only save time that series of runs do not take.

**How sure**: a test at a point that was chosen because the series changes there is no test: of thirty values of noise,
the best split looks significant more often than not (Hawkins, "Testing a sequence of observations for a shift in
location", Journal of the American Statistical Association 72, 1977). Here every point is held against the *largest*
statistic that any split of any window gives, over permutations of the whole series; windows are the seeded intervals of
Kovács, Bühlmann, Li & Munk ("Seeded binary segmentation", Biometrika 110, 2023), so that a level that goes up and comes
back is seen too. Whatever picks the points, a series of exchangeable values then has any false alarm with probability
``alpha`` at most. Values that depend on their neighbours (a drift, say) are not exchangeable: there is no level to stay
at, and change points say so.

The statistic of a split is the likelihood ratio of two means against one, within its window. Values beyond three
interquartile ranges from the quartiles are drawn in to there, which permuting does not change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from iretrace.analysis.significance import benjamini_hochberg

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

ROUNDS: Final = (199, 1999)
MAX_ROUNDS: Final = 99_999
"""Permutations: more are drawn only while fewer than :data:`ENOUGH` of them reach the series' own statistic, and no
more than the correction for the number of series asks for."""

ENOUGH: Final = 20
_SEED: Final = 20140502
_CHUNK: Final = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Options:
    """What counts as a change.

    Attributes:
        min_segment: fewest runs between two changes, and before the first and after the last.
        min_effect_pct: smaller changes of the median are of no interest.
        alpha: chance of a false alarm, over all series by Benjamini and Hochberg's procedure.
    """

    min_segment: int = 4
    min_effect_pct: float = 2.0
    alpha: float = 0.03


@dataclass(frozen=True, kw_only=True)
class ChangePoint:
    """The level changes here.

    Attributes:
        index: of the first value of the new level, among the values given.
        before: median of the level before. ``after`` likewise.
        change_pct: of the medians; NaN where ``before`` is 0.
        p: corrected for the choice of the point and for the number of series.
    """

    index: int
    before: float
    after: float
    change_pct: float
    p: float

    @property
    def direction(self) -> str:
        """``up`` or ``down``."""
        return "up" if self.after > self.before else "down"


def find_changes(
    series: Sequence[NDArray[np.float64]], options: Options, *, progress: Callable[[int], None] = lambda _: None
) -> list[list[ChangePoint]]:
    """Change points of every series, by order in time.

    Args:
        series: each of shape ``(n,)``, oldest first, without NaN; those shorter than two segments have no change.
        options: what counts.
        progress: called with 1 after every series.
    """
    rounds = (*ROUNDS, int(np.clip(4 * len(series) / options.alpha, ROUNDS[-1], MAX_ROUNDS)))
    found = []
    for values in series:
        found.append(_candidates(np.asarray(values, np.float64), options, rounds))
        progress(1)
    # A series without candidates is a hypothesis that was tested too.
    p = np.array([p for points in found for p in (points.values() or (1.0,))])
    adjusted = iter(benjamini_hochberg(p).tolist()) if p.size else iter(())
    changes = []
    for values, points in zip(series, found, strict=True):
        corrected = [next(adjusted) for _ in (points or (0,))]
        kept = [k for k, q in zip(points, corrected, strict=False) if q <= options.alpha]
        by_point = dict(zip(points, corrected, strict=False))
        changes.append(_described(np.asarray(values, np.float64), kept, by_point, options))
    return changes


def _described(
    values: NDArray[np.float64], points: list[int], p: dict[int, float], options: Options
) -> list[ChangePoint]:
    """The changes between neighbouring levels; those too small merge their levels, the smallest first."""
    while points:
        edges = [0, *points, len(values)]
        levels = [float(np.median(values[low:high])) for low, high in pairwise(edges)]
        made = [
            ChangePoint(index=k, before=before, after=after, change_pct=_pct(before, after), p=p[k])
            for k, before, after in zip(points, levels, levels[1:], strict=False)
        ]
        small = [one for one in made if abs(one.change_pct) < options.min_effect_pct or one.before == one.after]
        if not small:
            return made
        points = [k for k in points if k != min(small, key=lambda one: abs(one.change_pct)).index]
    return []


def _pct(before: float, after: float) -> float:
    return 100 * (after - before) / abs(before) if before else np.nan


def _candidates(values: NDArray[np.float64], options: Options, rounds: tuple[int, ...]) -> dict[int, float]:
    """Points by their p-values, corrected within the series; the weakest are taken away until all are significant."""
    n, least = len(values), max(options.min_segment, 2)
    if n < 2 * least or np.ptp(values) == 0:
        return {}
    values = _drawn_in(values)
    windows = seeded(n, 2 * least)
    points = _refined(values, _segment(values, least), least)
    null = _Null(values, windows, least, rounds)
    while points:
        statistics = {k: _at(values, k, low, high, windows, least) for k, low, high in _neighbours(points, n)}
        weakest = min(points, key=lambda k: statistics[k])
        if null.p(statistics[weakest]) <= options.alpha:
            return {k: null.p(statistics[k]) for k in points}
        points = _refined(values, [k for k in points if k != weakest], least)
    return {}


def _drawn_in(values: NDArray[np.float64]) -> NDArray[np.float64]:
    low, high = np.quantile(values, [0.25, 0.75])
    reach = 3 * (high - low)
    drawn = np.clip(values, low - reach, high + reach) if reach else values
    # One scale for all series; permuting changes neither.
    centred: NDArray[np.float64] = drawn - drawn.mean()
    return centred / (np.abs(centred).max() or 1.0)


def _segment(values: NDArray[np.float64], least: int) -> list[int]:
    """Candidates; the penalty is that of the Bayesian information criterion."""
    # Differences of neighbours hold the noise without the levels (a median, as a change is among them).
    noise = np.median(np.abs(np.diff(values))) / 0.6745 / np.sqrt(2)
    variance = noise**2 or float(np.diff(values).var()) / 2
    penalty = 2 * variance * np.log(len(values))
    # The noise may have been overrated: a single split, refined to the best one, is then for the test to judge.
    return partition(values, least, penalty or 1e-9) or [len(values) // 2]


def partition(values: NDArray[np.float64], least: int, penalty: float) -> list[int]:
    """Where the segments begin, but the first, of the partition of least cost.

    A segment costs the sum of squares about its mean, and the penalty. Of equal partitions, that with the earlier
    begin of its last segment is taken.

    Args:
        values: centred and of the order of 1, so that sums of squares can be subtracted; two segments long at least.
        least: shortest segment.
        penalty: cost of a segment.
    """
    n = len(values)
    sums, squares = (np.concatenate([[0.0], np.cumsum(values**power)]) for power in (1, 2))
    cost = np.full(n + 1, np.inf)  # of the best partition of the first so many values
    cost[0] = 0
    begins = np.zeros(n + 1, np.intp)  # of that partition's last segment
    for end in range(least, n + 1):
        begin = np.arange(end - least + 1)
        inside = squares[end] - squares[begin] - (sums[end] - sums[begin]) ** 2 / (end - begin)
        whole = cost[begin] + inside
        begins[end] = np.argmin(whole)
        cost[end] = whole[begins[end]] + penalty
    found = [int(begins[n])]
    while found[-1]:
        found.append(int(begins[found[-1]]))
    return found[-2::-1]


def _refined(values: NDArray[np.float64], points: list[int], least: int) -> list[int]:
    """Every point moved to the best split between its neighbours, which are not those it was found with any more."""
    found = list(points)
    for i, (_, low, high) in enumerate(_neighbours(points, len(values))):
        sums = np.cumsum(values[low:high] - values[low:high].mean())
        left = np.arange(least, high - low - least + 1)
        gain = sums[left - 1] ** 2 * (high - low) / (left * (high - low - left))
        found[i] = low + int(left[np.argmax(gain)])
    # Neighbours moved at once may have come too close; then they stay where they were.
    gaps = np.diff([0, *found, len(values)])
    return found if not found or (gaps >= least).all() else points


def _neighbours(points: list[int], n: int) -> list[tuple[int, int, int]]:
    edges = [0, *points, n]
    return list(zip(points, edges, edges[2:], strict=False))


@lru_cache(maxsize=256)
def seeded(n: int, least: int) -> tuple[tuple[int, int], ...]:
    """Seeded intervals of a series: half-open windows of falling lengths that overlap by half or more.

    Args:
        n: length of the series.
        least: shortest window.
    """
    found: dict[tuple[int, int], None] = {}
    layer = 0
    while (length := n * 2 ** (-layer / 2)) >= least:
        many = 2 * int(np.ceil(2 ** (layer / 2) - 1e-9)) - 1
        shift = (n - length) / (many - 1) if many > 1 else 0.0
        for i in range(many):
            low = int(np.floor(i * shift + 1e-9))
            found[low, min(n, int(np.ceil(i * shift + length - 1e-9)))] = None
        layer += 1
    return tuple(found)


def _at(  # noqa: PLR0913, PLR0917 - a point, its neighbours, and the family of windows
    values: NDArray[np.float64],
    point: int,
    low: int,
    high: int,
    windows: tuple[tuple[int, int], ...],
    least: int,
) -> float:
    """Largest statistic of the split at a point, over the windows between its neighbours."""
    best = -np.inf
    for start, stop in windows:
        if low <= start <= point - least and point + least <= stop <= high:
            inside = values[start:stop]
            total = float(((inside - inside.mean()) ** 2).sum())
            left, right = values[start:point], values[point:stop]
            between = (left.mean() - right.mean()) ** 2 * left.size * right.size / inside.size
            share = np.array(between / total if total > 0 else 0.0)
            best = max(best, float(_surprise(share, inside.size, len(values))))
    return best


def _surprise(share: NDArray[np.float64], size: int, n: int) -> NDArray[np.float64]:
    """How surprising it is that a split explains this share of a window's sum of squares.

    Minus the logarithm of the p-value of Student's test, had the split been chosen beforehand, less that of the number
    of windows of this length: short windows are many and must not drown the long ones.
    """
    from scipy.special import betainc  # noqa: PLC0415 - only when something is tested

    p = betainc((size - 2) / 2, 0.5, 1 - np.minimum(share, 1 - 1e-12))
    found: NDArray[np.float64] = -np.log(np.maximum(p, 1e-300)) - np.log(2 * n / size - 1)
    return found


class _Null:
    """Largest statistic of any split of any window, over permutations of a series; drawn as far as it is needed."""

    def __init__(
        self, values: NDArray[np.float64], windows: tuple[tuple[int, int], ...], least: int, rounds: tuple[int, ...]
    ) -> None:
        self._values, self._windows, self._least, self._rounds = values, windows, least, rounds
        self._rng = np.random.default_rng(_SEED)
        self._drawn: NDArray[np.float64] = np.zeros(0)

    def p(self, statistic: float) -> float:
        """Share of permutations that reach the statistic, the series itself counted as one."""
        reached = 0
        for rounds in self._rounds:
            missing = rounds - len(self._drawn)
            if missing > 0:
                self._drawn = np.concatenate([self._drawn, self._draw(missing)])
            reached = int((self._drawn >= statistic * (1 - 1e-9)).sum())
            if reached >= ENOUGH:
                break
        return (1 + reached) / (1 + len(self._drawn))

    def _draw(self, rounds: int) -> NDArray[np.float64]:
        n = len(self._values)
        chunk = max(1, _CHUNK // n)
        parts = []
        for start in range(0, rounds, chunk):
            many = min(chunk, rounds - start)
            shuffled = self._rng.permuted(np.broadcast_to(self._values, (many, n)), axis=1)
            parts.append(largest(shuffled, self._windows, self._least))
        return np.concatenate(parts)


def largest(series: NDArray[np.float64], windows: tuple[tuple[int, int], ...], least: int) -> NDArray[np.float64]:
    """Largest statistic of any split of any window, of each series.

    Args:
        series: shape ``(k, n)``.
        windows: half-open, each at least two segments long.
        least: shortest segment.

    Returns:
        Shape ``(k,)``.
    """
    k, n = series.shape
    sums = np.zeros((n + 1, k))
    np.cumsum(series.T, axis=0, out=sums[1:])
    squares = np.zeros((n + 1, k))
    np.cumsum((series**2).T, axis=0, out=squares[1:])
    best = np.full(k, -np.inf)
    for start, stop in windows:
        size = stop - start
        whole = sums[stop] - sums[start]
        total = squares[stop] - squares[start] - whole**2 / size
        left = np.arange(least, size - least + 1)
        away = sums[start + least : stop - least + 1] - sums[start] - left[:, None] * (whole / size)
        between = (away**2 * (size / (left * (size - left)))[:, None]).max(axis=0)
        share = np.divide(between, total, out=np.zeros(k), where=total > 1e-12)
        np.maximum(best, _surprise(share, size, n), out=best)
    return best
