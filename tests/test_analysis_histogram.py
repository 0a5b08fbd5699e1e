"""Log-linear histograms: buckets tile the 64-bit numbers, quantiles keep the promised error."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iretrace.analysis import histogram
from iretrace.analysis.histogram import N_BUCKETS, RELATIVE_ERROR, SUB_BUCKETS

U64 = st.integers(0, 2**64 - 1)
SPREAD = st.integers(0, 63).flatmap(lambda bits: st.integers(0, 2**bits))


def test_buckets_of_small_values_are_exact() -> None:
    """Below twice the number of sub-buckets every value has a bucket of its own."""
    values = np.arange(2 * SUB_BUCKETS, dtype=np.uint64)
    assert histogram.bucket_of(values).tolist() == values.tolist()


def test_buckets_by_hand() -> None:
    """Edges of the first buckets of width two and of the very last one."""
    values = np.array([128, 129, 130, 2**32 - 1, 2**32, 2**53 + 1, 2**60 - 1, 2**64 - 1], dtype=np.uint64)
    index = histogram.bucket_of(values)
    assert index[:3].tolist() == [128, 128, 129]
    assert index[4] == index[3] + 1  # a power of two begins a bucket
    assert index[-1] == N_BUCKETS - 1
    low, high = histogram.edges(index)
    assert (low[0], high[0]) == (128, 129)


@given(U64)
def test_a_value_lies_between_the_edges_of_its_bucket(value: int) -> None:
    """Edges are inclusive; a double may round the largest up by its last bit."""
    index = histogram.bucket_of(np.array([value], dtype=np.uint64))
    (low,), (high,) = histogram.edges(index)
    assert low * (1 - 1e-15) <= value <= high * (1 + 1e-15)


def test_buckets_tile() -> None:
    """Where one bucket ends the next begins, as far as doubles count by ones."""
    low, high = histogram.edges(np.arange(40 * SUB_BUCKETS))
    assert (low[1:] == high[:-1] + 1).all()


@given(st.lists(SPREAD, min_size=1, max_size=300), st.lists(st.floats(0.001, 1), min_size=1, max_size=5))
def test_quantiles_keep_their_error(values: list[int], at: list[float]) -> None:
    """The quantile is within the stated error of numpy's order statistic of the same definition."""
    data = np.array(values, dtype=np.uint64)
    counts = np.bincount(histogram.bucket_of(data), minlength=N_BUCKETS)
    found = histogram.quantiles(counts, np.array(at))
    # A rank that falls on a whole number is one value for some roundings and the next for others.
    below = np.quantile(data.astype(float), np.maximum(np.array(at) - 1e-9, 0), method="inverted_cdf")
    above = np.quantile(data.astype(float), np.minimum(np.array(at) + 1e-9, 1), method="inverted_cdf")
    assert (found >= below * (1 - RELATIVE_ERROR)).all()
    assert (found <= above * (1 + RELATIVE_ERROR)).all()


def test_quantiles_of_nothing_are_not_known() -> None:
    """NaN, not zero; and rows of a table are independent."""
    counts = np.zeros((2, N_BUCKETS), dtype=np.int64)
    counts[1, 5] = 3
    assert np.isnan(histogram.quantiles(counts, np.array([0.5]))[0, 0])
    assert histogram.quantiles(counts, np.array([0.5, 1.0]))[1].tolist() == [5.0, 5.0]


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999])
def test_quantiles_of_a_long_tail(q: float) -> None:
    """A lognormal sample, as latencies are: within the stated error of numpy's."""
    data = np.random.default_rng(7).lognormal(8, 1.5, 20_000).astype(np.uint64)
    counts = np.bincount(histogram.bucket_of(data), minlength=N_BUCKETS)
    exact = np.quantile(data, q, method="inverted_cdf")
    assert histogram.quantiles(counts, np.array([q]))[0] == pytest.approx(exact, rel=RELATIVE_ERROR)
