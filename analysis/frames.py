"""Frames of what an :class:`~iretrace.analysis.accumulate.Accumulator` counted: pure, columns documented.

Times are TSC cycles in columns called ``*_cycles``; whoever shows them scales them. Rows are ordered so that the
most frequent comes first, unless the rows have an order of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from iretrace.analysis import histogram
from iretrace.replay import contexts
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.hazards import HAZARDS
from iretrace.replay.policies import DEVICE, Choice
from iretrace.vectors import vector_name

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from iretrace.analysis.accumulate import Accumulator
    from iretrace.replay.run import PolicyCounts

CHOICES: Final = tuple(choice.name for choice in Choice)

TARGETS: Final = ("kernel", "user", "unknown")
"""Where a return goes, as :class:`iretrace.replay.contexts.Target`; ``user`` is any CS but the kernel's."""

QUANTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}
"""Columns of :func:`durations` and what they are."""

MAX_EXAMPLES: Final = 3

_ROUNDING: Final = 1e-6
"""1 - 0.999 times a thousand is a little less than one."""

_GROUP: Final = histogram.SUB_BUCKETS // 8


def name_of(index: int) -> str:
    """Name of a vector index of the accumulator (256 is a device whose vector was not seen)."""
    return vector_name(None if index == DEVICE else index)


def by_vector(policy: PolicyCounts) -> pd.DataFrame:
    """Returns by vector.

    Columns: ``vector`` (0-256), ``name``, ``returns``, one column each of :data:`CHOICES` (``RET`` …) and of
    :data:`TARGETS` (``kernel`` …): numbers of returns.
    """
    met, held, fields = _met(policy)
    slot, choice = fields.slot.astype(np.int64), policy.table.choice[met]
    total = _weigh(slot, held, N_SLOTS)
    vectors = _by_count(total)
    columns: dict[str, object] = {"vector": vectors, "name": [name_of(v) for v in vectors], "returns": total[vectors]}
    for made in Choice:
        columns[made.name] = _weigh(slot, held * (choice == made), N_SLOTS)[vectors]
    for target, name in enumerate(TARGETS):
        columns[name] = _weigh(slot, held * (fields.target == target), N_SLOTS)[vectors]
    return pd.DataFrame(columns)


def by_rule(policy: PolicyCounts) -> pd.DataFrame:
    """Returns by rule, in the order in which the policy asks them.

    Columns: ``rule``, ``returns`` and one each of :data:`CHOICES`; rules that no return met are there with zeros.
    """
    met, held, _ = _met(policy)
    rules = policy.table.rules
    rule, choice = policy.table.rule[met].astype(np.int64), policy.table.choice[met]
    columns: dict[str, object] = {"rule": list(rules), "returns": _weigh(rule, held, len(rules))}
    for made in Choice:
        columns[made.name] = _weigh(rule, held * (choice == made), len(rules))
    return pd.DataFrame(columns)


def hazards(policy: PolicyCounts) -> pd.DataFrame:
    """Hazards of the returns, in the order of :data:`iretrace.replay.hazards.HAZARDS`, those that are not there too.

    Columns: ``name``, ``severity``, ``meaning``, ``returns`` and ``examples``: for up to :data:`MAX_EXAMPLES`
    contexts the first return, with its TSC (text).
    """
    met, held, _ = _met(policy)
    bits = policy.table.hazard[met]
    rows = []
    for bit, hazard in enumerate(HAZARDS):
        here = (bits >> bit & 1).astype(bool)
        first = sorted((int(policy.first_tsc[i]), int(policy.first_cpu[i]), int(i)) for i in met[here])
        examples = [f"TSC {tsc} on CPU {cpu}: {contexts.describe(i)}" for tsc, cpu, i in first[:MAX_EXAMPLES]]
        rows.append((hazard.name, hazard.severity, hazard.doc, int(held[here].sum()), "; ".join(examples)))
    return pd.DataFrame(rows, columns=["name", "severity", "meaning", "returns", "examples"])


def depths(counts: Accumulator) -> pd.DataFrame:
    """How deep traps nest.

    Columns: ``depth`` (traps below on the CPU's stack, 0 first, without gaps), ``returns``, ``vectors`` (the most
    frequent vectors at that depth with their counts, text).
    """
    total = counts.depths.sum(axis=1)
    deepest = int(np.flatnonzero(total)[-1]) if total.any() else 0
    return pd.DataFrame(
        {
            "depth": np.arange(deepest + 1),
            "returns": total[: deepest + 1],
            "vectors": [_leading(row) for row in counts.depths[: deepest + 1]],
        }
    )


def rates(counts: Accumulator, tsc_khz: float | None) -> pd.DataFrame:
    """Traps per second over time, by vector.

    Columns: ``start_s`` (after the beginning), ``width_s``, ``vector``, ``name``, ``traps``, ``per_s``; one row for
    every bin and vector, zeros too, at most :data:`~iretrace.analysis.rates.MAX_BINS` bins. Empty where the TSC's
    frequency is not known or nothing was counted.
    """
    empty = pd.DataFrame(
        {"start_s": [], "width_s": [], "vector": np.zeros(0, int), "name": [], "traps": np.zeros(0, int), "per_s": []}
    )
    if counts.bins is None or tsc_khz is None:
        return empty
    starts, widths, table = counts.bins.spans()
    vectors = _by_count(table.sum(axis=0))
    width_s = np.tile(widths / (tsc_khz * 1e3), len(vectors))
    traps = table[:, vectors].T.ravel()
    return pd.DataFrame(
        {
            "start_s": np.tile(starts / (tsc_khz * 1e3), len(vectors)),
            "width_s": width_s,
            "vector": np.repeat(vectors, len(starts)),
            "name": np.repeat([name_of(v) for v in vectors], len(starts)),
            "traps": traps,
            "per_s": traps / width_s,
        }
    )


def durations(table: NDArray[np.int64]) -> pd.DataFrame:
    """Quantiles by vector of one of the accumulator's histograms (``latency``, ``self_time``, ``projected``).

    Columns: ``vector``, ``name``, ``traps``, ``p50`` … ``p99.9`` (:data:`QUANTILES`) and ``max``: float64 TSC cycles,
    within :data:`iretrace.analysis.histogram.RELATIVE_ERROR`. Above the median NaN where
    fewer than one trap would lie beyond.
    """
    total = table.sum(axis=1)
    vectors = _by_count(total)
    at = np.array(list(QUANTILES.values()))
    found = histogram.quantiles(table[vectors], np.array([*at, 1.0]))
    found[:, :-1][np.outer(total[vectors], 1 - at) < np.where(at > 0.5, 1 - _ROUNDING, 0.0)] = np.nan
    frame = pd.DataFrame({"vector": vectors, "name": [name_of(v) for v in vectors], "traps": total[vectors]})
    return frame.assign(**dict(zip([*QUANTILES, "max"], found.T, strict=True)))


def distribution(table: NDArray[np.int64]) -> pd.DataFrame:
    """Cumulative distribution by vector of one of the accumulator's histograms, in steps of at most an eighth octave.

    Columns: ``vector``, ``name``, ``cycles`` (float64, upper edge of a group of buckets that holds something: at an
    edge the share is exact), ``traps`` (in the group) and ``share_pct`` (of this vector's traps, up to and with this
    group), ordered by vector and cycles.
    """
    vectors = _by_count(table.sum(axis=1))
    grouped = table[vectors].reshape(len(vectors), table.shape[1] // _GROUP, _GROUP).sum(axis=2)
    row, group = np.nonzero(grouped)
    cumulative = np.cumsum(grouped, axis=1)[row, group]
    return pd.DataFrame(
        {
            "vector": vectors[row],
            "name": np.array([name_of(v) for v in vectors], dtype=object)[row],
            "cycles": histogram.edges(group * _GROUP + _GROUP - 1)[1],
            "traps": grouped[row, group],
            "share_pct": 100.0 * cumulative / grouped.sum(axis=1)[row],
        }
    )


def _met(policy: PolicyCounts) -> tuple[NDArray[np.int64], NDArray[np.int64], contexts.Fields]:
    """Contexts that were met, how often, and their fields."""
    met = np.flatnonzero(policy.counts)
    return met, policy.counts[met].astype(np.int64), contexts.decode(met.astype(np.uint32))


def _weigh(key: NDArray[np.int64], weight: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Exact sums of weights by key (bincount's are doubles)."""
    sums = np.zeros(n, dtype=np.int64)
    np.add.at(sums, key, weight)
    return sums


def _by_count(total: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vectors that were counted, the most frequent first, then by number."""
    order = np.lexsort((np.arange(N_SLOTS), -total))
    kept: NDArray[np.int64] = order[total[order] > 0]
    return kept


def _leading(row: NDArray[np.int64], limit: int = 4) -> str:
    vectors = _by_count(row)
    named = [f"{name_of(v)} {row[v]}" for v in vectors[:limit]]
    rest = int(row[vectors[limit:]].sum())
    return ", ".join([*named, f"others {rest}"] if rest else named)
