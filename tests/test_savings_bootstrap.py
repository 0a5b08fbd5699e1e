"""The moving block bootstrap against what is known of simple series."""

from __future__ import annotations

import numpy as np
import pytest

from iretrace.analysis.bootstrap import MIN_BLOCKS, block_length, spread_of_means


def correlated(correlation: float, n: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """A first-order autoregressive series of mean 0."""
    series = np.random.default_rng(seed).normal(size=n + 100)
    for i in range(1, len(series)):
        series[i] += correlation * series[i - 1]
    return series[100:]


def test_blocks_grow_with_dependence() -> None:
    """Independent values need short blocks, correlated ones longer ones, within the bound."""
    medians = [np.median([block_length(correlated(c, 300, s)) for s in range(20)]) for c in (0.0, 0.5, 0.8)]
    assert medians[0] <= 3
    assert medians[0] < medians[1] < medians[2] <= 3 * np.sqrt(300) + 1


@pytest.mark.slow
def test_block_length_at_a_known_process() -> None:
    """For a first-order autoregression Politis & White's optimum is known: (6 c² / (1 - c²)²)^(1/3) n^(1/3)."""
    c, n = 0.5, 20_000
    # G = sum |k| R(k) = 2 c R(0) / (1 - c)^2, g(0) = R(0) (1 + c) / (1 - c), D = 4/3 g(0)^2
    slope, spectrum = 2 * c / (1 - c) ** 2, (1 + c) / (1 - c)
    optimum = (2 * slope**2 / (4 / 3 * spectrum**2) * n) ** (1 / 3)
    found = np.median([block_length(correlated(c, n, seed)) for seed in range(10)])
    assert found == pytest.approx(optimum, rel=0.15)


def test_independent_values_give_the_textbook_interval() -> None:
    """Without dependence the ends are near 1.96 standard errors."""
    series = np.random.default_rng(3).normal(size=(400, 1))
    spread = spread_of_means(series)
    assert spread is not None
    assert spread.high[0] == pytest.approx(1.96 / 20, rel=0.2)
    assert spread.low[0] == pytest.approx(-1.96 / 20, rel=0.2)


@pytest.mark.slow
def test_the_interval_holds_the_mean_about_as_often_as_it_says() -> None:
    """Of 100 correlated series more than 80 intervals hold the true mean; independent draws would manage some 60."""
    held = 0
    for seed in range(100):
        series = correlated(0.6, 300, seed)
        spread = spread_of_means(series[:, None])
        assert spread is not None
        held += bool(series.mean() + spread.low[0] <= 0 <= series.mean() + spread.high[0])
    assert 80 < held <= 100


def test_groups_are_drawn_together() -> None:
    """Two groups whose sum never changes: each is uncertain, the sum is not."""
    one = np.random.default_rng(5).normal(size=300)
    spread = spread_of_means(np.column_stack((one, 7 - one, np.full(300, 7.0))))
    assert spread is not None
    assert spread.high[0] == pytest.approx(-spread.low[1])
    assert spread.high[2] == spread.low[2] == 0


def test_it_is_repeatable() -> None:
    """The seed decides."""
    series = np.random.default_rng(6).normal(size=(300, 2))
    first, again, other = (spread_of_means(series, seed=seed) for seed in (1, 1, 2))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.low.tolist() == again.low.tolist()
    assert first.low.tolist() != other.low.tolist()


@pytest.mark.parametrize("n", [0, 1, MIN_BLOCKS - 1])
def test_a_short_series_cannot_tell(n: int) -> None:
    """Too few blocks whatever their length."""
    assert spread_of_means(np.arange(n, dtype=float)[:, None]) is None


@pytest.mark.parametrize("series", [np.repeat([1.0, 0.0], 150), np.arange(300.0)], ids=["one burst", "a trend"])
def test_what_never_repeats_cannot_tell(series: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    """Where all neighbours are alike there is one block, and one says nothing of how blocks differ."""
    assert block_length(series) == 300
    assert spread_of_means(series[:, None]) is None


def test_what_repeats_can_tell() -> None:
    """A load that comes and goes has a mean, and its waves say it: the interval is not too narrow for them."""
    for waves in (8, 16, 40):
        noise = np.random.default_rng(waves).normal(size=300)
        spread = spread_of_means((np.sin(np.arange(300) * 2 * np.pi * waves / 300) + noise)[:, None])
        assert spread is not None
        assert 1.96 / np.sqrt(300) * 0.7 < spread.high[0] < 0.5
