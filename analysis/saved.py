"""Frames of what policies would save on a trace: in all, by CPU, by process and command, and of latency.

Numbers that are not known are NaN, and the ``reason`` column of :attr:`Saved.total` says why. Two things are uncertain,
and the columns keep them apart:

- what one RET saves: ``cost_low_cycles`` and ``cost_high_cycles`` are the returns of this recording, which were
  counted, times the ends of that interval;
- how many RETs another recording of the same work would count: ``low_cycles`` and ``high_cycles`` add the interval of
  a moving block bootstrap of the RETs over time (:mod:`iretrace.analysis.bootstrap`). The products of the ends are
  taken: two intervals of 95 % give one of 90 % at least (Bonferroni's inequality).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from iretrace.analysis import bootstrap, frames
from iretrace.analysis.projection import Projection
from iretrace.processes import UNKNOWN
from iretrace.replay import costs
from iretrace.replay.policies import Choice
from iretrace.replay.run import replay

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from iretrace.footer import Footer
    from iretrace.replay.costs import Saving
    from iretrace.replay.policies import Policy
    from iretrace.replay.run import PolicyCounts, Result
    from iretrace.trace import Trace

MIN_RETS: Final = 30
"""Fewer RETs say too little of how they spread over time."""

_QUANTILES: Final = (*frames.QUANTILES, "max")

TOTAL: Final = (
    "policy",
    "returns",
    "RET",
    "saving_cycles",
    "saved_cycles",
    "cost_low_cycles",
    "cost_high_cycles",
    "low_cycles",
    "high_cycles",
    "saved_per_s",
    "share_pct",
    "share_low_pct",
    "share_high_pct",
    "reason",
)

BY_CPU: Final = (
    "policy",
    "cpu",
    "returns",
    "RET",
    "saved_cycles",
    "low_cycles",
    "high_cycles",
    "share_pct",
    "share_low_pct",
    "share_high_pct",
)

BY_PID: Final = (
    "policy",
    "pid",
    "comm",
    "returns",
    "RET",
    "saved_cycles",
    "cost_low_cycles",
    "cost_high_cycles",
    "share_pct",
)

BY_COMM: Final = (
    "policy",
    "comm",
    "pids",
    "returns",
    "RET",
    "saved_cycles",
    "cost_low_cycles",
    "cost_high_cycles",
    "share_pct",
)

LATENCY: Final = (
    "policy",
    "vector",
    "name",
    "traps",
    "RET",
    "nested_RET",
    "saved_mean_cycles",
    *(f"before_{column}" for column in _QUANTILES),
    *(f"after_{column}" for column in _QUANTILES),
    "floored",
)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """What policies would save; one frame a question, with the policies one after the other in column ``policy``.

    Attributes:
        total: one row a policy. ``returns``, ``RET`` (int64); ``saving_cycles`` (of one RET), ``saved_cycles`` with
            ``cost_low_cycles``, ``cost_high_cycles``, ``low_cycles``, ``high_cycles`` (TSC cycles of the recording);
            ``saved_per_s`` (TSC cycles a second), ``share_pct`` with ``share_low_pct``, ``share_high_pct`` (of the time
            of all CPUs online); ``reason`` (text, empty where all is known).
        by_cpu: one row a policy and CPU seen or online. ``cpu``, ``returns``, ``RET``, ``saved_cycles`` with
            ``low_cycles``, ``high_cycles``, and ``share_pct`` with its ends as in ``total`` (of that CPU's time).
        by_pid: one row a policy and process, the one with most RETs first. ``pid`` (the process that was interrupted,
            0: idle), ``comm`` (what it was called, ``sh → gcc`` where that changed; empty: not known), ``returns``,
            ``RET``, ``saved_cycles``, ``cost_low_cycles``, ``cost_high_cycles`` and ``share_pct`` (of one CPU's time
            over the whole recording).
        by_comm: one row a policy and command, the one with most RETs first. ``comm`` (what the interrupted process was
            called at that moment; ``swapper``: idle, empty: not known), ``pids`` (processes so called), and the
            columns of ``by_pid`` from ``returns`` on.
        latency: one row a policy and vector, of the traps whose entry and exit were seen, the most frequent first.
            ``vector`` (256: a device whose vector was not seen), ``name``, ``traps``, ``RET`` (of these, RETs),
            ``nested_RET`` (RETs inside them, any depth), ``saved_mean_cycles`` (of a trap, exact), ``before_p50`` …
            ``before_max`` and ``after_p50`` … ``after_max`` (TSC cycles, :data:`iretrace.analysis.frames.QUANTILES`,
            within :data:`iretrace.analysis.histogram.RELATIVE_ERROR`), ``floored`` (traps shorter than what they save).
        counts: what the frames are made of, histograms among it.
    """

    total: pd.DataFrame
    by_cpu: pd.DataFrame
    by_pid: pd.DataFrame
    by_comm: pd.DataFrame
    latency: pd.DataFrame
    counts: Projection


def saved(trace: Trace, policies: Sequence[Policy], *, seed: int = 0) -> Saved:
    """Replay a trace and project what policies save.

    Args:
        trace: an opened trace.
        policies: at least one.
        seed: of the bootstrap's random numbers; the same seed gives the same frames.

    Raises:
        Damaged: the trace holds what it must not.
        UsageError: a policy is not a pure function from contexts to choices.
    """
    footer = trace.footer
    saving = costs.saving_per_return(footer)
    counts = Projection(
        len(policies),
        saving_cycles=None if saving is None else saving.cycles,
        origin=footer.window.start_tsc,
        processes=footer.processes,
    )
    result = replay(trace, policies, sink=counts.add)
    return frames_of(result, counts, saving, seed=seed)


MAX_ROWS: Final = 20
"""How many processes and how many commands a document lists."""


def document(found: Saved, policy: str, *, max_comms: int | None = MAX_ROWS) -> dict[str, Any]:
    """One policy's rows as JSON takes them: lists of objects by frame, ``None`` for what is not known.

    Args:
        found: savings.
        policy: name of one of its policies.
        max_comms: how many commands are listed, those with most RETs; ``None``: all.

    Returns:
        ``{"total": {…}, "by_cpu": [{…}], "by_pid": [{…}], "by_comm": [{…}], "latency": [{…}]}`` with the frames'
        columns but ``policy``.
    """

    def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
        mine = frame[frame["policy"] == policy].drop(columns="policy")
        return [
            {str(name): None if pd.isna(value) else value for name, value in row.items()}
            for row in mine.to_dict("records")
        ]

    (total,) = rows(found.total)
    return {
        "total": total,
        "by_cpu": rows(found.by_cpu),
        "by_pid": rows(found.by_pid)[:MAX_ROWS],
        "by_comm": rows(found.by_comm)[:max_comms],
        "latency": rows(found.latency),
    }


def frames_of(result: Result, counts: Projection, saving: Saving | None, *, seed: int = 0) -> Saved:
    """The frames of counts that a replay's sink has made.

    Args:
        result: the replay.
        counts: a :class:`~iretrace.analysis.projection.Projection` that took every batch of it.
        saving: what one RET saves over IRET; ``None``: not known.
        seed: of the bootstrap's random numbers.
    """
    footer = result.trace.footer
    if counts.bins is not None and footer.window.stop_tsc is not None:
        counts.bins.cover(footer.window.stop_tsc)
    parts = [
        _of_policy(k, policy, counts, footer=footer, saving=saving, seed=seed)
        for k, policy in enumerate(result.policies)
    ]
    return Saved(
        total=pd.concat([part.total for part in parts], ignore_index=True),
        by_cpu=pd.concat([part.by_cpu for part in parts], ignore_index=True),
        by_pid=pd.concat([part.by_pid for part in parts], ignore_index=True),
        by_comm=pd.concat([part.by_comm for part in parts], ignore_index=True),
        latency=pd.concat([part.latency for part in parts], ignore_index=True),
        counts=counts,
    )


def _of_policy(  # noqa: PLR0913 - all that a frame is made of
    k: int, policy: PolicyCounts, counts: Projection, *, footer: Footer, saving: Saving | None, seed: int
) -> Saved:
    """The frames of one policy."""
    name, reasons = policy.table.policy.name, []
    if counts.erets[k]:
        saving = None
        reasons.append("what ERETS and ERETU cost is unknown: user mode cannot time them")
    elif saving is None:
        reasons.append(costs.describe(footer))
    never = not np.any(policy.table.choice == Choice.RET)
    spread, cannot_tell = _spread(counts, k, never=never, seed=seed)
    reasons += [cannot_tell] if cannot_tell else []
    cpus = np.union1d(np.flatnonzero(counts.returns), np.array(footer.cpu.online, dtype=np.int64))
    cycles = _recorded_cycles(counts, footer)
    per_s = footer.clock.tsc_khz * 1e3 / cycles if footer.clock.tsc_khz and cycles else np.nan
    reasons += [] if np.isfinite(per_s) else ["the length of the recording in seconds is not known"]

    ret = np.append(counts.ret[k, cpus], counts.ret[k].sum())
    low, high = _ends(ret, spread, np.append(counts.place(cpus), -1), never=never)
    frame = _valued(ret, saving)
    frame["low_cycles"], frame["high_cycles"] = _products(low, high, saving)
    share = 100 / cycles if cycles else np.nan
    share_of = np.append(np.full(cpus.size, share), share / max(cpus.size, 1))
    for column, of in (("share_pct", "saved"), ("share_low_pct", "low"), ("share_high_pct", "high")):
        frame[column] = frame[f"{of}_cycles"] * share_of
    returns = np.append(counts.returns[cpus], counts.returns.sum())
    frame = frame.assign(policy=name, cpu=np.append(cpus, -1), returns=returns, RET=ret)
    whole = frame.iloc[-1:].assign(
        saving_cycles=np.nan if saving is None else saving.cycles,
        saved_per_s=frame["saved_cycles"] * per_s,
        reason="; ".join(reasons),
    )
    return Saved(
        total=whole[list(TOTAL)].reset_index(drop=True),
        by_cpu=frame.iloc[:-1][list(BY_CPU)],
        by_pid=_by_pid(name, k, counts, saving, share),
        by_comm=_by_comm(name, k, counts, saving, share),
        latency=_latency(name, k, counts, saving),
        counts=counts,
    )


def _spread(counts: Projection, k: int, *, never: bool, seed: int) -> tuple[bootstrap.Spread | None, str]:
    """How far RETs over the recording may be off, by place and (last) in all; or why that cannot be told."""
    n = int(counts.ret[k].sum())
    if never:
        return None, ""
    if n < MIN_RETS:
        return None, f"{n} RETs are too few for an interval over time (at least {MIN_RETS})"
    widths, series = counts.over_time(k)
    rates = series / widths[:, None]
    found = bootstrap.spread_of_means(np.column_stack((rates, rates.sum(axis=1))), seed=seed)
    if found is None:
        return None, f"the recording is too short beside its bursts: fewer than {bootstrap.MIN_BLOCKS} blocks"
    span = float(widths.sum())
    return bootstrap.Spread(low=found.low * span, high=found.high * span, block=found.block), ""


def _ends(
    ret: NDArray[np.int64], spread: bootstrap.Spread | None, place: NDArray[np.int64], *, never: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Interval of each number of RETs; NaN where it cannot be told. A policy that never chooses RET is certain."""
    if never:
        return np.zeros(ret.size), np.zeros(ret.size)
    if spread is None:
        return np.full(ret.size, np.nan), np.full(ret.size, np.nan)
    told = (ret >= MIN_RETS) & (place != 0)
    low, high = np.maximum(ret + spread.low[place], 0), ret + spread.high[place]
    return np.where(told, low, np.nan), np.where(told, high, np.nan)


def _valued(ret: NDArray[np.int64], saving: Saving | None) -> pd.DataFrame:
    """What counted RETs save, with the interval of the cost alone."""
    each = (np.nan, np.nan, np.nan) if saving is None else (saving.cycles, saving.low, saving.high)
    names = ("saved_cycles", "cost_low_cycles", "cost_high_cycles")
    return pd.DataFrame({name: ret * value for name, value in zip(names, each, strict=True)})


def _products(
    low: NDArray[np.float64], high: NDArray[np.float64], saving: Saving | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Least and largest product of two intervals: a saving may be negative, a number of RETs may not."""
    if saving is None:
        return np.full(low.size, np.nan), np.full(low.size, np.nan)
    return np.minimum(low * saving.low, high * saving.low), np.maximum(low * saving.high, high * saving.high)


def _recorded_cycles(counts: Projection, footer: Footer) -> int | None:
    """Length of the recording: the window, or from the first to the last return; ``None``: not known."""
    cycles = footer.duration_cycles()
    if cycles is None and counts.bins is not None:
        cycles = counts.bins.last - counts.bins.origin
    return cycles or None


def _by_pid(name: str, k: int, counts: Projection, saving: Saving | None, share: float) -> pd.DataFrame:
    pids, index = np.unique(counts.pids, return_inverse=True)
    frame = _of_groups(index, k, counts, saving)
    frame = frame.assign(share_pct=frame["saved_cycles"] * share)
    called = counts.commands.of_pid()
    frame = frame.assign(policy=name, pid=pids, comm=[called.get(pid, UNKNOWN) for pid in pids.tolist()])
    return frame.sort_values(["RET", "returns", "pid"], ascending=[False, False, True])[list(BY_PID)]


def _by_comm(name: str, k: int, counts: Projection, saving: Saving | None, share: float) -> pd.DataFrame:
    met, index = np.unique(counts.pid_commands, return_inverse=True)
    frame = _of_groups(index, k, counts, saving)
    frame = frame.assign(share_pct=frame["saved_cycles"] * share)
    comm = [counts.commands.names[number] for number in met.tolist()]
    frame = frame.assign(policy=name, comm=comm, pids=np.bincount(index, minlength=met.size))
    return frame.sort_values(["RET", "returns", "comm"], ascending=[False, False, True])[list(BY_COMM)]


def _of_groups(index: NDArray[np.intp], k: int, counts: Projection, saving: Saving | None) -> pd.DataFrame:
    """Returns and what they save, of processes gathered into groups."""
    returns, ret = np.zeros((2, int(index.max(initial=-1)) + 1), np.int64)
    np.add.at(returns, index, counts.pid_returns)
    np.add.at(ret, index, counts.pid_ret[:, k])
    return _valued(ret, saving).assign(returns=returns, RET=ret)


def _latency(name: str, k: int, counts: Projection, saving: Saving | None) -> pd.DataFrame:
    now = frames.durations(counts.before)
    then = frames.durations(counts.after[k]) if saving is not None else now.assign(**dict.fromkeys(_QUANTILES, np.nan))
    own, nested = counts.own[k, now["vector"]], counts.nested[k, now["vector"]]
    each = (own + nested) * (np.nan if saving is None else saving.cycles) / now["traps"]
    frame = now[["vector", "name", "traps"]].assign(policy=name, RET=own, nested_RET=nested, saved_mean_cycles=each)
    for column in _QUANTILES:
        frame[f"before_{column}"], frame[f"after_{column}"] = now[column], then[column]
    frame["floored"] = counts.floored[k, now["vector"]] if saving is not None else 0
    return frame[list(LATENCY)]
