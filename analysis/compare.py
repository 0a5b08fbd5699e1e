"""Two sides, one or several runs each: what differs, by how much, how sure that is, and when it cannot be told.

- **Several runs on both sides**: the runs are the sample. Welch, "The generalization of Student's problem when several
  different population variances are involved", Biometrika 34 (1947), on logarithms where all values are positive.
- **One run on one side, several on the other**: Student's test with the spread of the several, which the one is taken
  to share.
- **One run on each side**: the errors within the runs (:mod:`iretrace.analysis.measures`), which hold no more than what
  differs over time.

P-values are corrected for all measures that could be tested, by Holm's procedure, so that comparing a thing with itself
raises any alarm at most once in twenty times. A measure is *better* or *worse* where its corrected p is at most
:data:`LEVEL` and its change at least the minimum effect; *same* where its whole interval lies within the minimum effect
(Schuirmann, "A comparison of the two one-sided tests procedure and the power approach for assessing the equivalence of
average bioavailability", Journal of Pharmacokinetics and Biopharmaceutics 15, 1987; an interval of 95 % is stricter
than the tests at 5 % each); and else *cannot tell*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from iretrace.analysis import measures
from iretrace.analysis.measures import BY_NAME, Estimate
from iretrace.analysis.significance import holm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.store.run import Run

LEVEL: Final = 0.05
MIN_EFFECT_PCT: Final = 5.0

Verdict = Literal["same", "better", "worse", "cannot tell"]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One measure of one vector on both sides.

    Attributes:
        vector: 0-256, -1 over all.
        measure: name of the measure.
        base: mean over the runs (geometric where they are compared by logarithms); NaN: not known. ``new`` likewise.
        change_pct: of ``new`` against ``base``; NaN: not known (``base`` is 0).
        low_pct: low end of its interval of 95 %; NaN: cannot be told. ``high_pct`` likewise.
        p: corrected p-value; NaN: not tested.
        verdict: what it comes to.
        reason: why it cannot be told; empty where it can.
    """

    vector: int
    measure: str
    base: float
    new: float
    change_pct: float
    low_pct: float
    high_pct: float
    p: float
    verdict: Verdict
    reason: str

    @property
    def name(self) -> str:
        """``#PF.latency_p50``."""
        return f"{measures.name_of(self.vector)}.{self.measure}"


@dataclass(frozen=True, kw_only=True)
class _Test:
    """An effect before correction."""

    base: float
    new: float
    change: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    reason: str = ""


def compare(
    base: Sequence[Run],
    new: Sequence[Run],
    *,
    policy: str,
    min_effect_pct: float = MIN_EFFECT_PCT,
    only: Sequence[str] = (),
) -> list[Difference]:
    """Compare two sides, measure by measure.

    Args:
        base: at least one run.
        new: likewise.
        policy: under which RETs and savings are.
        min_effect_pct: smaller changes are of no interest.
        only: patterns of ``VECTOR.MEASURE``, ``MEASURE`` or ``VECTOR`` (as in a shell); empty: everything.

    Returns:
        All vectors first, then vectors by number; measures in the order of :data:`iretrace.analysis.measures.MEASURES`.

    Raises:
        UsageError: a run was not replayed under the policy.
    """
    sides = [[measures.estimates(run, policy) for run in side] for side in (base, new)]
    same = sorted(run.id for run in base) == sorted(run.id for run in new)
    vectors = sorted({vector for side in sides for run in side for vector, _ in run})
    keys = [(vector, name) for vector in vectors for name in BY_NAME if _wanted(vector, name, only)]
    test = _identical if same else _test
    tests = [test(*([run.get(key) or _absent(key[1], run) for run in side] for side in sides)) for key in keys]
    adjusted = holm(np.array([test.p for test in tests]))
    return [
        _difference(key, test, float(p), min_effect_pct) for key, test, p in zip(keys, tests, adjusted, strict=True)
    ]


def _wanted(vector: int, name: str, only: Sequence[str]) -> bool:
    from fnmatch import fnmatchcase  # noqa: PLC0415

    where = measures.name_of(vector)
    return not only or any(fnmatchcase(text, pattern) for pattern in only for text in (f"{where}.{name}", name, where))


def _absent(name: str, run: dict[tuple[int, str], Estimate]) -> Estimate:
    """A vector that a run did not meet: its rate is 0, and as sure as nothing is."""
    known = not run[measures.ALL, name].lacks
    if name in ("rate", "saved") and known:
        return Estimate(value=0.0, error=0.0, freedom=np.inf)
    return Estimate(value=np.nan, lacks="the vector was not met")


def _identical(base: list[Estimate], new: list[Estimate]) -> _Test:
    """The same recordings on both sides: there is nothing to be unsure of."""
    value = float(np.mean([one.value for one in base]))
    lacks = next((one.lacks for one in [*base, *new] if np.isnan(one.value)), "")
    return (
        _Test(base=value, new=value, reason=lacks)
        if lacks
        else _Test(base=value, new=value, change=0.0, low=0.0, high=0.0, p=1.0)
    )


def _test(base: list[Estimate], new: list[Estimate]) -> _Test:
    before, after = (np.array([one.value for one in side]) for side in (base, new))
    logs = bool((before > 0).all() and (after > 0).all())
    mean = _geometric if logs else np.mean
    values = float(mean(before)), float(mean(after))
    lacks = next((one.lacks for one in [*base, *new] if one.lacks or np.isnan(one.value)), "")
    if lacks or np.isnan(values).any():
        return _Test(base=values[0], new=values[1], reason=lacks or "not known")
    spread = [_spread(side, logs=logs) for side in (base, new)]
    error, freedom, reason = _error(*spread)
    difference = float(np.mean(_scaled(after, logs=logs)) - np.mean(_scaled(before, logs=logs)))
    if reason:
        return _Test(base=values[0], new=values[1], change=_change(*values), reason=reason)
    from scipy.special import stdtr, stdtrit  # noqa: PLC0415 - only when something is compared

    if error == 0:
        p = 1.0 if difference == 0 else 0.0
        half = 0.0
    else:
        p = float(2 * stdtr(freedom, -abs(difference) / error))
        half = float(stdtrit(freedom, 1 - LEVEL / 2)) * error
    if logs:
        low, high = np.expm1(difference - half), np.expm1(difference + half)
    elif values[0]:
        low, high = (difference - half) / abs(values[0]), (difference + half) / abs(values[0])
    else:
        low = high = np.nan if difference or half else 0.0
    return _Test(base=values[0], new=values[1], change=_change(*values), low=low, high=high, p=p)


@dataclass(frozen=True, kw_only=True)
class _Spread:
    """What one side knows of its mean (of logarithms or not): variance, degrees of freedom and the floor's variance."""

    n: int
    between: float
    within: float
    freedom: float
    floor: float


def _spread(side: list[Estimate], *, logs: bool) -> _Spread:
    scale = np.array([one.value if logs else 1.0 for one in side])
    scaled = _scaled(np.array([one.value for one in side]), logs=logs)
    return _Spread(
        n=len(side),
        between=float(scaled.var(ddof=1)) if len(side) > 1 else np.nan,
        within=float((side[0].error / scale[0]) ** 2),
        freedom=side[0].freedom,
        floor=float(np.mean([(one.floor / s) ** 2 for one, s in zip(side, scale, strict=True)])),
    )


def _error(base: _Spread, new: _Spread) -> tuple[float, float, str]:
    """Standard error of the difference of means, its degrees of freedom, and why there is none."""
    floor = base.floor + new.floor
    if base.n > 1 and new.n > 1:
        parts = [max(side.between, side.floor) / side.n for side in (base, new)]
        freedom = _welch(parts, [base.n - 1.0, new.n - 1.0])
        return float(np.sqrt(max(sum(parts), floor))), freedom, ""
    if base.n > 1 or new.n > 1:
        many = base if base.n > 1 else new
        variance = max(many.between, many.floor) * (1 + 1 / many.n)
        return float(np.sqrt(max(variance, floor))), many.n - 1.0, ""
    if np.isnan(base.within) or np.isnan(new.within):
        return np.nan, 1.0, "the recording is too short beside its bursts; record longer, or several runs"
    parts = [base.within, new.within]
    return float(np.sqrt(sum(parts))), _welch(parts, [base.freedom, new.freedom]), ""


def _welch(parts: list[float], freedoms: list[float]) -> float:
    """Welch's degrees of freedom of a sum of variances (Satterthwaite's approximation)."""
    below = sum(part**2 / freedom for part, freedom in zip(parts, freedoms, strict=True))
    return float(sum(parts) ** 2 / below) if below else float(min(freedoms))


def _geometric(values: np.ndarray[Any, np.dtype[np.float64]]) -> float:
    return float(np.exp(np.log(values).mean()))


def _scaled(values: np.ndarray[Any, np.dtype[np.float64]], *, logs: bool) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.log(values) if logs else values


def _change(base: float, new: float) -> float:
    if base == new:
        return 0.0
    return (new - base) / abs(base) if base else np.nan


def _difference(key: tuple[int, str], test: _Test, p: float, min_effect_pct: float) -> Difference:
    vector, name = key
    verdict: Verdict = "cannot tell"
    reason = test.reason
    least = min_effect_pct / 100
    if not reason:
        up = test.new > test.base
        if p <= LEVEL and (np.isnan(test.change) or abs(test.change) >= least) and test.new != test.base:
            verdict = "better" if up == (BY_NAME[name].better == "up") else "worse"
        elif test.low >= -least and test.high <= least:
            verdict = "same"
        else:
            reason = (
                "the interval is wider than what is of interest" if p > LEVEL else "a change, but it may be a small one"
            )
    return Difference(
        vector=vector,
        measure=name,
        base=test.base,
        new=test.new,
        change_pct=100 * test.change,
        low_pct=100 * test.low,
        high_pct=100 * test.high,
        p=p,
        verdict=verdict,
        reason=reason,
    )
