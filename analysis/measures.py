"""What is compared of a run, and how sure one run alone can be of it.

Everything is a ratio of sums over time (returns by time, RETs by returns) or a quantile. How far a ratio may be off is
read from its time bins by the moving block bootstrap, whose variance of a mean needs no drawing (Künsch, "The jackknife
and the bootstrap for general stationary observations", Annals of Statistics 17, 1989): neighbouring bins are alike, and
taking them for independent would make differences of nothing. A ratio is taken linearly in both sums. A quantile's
interval is that of the share of values at or below it, read back through the distribution: Woodruff, "Confidence
intervals for medians and other position measures", Journal of the American Statistical Association 47 (1952).

This says how a run would differ from itself had it been recorded at another time of the same work. It says nothing of
what differs between two runs of the same thing: for that, record several.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from iretrace.analysis import histogram
from iretrace.analysis.bootstrap import MIN_BLOCKS, block_length
from iretrace.replay.contexts import Target
from iretrace.replay.policies import DEVICE, Choice
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from iretrace.store.run import PolicyRun, Run, Times

ALL: Final = -1

MIN_COUNT: Final = 30
"""Of fewer events than this the time bins say too little: a ratio's error is then at least what chance alone gives it.
A quantile beyond which fewer than a third as many values lie is not known."""

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One thing that is compared.

    Attributes:
        name: as in output.
        unit: of its value.
        better: which way is better.
        doc: what it is.
    """

    name: str
    unit: str
    better: Literal["up", "down"]
    doc: str


MEASURES: Final = (
    Measure(name="rate", unit="1/s", better="down", doc="returns a second"),
    Measure(name="to_kernel", unit="%", better="up", doc="share of returns to the kernel, where RET can be asked for"),
    Measure(name="ret", unit="%", better="up", doc="share of returns by RET"),
    *(
        Measure(name=f"latency_{q}", unit="cycles", better="down", doc=f"{q} of the time from entry to exit")
        for q in QUANTILES
    ),
    *(
        Measure(name=f"self_{q}", unit="cycles", better="down", doc=f"{q} of the same without nested traps")
        for q in QUANTILES
    ),
    Measure(name="saved", unit="cycles/s", better="up", doc="projected saving a second"),
)

BY_NAME: Final = {measure.name: measure for measure in MEASURES}


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one run says of one measure.

    Attributes:
        value: the estimate.
        error: its standard error within the run; NaN: cannot be told.
        freedom: degrees of freedom of the error: independent blocks less one.
        floor: standard error that the measuring itself has, whatever is repeated (a histogram's buckets).
        lacks: why nothing can be said; empty: something can.
    """

    value: float
    error: float = np.nan
    freedom: float = 1.0
    floor: float = 0.0
    lacks: str = ""


def estimates(run: Run, policy: str) -> dict[tuple[int, str], Estimate]:
    """Every measure of a run, by vector (-1: all) and name of the measure.

    Args:
        run: with ``times``, or nothing is known of the errors.
        policy: under which policy RETs and savings are.

    Raises:
        UsageError: the run was not replayed under that policy.
    """
    decided = run.policy(policy)
    found = {}
    for vector in (ALL, *run.vectors.tolist()):
        columns = slice(None) if vector == ALL else np.flatnonzero(run.vectors == vector)
        for name, estimate in _of_vector(run, decided, vector, columns):
            found[vector, name] = estimate
    return found


def name_of(vector: int) -> str:
    """``all``, or the vector's name."""
    return "all" if vector == ALL else vector_name(None if vector == DEVICE else vector)


def _of_vector(
    run: Run, decided: PolicyRun, vector: int, columns: slice | NDArray[np.intp]
) -> Iterator[tuple[str, Estimate]]:
    times, widths = run.times, np.array(run.document.time_widths)

    def over_time(counts: NDArray[np.int64] | None) -> NDArray[np.float64] | None:
        return None if counts is None else counts[:, columns].sum(axis=1).astype(np.float64)

    here = np.ones(decided.slot.shape, np.bool_) if vector == ALL else decided.slot == vector
    returns = int(decided.count[here].sum())
    known = int(decided.count[here & (decided.target != Target.UNKNOWN)].sum())
    kernel = int(decided.count[here & (decided.target == Target.KERNEL)].sum())
    ret = int(decided.count[here & (decided.choice == Choice.RET)].sum())
    seconds, khz = run.document.duration_s, run.footer.clock.tsc_khz
    if seconds is not None and vector != ALL:
        seconds *= run.footer.recorded_share(None if vector == DEVICE else vector)
    series = times and {
        name: over_time(counts)
        for name, counts in (("returns", times.returns), ("known", times.known), ("kernel", times.to_kernel))
    }
    rets = over_time(decided.ret_times)
    per_s = None if khz is None or not len(widths) else widths / (khz * 1e3)
    got = series or {}
    yield "rate", _ratio(returns, seconds, got.get("returns"), per_s, "the length of the recording is not known")
    yield "to_kernel", _ratio(kernel, known, got.get("kernel"), got.get("known"), "no target is known", scale=100)
    yield "ret", _ratio(ret, returns, rets, got.get("returns"), "no returns", scale=100)
    yield "saved", _saved(run, decided, _ratio(ret, seconds, rets, per_s, "the length of the recording is not known"))
    for kind, table in (("latency", run.latency), ("self", run.self_time)):
        held = table[columns].sum(axis=0)
        for j, (quantile, q) in enumerate(QUANTILES.items()):
            yield f"{kind}_{quantile}", _quantile(held, q, _shares(times, kind, j, columns))


def _shares(
    times: Times | None, kind: str, j: int, columns: slice | NDArray[np.intp]
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Over time, durations at or below the quantile, and all; ``None``: not counted."""
    if times is None:
        return None
    count, below, whole = (
        (times.latency, times.latency_below, times.all_latency_below)
        if kind == "latency"
        else (times.self_time, times.self_below, times.all_self_below)
    )
    at_most = whole[:, j] if isinstance(columns, slice) else below[:, columns, j].sum(axis=1)
    return at_most, count[:, columns].sum(axis=1)


def _ratio(  # noqa: PLR0913 - two sums, their parts, and what to say of them
    part: float,
    whole: float | None,
    parts: NDArray[np.float64] | None,
    wholes: NDArray[np.float64] | None,
    lacks: str,
    *,
    scale: float = 1.0,
) -> Estimate:
    if not whole:
        return Estimate(value=np.nan, lacks=lacks)
    value = scale * part / whole
    if parts is None or wholes is None:
        return Estimate(value=value)
    mean = wholes.mean()
    if not mean:
        return Estimate(value=value)
    error, freedom = error_of_mean(parts - parts.mean() / mean * wholes)
    error *= scale / mean
    if part < MIN_COUNT:
        # Poisson's; of none, one might have been seen.
        error = max(error, scale * np.sqrt(part + 1) / whole)
    return Estimate(value=value, error=error, freedom=freedom)


def _saved(run: Run, decided: PolicyRun, rate: Estimate) -> Estimate:
    """Cycles saved a second, with what is not known of the cost."""
    saving = run.document.saving
    if np.isin(decided.choice, (Choice.ERETS, Choice.ERETU)).any():
        return Estimate(value=np.nan, lacks="what ERETS and ERETU cost is unknown")
    if saving is None or rate.lacks:
        return Estimate(value=np.nan, lacks=rate.lacks or "what a RET saves is unknown")
    # The interval of the cost is of 95 %.
    of_cost = rate.value * (saving.high - saving.low) / (2 * 1.96)
    return Estimate(
        value=rate.value * saving.cycles,
        error=float(np.hypot(rate.error * saving.cycles, of_cost)),
        freedom=rate.freedom,
        floor=abs(of_cost),
    )


def _quantile(
    counts: NDArray[np.int64], q: float, shares: tuple[NDArray[np.int64], NDArray[np.int64]] | None
) -> Estimate:
    n = int(counts.sum())
    if min(q, 1 - q) * n < MIN_COUNT / 3:
        return Estimate(value=np.nan, lacks=f"{n:,} durations are too few" if n else "no durations were seen")
    value = _at(counts, q)
    # A uniform error over the bucket: a width over the root of 12, of which interpolation leaves the most part unused.
    floor = value / histogram.SUB_BUCKETS / np.sqrt(12)
    if shares is None:
        return Estimate(value=value, floor=floor)
    below, count = (series.astype(np.float64) for series in shares)
    share = below.sum() / count.sum()
    error, freedom = error_of_mean(below - share * count)
    error /= count.mean()
    if np.isnan(error):
        return Estimate(value=value, floor=floor)
    low, high = q - 1.96 * error, q + 1.96 * error
    if low <= 0 or high >= 1 - 1 / n:
        return Estimate(value=value, floor=floor, lacks="the recording is too short for so far a quantile")
    width = (_at(counts, high) - _at(counts, low)) / (2 * 1.96)
    return Estimate(value=value, error=float(np.hypot(width, floor)), freedom=freedom, floor=floor)


def _at(counts: NDArray[np.int64], q: float) -> float:
    """Quantile, interpolated within its bucket."""
    met = np.flatnonzero(counts)
    upto = np.cumsum(counts[met])
    rank = q * upto[-1]
    i = int(np.searchsorted(upto, rank))
    low, high = histogram.edges(met[i : i + 1])
    before = upto[i - 1] if i else 0
    return float(low[0] + (high[0] - low[0] + 1) * (rank - before) / counts[met[i]])


def error_of_mean(series: NDArray[np.float64]) -> tuple[float, float]:
    """Standard error of a mean over time, and its degrees of freedom; NaN where there are too few blocks.

    Blocks of finite length miss what depends over longer times: their variance is too small, by as much again as that
    of blocks of twice the length is larger. That is taken off, as Politis & Romano do ("Bias-corrected nonparametric
    spectral estimation", Journal of Time Series Analysis 16, 1995), with the freedom of the longer blocks. Of series
    whose neighbours correlate by 0.5 and 0.7, intervals of 95 % then miss 5 % (tests/test_compare.py).

    Args:
        series: shape ``(n,)``, equally spaced.
    """
    n = len(series)
    block = block_length(series) if n else 1
    if n // block < MIN_BLOCKS:
        return np.nan, 1.0
    variance, freedom = _of_blocks(series, block), n / block - 1
    if block > 1:
        twice = _of_blocks(series, 2 * block)
        variance, freedom = max(variance, 2 * twice - variance), n // (2 * block) - 1
    return float(np.sqrt(variance)), float(freedom)


def _of_blocks(series: NDArray[np.float64], block: int) -> float:
    """Variance of the mean by the moving block bootstrap, without drawing."""
    sums = np.concatenate([[0.0], np.cumsum(series - series.mean())])
    means = (sums[block:] - sums[:-block]) / block
    blocks = len(series) / block
    # Blocks share their mean with the series: as many as there are side by side lose one.
    return float((means**2).mean()) / blocks * blocks / (blocks - 1)
