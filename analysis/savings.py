"""What a policy would save: by vector, of all CPU time, and of the time a trap keeps the interrupted code waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iretrace.analysis import frames
from iretrace.replay.costs import Saving

if TYPE_CHECKING:
    import pandas as pd

    from iretrace.analysis.accumulate import Accumulator


def by_vector(returns: pd.DataFrame, saving: Saving | None, duration_s: float | None) -> pd.DataFrame:
    """Projected saving by vector.

    Args:
        returns: :func:`iretrace.analysis.frames.by_vector`.
        saving: what one RET saves over IRET; ``None``: not known.
        duration_s: length of the recording in seconds; ``None``: not known.

    Returns:
        Columns ``vector``, ``name``, ``RET`` (returns), ``saved_cycles``, ``saved_per_s``, ``low_per_s``,
        ``high_per_s`` (TSC cycles, and per second of recording), the largest first; vectors without RET are left
        out. Empty where the saving or the duration is not known.
    """
    columns = ["vector", "name", "RET"]
    frame = returns.loc[returns["RET"] > 0, columns].sort_values("RET", ascending=False, ignore_index=True)
    if saving is None or not duration_s:
        frame = frame.iloc[:0]
        saving, duration_s = Saving(cycles=0, low=0, high=0, source=""), 1.0
    return frame.assign(
        saved_cycles=frame["RET"] * saving.cycles,
        saved_per_s=frame["RET"] * saving.cycles / duration_s,
        low_per_s=frame["RET"] * saving.low / duration_s,
        high_per_s=frame["RET"] * saving.high / duration_s,
    )


def medians(counts: Accumulator) -> pd.DataFrame:
    """Median latency now and as projected, by vector, of the returns that become RET.

    The projection takes off what the trap's own RET saves and what its nested traps' RETs save.

    Columns: ``vector``, ``name``, ``traps``, ``now_cycles``, ``projected_cycles`` and ``change_pct`` (negative:
    shorter). Empty where no saving is known or no return that becomes RET has both ends.
    """
    columns = ["vector", "name", "traps", "p50"]
    now, projected = (frames.durations(table)[columns] for table in (counts.ret_latency, counts.ret_projected))
    both = now.merge(projected, on=columns[:3], suffixes=("_now", "_without"))
    after = (both["p50_without"] - (counts.saving_cycles or 0.0)).clip(lower=0.0)
    frame = both[columns[:3]].assign(now_cycles=both["p50_now"], projected_cycles=after)
    return frame.assign(change_pct=100 * (frame["projected_cycles"] / frame["now_cycles"] - 1))
