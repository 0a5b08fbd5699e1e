"""Change points on made series with known truth, and the verb that finds them in stores and tables."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from iretrace.analysis.changepoints import Options, find_changes, largest, partition, seeded
from iretrace.footer import Anchor, Footer, Loss
from iretrace.replay.policies import by_name
from iretrace.store import open_store
from iretrace.store.notes import read_notes
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace
from tests.sample_trace import START, write_sample

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.store import Run, Store
    from tests.conftest import RunIretrace

RUNS = 30


def noise(rng: np.random.Generator, n: int = RUNS) -> NDArray[np.float64]:
    """Values of 100 with noise of 2 %."""
    return 100 + 2 * rng.normal(size=n)


@pytest.mark.slow
def test_noise_alone_raises_few_alarms() -> None:
    """Of series judged each for itself no more than one in twenty has an alarm; judged together, nearly none."""
    rng = np.random.default_rng(1)
    series = [noise(rng) for _ in range(150)]
    alone = sum(bool(find_changes([values], Options(min_effect_pct=0))[0]) for values in series)
    assert alone <= stats.binom.ppf(0.999, 150, 0.05)
    assert sum(map(bool, find_changes(series, Options()))) <= 2


@pytest.mark.slow
def test_a_step_is_found_where_it_is() -> None:
    """A step of 5 % under 2 % noise over 30 runs is found, and placed within 2 runs, in 95 % of the series."""
    rng = np.random.default_rng(2)
    rounds, found, placed = 60, 0, 0
    for _ in range(rounds):
        values = noise(rng)
        where = int(rng.integers(10, 21))
        values[where:] *= 1.05
        changes = find_changes([values], Options())[0]
        found += bool(changes)
        placed += any(abs(change.index - where) <= 2 and change.direction == "up" for change in changes)
    # Of 60 rounds at a true rate of 95 %, chance alone leaves at least 52 in 999 of 1,000 cases.
    least = stats.binom.ppf(0.001, rounds, 0.95)
    assert found >= least
    assert placed >= least


def test_up_and_back_down_are_two_changes() -> None:
    """A level that comes back is seen, though both ends are alike."""
    rng = np.random.default_rng(3)
    values = noise(rng, 60)
    values[20:40] *= 1.1
    changes = find_changes([values], Options())[0]
    assert [(change.direction, abs(change.index - at) <= 2) for change, at in zip(changes, (20, 40), strict=True)] == [
        ("up", True),
        ("down", True),
    ]
    assert changes[0].change_pct == pytest.approx(10, abs=2.5)


def test_one_run_that_is_far_off_is_no_change() -> None:
    """Outliers, however large, are no new level: no more alarms than of noise."""
    rng = np.random.default_rng(4)
    alarms = 0
    for _ in range(60):
        values = noise(rng)
        values[rng.integers(30, size=2)] *= 10
        alarms += bool(find_changes([values], Options())[0])
    assert alarms <= stats.binom.ppf(0.999, 60, 0.05)


def test_small_and_short_are_no_changes() -> None:
    """A certain change below the minimum effect, a constant, and fewer runs than two segments are none."""
    rng = np.random.default_rng(5)
    values = 100 + 0.01 * rng.normal(size=40)
    values[20:] += 1
    series = [values, np.full(40, 3.0), np.array([1.0, 1.0, 9.0, 9.0, 9.0]), np.zeros(0)]
    assert find_changes(series, Options(min_effect_pct=2)) == [[], [], [], []]
    assert [change.index for change in find_changes(series, Options(min_effect_pct=0.5))[0]] == [20]


def test_a_step_from_zero_has_no_percentage() -> None:
    """Where the level before is 0 the change is found and its size in percent is not known."""
    values = np.concatenate([np.zeros(15), np.full(15, 5.0) + np.random.default_rng(6).normal(size=15)])
    (change,) = find_changes([values], Options())[0]
    assert change.index == 15
    assert np.isnan(change.change_pct)


def _cost(values: NDArray[np.float64], begins: Sequence[int], penalty: float) -> float:
    return sum(
        float(values[low:high].var()) * (high - low) + penalty for low, high in pairwise([0, *begins, len(values)])
    )


@st.composite
def levels(draw: st.DrawFn, most: int) -> tuple[NDArray[np.float64], int, float]:
    """A series of a few levels and noise, centred and scaled; the shortest segment; a penalty."""
    least = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    values = rng.normal(size=draw(st.integers(2 * least, most)))
    for _ in range(draw(st.integers(0, 4))):
        values[int(rng.integers(len(values))) :] += 4 * rng.normal()
    values -= values.mean()
    values /= np.abs(values).max()
    return values, least, draw(st.floats(0.001, 1))


@settings(max_examples=60, deadline=None)
@given(levels(most=13))
def test_no_partition_costs_less(case: tuple[NDArray[np.float64], int, float]) -> None:
    """Of all partitions with segments that are long enough, tried one by one, the one that is found costs least."""
    values, least, penalty = case
    n = len(values)
    allowed = [
        begins
        for many in range(n // least)
        for begins in combinations(range(least, n - least + 1), many)
        if all(high - low >= least for low, high in pairwise([0, *begins, n]))
    ]
    found = partition(values, least, penalty)
    assert tuple(found) in allowed
    assert _cost(values, found, penalty) == pytest.approx(min(_cost(values, one, penalty) for one in allowed))


@pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="ruptures wants an older Python; every partition is tried above"
)
@settings(max_examples=100, deadline=None)
@given(levels(most=80))
def test_candidates_are_those_of_ruptures(case: tuple[NDArray[np.float64], int, float]) -> None:
    """The same as PELT's of ruptures, or ones that cost less: it prunes without regard to the shortest segment."""
    import ruptures  # noqa: PLC0415 - not for every Python

    values, least, penalty = case
    found = partition(values, least, penalty)
    *pelt, _ = ruptures.Pelt(model="l2", min_size=least, jump=1).fit(values).predict(pen=penalty)
    if found != pelt:
        assert _cost(values, found, penalty) < _cost(values, pelt, penalty)


def test_candidates_of_series_with_ties_are_certain() -> None:
    """A series of few values that repeat is cut where its levels change, and a constant one not at all."""
    values = np.repeat([-1.0, 1.0, 0.0], [6, 4, 7])
    assert partition(values, 4, 0.1) == [6, 10]
    assert partition(np.zeros(20), 4, 0.1) == []


@settings(max_examples=25, deadline=None)
@given(st.integers(8, 24), st.integers(2, 4), st.integers(0, 1000))
@pytest.mark.slow
def test_the_largest_statistic_is_that_of_every_split(n: int, least: int, seed: int) -> None:
    """The vectorised search is the one by hand: every window, every split, Student's p, the windows of its length."""
    values = np.random.default_rng(seed).normal(size=(2, n))
    windows = seeded(n, 2 * least)
    assert (0, n) in windows
    assert all(0 <= low < high <= n for low, high in windows)
    found = largest(values, windows, least)
    for row, most in zip(values, found, strict=True):
        by_hand = max(
            -np.log(stats.ttest_ind(row[low:split], row[split:high]).pvalue) - np.log(2 * n / (high - low) - 1)
            for low, high in windows
            for split in range(low + least, high - least + 1)
        )
        assert most == pytest.approx(by_hand, rel=1e-6)


def write_csv(path: Path, columns: dict[str, list[object]]) -> Path:
    """A table."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def test_the_verb_takes_a_table(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Columns are series, rows are ordered by time and named by id, and the exit status says that something changed."""
    rng = np.random.default_rng(7)
    step = noise(rng)
    step[18:] *= 1.08
    order = rng.permutation(RUNS).tolist()
    table = write_csv(
        tmp_path / "t.csv",
        {
            "time": [f"2026-11-{i // 2 + 1:02}T{i % 2 * 12:02}:00:00" for i in order],
            "commit": [f"c{i}" for i in order],
            "step": [step[i] for i in order],
            "flat": list(noise(rng)),
            "gaps": ["" if i % 3 else 1.0 for i in order],
            "who": ["me"] * RUNS,
        },
    )
    done = run_iretrace("regress", "--csv", table, "--json", check=False)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    series = {one["name"]: one for one in found["series"]}
    assert set(series) == {"step", "flat", "gaps"}
    assert series["step"]["points"] == RUNS
    assert series["gaps"]["points"] == 10
    assert series["flat"]["change_points"] == []
    (change,) = series["step"]["change_points"]
    assert abs(change["index"] - 18) <= 2
    assert change["run"] == f"c{change['index']}"
    assert change["direction"] == "up"
    assert change["change_pct"] == pytest.approx(8, abs=2)
    assert change["p"] <= 0.03
    assert any("who" in note for note in found["notes"])
    assert run_iretrace("regress", "--csv", table, "--worse", "down").returncode == 0
    assert run_iretrace("regress", "--csv", table, "--last", "3").returncode == 0


def test_too_few_runs_are_no_good_news(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Where nothing can be told, the first line does not say that nothing got worse."""
    table = write_csv(tmp_path / "t.csv", {"id": ["a", "b", "c"], "x": [1.0, 2.0, 3.0]})
    assert run_iretrace("regress", "--csv", table).stdout.startswith("nothing can be told: 1 series of up to 3 runs")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ("id,time,x\n", "no rows"),
        ("id,x\na,1\nb\n", "row 3 has 1 fields"),
        ("id,x,x\na,1,2\n", "two columns"),
        ("id,x\na,b\n", "no numeric column"),
        ("id,time,x\na,when,1\n", "no time"),
        ("id,x\na,\x00\n", ""),
    ],
)
def test_tables_that_are_none_are_told(tmp_path: Path, run_iretrace: RunIretrace, text: str, said: str) -> None:
    """What is wrong with a table is one line and exit status 2."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    done = run_iretrace("regress", "--csv", path, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run without losses."""
    path = write_sample(tmp_path_factory.mktemp("base") / "t.parquet", losses=[])
    return summarize(open_trace(path), [by_name("rfc2014")])


def fill(store: Store, base: Run, *, slower_from: int = 12, host: str = "testbox", lossy: int | None = None) -> None:
    """Twenty runs of which the later ones take half as long again per trap; one may have lost much."""
    rng = np.random.default_rng(8)
    for i in range(20):
        at = Anchor(tsc=START, realtime_ns=(1_790_000_000 + 60 * i) * 10**9, monotonic_ns=5)
        footer: Footer = msgspec.structs.replace(
            base.footer,
            host=msgspec.structs.replace(base.footer.host, name=host),
            clock=msgspec.structs.replace(base.footer.clock, anchors=[at]),
            losses=[Loss(cause="ring-full", count=10**6)] if i == lossy else [],
        )
        latency = np.zeros_like(base.latency)
        for row, counts in zip(latency, base.latency, strict=True):
            met = np.flatnonzero(counts)
            # Half a power of two is 32 buckets; runs differ by a bucket or so.
            row[met + (32 if i >= slower_from else 0) + int(rng.integers(-1, 2))] = counts[met]
        name = f"{host}-{i:02}"
        document = msgspec.structs.replace(base.document, run=name, footer=footer, tags={"commit": f"c{i}"})
        store.add(replace(base, document=document, latency=latency))


def test_the_verb_names_the_run_and_the_commit(tmp_path: Path, base: Run, run_iretrace: RunIretrace) -> None:
    """A store's change names the run and tag it starts at; acknowledged it counts no more, and counts again after."""
    store = open_store(tmp_path / "store", create=True)
    fill(store, base, lossy=3)
    done = run_iretrace("regress", "store", "--only", "timer.*", "--json", check=False)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert any("testbox-03 lost" in note for note in found["notes"])
    series = {one["name"]: one for one in found["series"]}
    (change,) = series["timer.latency_p50"]["change_points"]
    assert (change["run"], change["tags"]["commit"], change["direction"]) == ("testbox-12", "c12", "up")
    assert change["worse"] is True
    assert series["timer.rate"]["change_points"] == []
    assert series["timer.latency_p50"]["points"] == 19

    timer = ("regress", "store", "--only", "timer.latency_*")
    assert run_iretrace(*timer, "--ack", "testbox-12", check=False).returncode == 2
    known = run_iretrace(*timer, "--ack", "testbox-12", "--note", "new compiler").stdout
    assert re.search(r"timer\.latency_p50 +[\d,.]+ cycles +[\d,.]+ cycles .* known: new compiler", known), known
    assert [note.text for note in read_notes(open_store(tmp_path / "store")).notes] == ["new compiler"]
    again = json.loads(run_iretrace(*timer, "--json").stdout)
    assert again["series"][0]["change_points"][0]["acknowledged"] == "new compiler"
    assert run_iretrace(*timer, "--unack", "testbox-12", check=False).returncode == 1
    (tmp_path / "store" / "notes").mkdir(exist_ok=True)
    (tmp_path / "store" / "notes" / "bad.json").write_text("{")
    assert "note cannot be read" in run_iretrace("regress", "store", "--only", "all.rate").stdout


def test_machines_are_series_of_their_own(tmp_path: Path, base: Run, run_iretrace: RunIretrace) -> None:
    """Runs of two hosts are not put into one series, where the second would look like a change."""
    store = open_store(tmp_path / "store", create=True)
    fill(store, base, slower_from=99, host="fast")
    fill(store, base, slower_from=0, host="slow")
    done = run_iretrace("regress", "store", "--only", "timer.latency_p50", "--json")
    names = [one["name"] for one in json.loads(done.stdout)["series"]]
    assert names == ["fast: timer.latency_p50", "slow: timer.latency_p50"]
