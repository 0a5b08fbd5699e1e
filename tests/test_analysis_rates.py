"""Bins over time double in width, lose nothing, and never exceed their number."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from iretrace.analysis.rates import MAX_BINS, TimeBins

TSC = st.lists(st.integers(0, 2**40), min_size=1, max_size=60)


def _array(values: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(values, dtype=np.uint64)


def test_counts_by_hand() -> None:
    """Two groups, ten cycles, bins of one cycle."""
    bins = TimeBins(100, 2)
    bins.add(_array([100, 101, 101, 109]), np.array([0, 1, 1, 0]))
    starts, widths, counts = bins.spans()
    assert starts.tolist() == list(range(10))
    assert widths.tolist() == [1.0] * 10
    assert counts[:, 0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert counts[:, 1].tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 0, 0]


@given(st.lists(TSC, min_size=1, max_size=5))
def test_no_event_is_lost_when_bins_fold(batches: list[list[int]]) -> None:
    """Whatever the order of batches, every event is in one bin, and the bins tile the time."""
    bins = TimeBins(0, 1)
    for batch in batches:
        bins.add(_array(batch), np.zeros(len(batch), dtype=np.int64))
    starts, widths, counts = bins.spans()
    assert counts.sum() == sum(map(len, batches))
    assert 1 <= len(starts) <= MAX_BINS
    assert (starts[1:] == starts[:-1] + widths[:-1]).all()
    assert starts[-1] + widths[-1] == max(map(max, batches)) + 1


@given(TSC)
def test_an_event_is_in_the_bin_of_its_time(values: list[int]) -> None:
    """The same counts as numpy's histogram over the bins' own edges."""
    bins = TimeBins(0, 1)
    bins.add(_array(values), np.zeros(len(values), dtype=np.int64))
    starts, widths, counts = bins.spans()
    expected, _ = np.histogram(values, bins=[*starts, starts[-1] + widths[-1]])
    assert counts[:, 0].tolist() == expected.tolist()


def test_silence_after_the_last_event_is_recorded_time() -> None:
    """A window that ends later has empty bins, not a shorter axis."""
    bins = TimeBins(0, 1)
    bins.add(_array([1]), np.zeros(1, dtype=np.int64))
    bins.cover(1000)
    starts, widths, counts = bins.spans()
    assert starts[-1] + widths[-1] == 1001
    assert counts[:, 0].tolist() == [1] + [0] * (len(starts) - 1)


def test_before_the_origin_counts_in_the_first_bin() -> None:
    """A trap that began before the window is not dropped."""
    bins = TimeBins(50, 1)
    bins.add(_array([10, 51]), np.zeros(2, dtype=np.int64))
    assert bins.counts[:, 0].sum() == 2
    assert bins.counts[0, 0] == 1
