"""What compare says of recordings that are alike, that differ, and of which nothing can be told."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pyperf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iretrace.analysis import histogram, measures
from iretrace.analysis.compare import Difference, compare
from iretrace.analysis.significance import benjamini_hochberg, holm
from iretrace.footer import Anchor, Clock
from iretrace.replay import contexts
from iretrace.replay.contexts import Target
from iretrace.replay.policies import Choice
from iretrace.store.count import MAX_BINS
from iretrace.store.run import PolicyDocument, PolicyRun, Run, RunDocument, SavingDocument, Times
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace
from tests.sample_trace import START, TSC_KHZ, events, footer
from tests.traces import write_trace

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from tests.conftest import RunIretrace

PF, TIMER = 14, 0xEC
KHZ = 1e6
POLICY = "rfc2014"


def autoregressive(rng: np.random.Generator, n: int, phi: float) -> NDArray[np.float64]:
    """A stationary series of unit variance whose neighbours correlate by ``phi``."""
    noise = rng.normal(size=n + 50)
    series = np.zeros(n + 50)
    for i in range(1, n + 50):
        series[i] = phi * series[i - 1] + noise[i] * np.sqrt(1 - phi**2)
    return series[50:]


def made(
    rng: np.random.Generator, name: str, *, rate: float = 100.0, ret: float = 0.3, phi: float = 0.5, slower: float = 1.0
) -> Run:
    """A run of two vectors whose rates wander; a third of the page faults, say, become RET; latencies wander too."""
    vectors = np.array([PF, TIMER])
    wander = np.stack([autoregressive(rng, MAX_BINS, phi) for _ in vectors], axis=1)
    returns = rng.poisson(rate * np.exp(0.2 * wander))
    rets = rng.binomial(returns, ret)
    bins = np.zeros((MAX_BINS, 2, histogram.N_BUCKETS), np.int64)
    for v in range(2):
        values = rng.lognormal(8, 0.4, returns[:, v].sum()) * slower
        values *= np.repeat(np.exp(0.1 * wander[:, v]), returns[:, v])
        where = np.repeat(np.arange(MAX_BINS), returns[:, v])
        np.add.at(bins[:, v], (where, histogram.bucket_of(values.astype(np.uint64))), 1)

    def below(counts: NDArray[np.int64]) -> NDArray[np.int64]:
        upto = np.cumsum(counts.sum(axis=0))
        at = [int(np.searchsorted(upto, q * upto[-1])) for q in measures.QUANTILES.values()]
        return np.cumsum(counts, axis=1)[:, at]

    each = np.stack([below(bins[:, v]) for v in range(2)], axis=1)
    whole = below(bins.sum(axis=1))
    times = Times(
        returns=returns,
        known=returns,
        to_kernel=rets,
        latency=returns,
        latency_below=each,
        self_time=returns,
        self_below=each,
        all_latency_below=whole,
        all_self_below=whole,
    )
    context = [contexts.encode(v, target) for v in (PF, TIMER) for target in (Target.KERNEL, Target.OTHER)]
    counts = np.stack([rets.sum(axis=0), (returns - rets).sum(axis=0)], axis=1).ravel()
    hist = bins.sum(axis=0)
    policy = PolicyRun(
        name=POLICY,
        context=np.array(context, np.uint32),
        count=counts,
        choice=np.array([Choice.RET, Choice.IRET] * 2, np.uint8),
        rule=np.zeros(4, np.uint8),
        hazard=np.zeros(4, np.uint16),
        first_tsc=np.zeros(4, np.uint64),
        first_cpu=np.zeros(4, np.uint16),
        ret_latency=np.zeros_like(hist),
        ret_projected=np.zeros_like(hist),
        ret_times=rets,
    )
    document = RunDocument(
        run=name,
        duration_s=10.0,
        policies=[PolicyDocument(name=POLICY, rules=["x"])],
        saving=SavingDocument(cycles=100, low=99, high=101),
        time_widths=[10.0 / MAX_BINS * KHZ * 1e3] * MAX_BINS,
        footer=footer(clock=Clock(source="msr-tsc", tsc_khz=KHZ), losses=[]),
    )
    return Run(
        document=document,
        vectors=vectors,
        latency=hist,
        self_time=hist,
        depths=np.zeros((2, 129), np.int64),
        times=times,
        policies=(policy,),
    )


def by_name(found: list[Difference]) -> dict[str, Difference]:
    """Differences by their names."""
    return {one.name: one for one in found}


@given(st.lists(st.floats(0, 1) | st.just(np.nan), max_size=30))
def test_corrections_are_those_of_the_textbooks(values: list[float]) -> None:
    """Holm by its definition, Benjamini and Hochberg as scipy has it; what was not tested does not count."""
    p = np.array(values, np.float64)
    tested = p[~np.isnan(p)]
    expected = np.full(p.shape, np.nan)
    if tested.size:
        expected[~np.isnan(p)] = stats.false_discovery_control(tested)
    np.testing.assert_allclose(benjamini_hochberg(p), expected)
    found, worst = np.full(tested.size, np.nan), 0.0
    for rank, i in enumerate(np.argsort(tested, kind="stable")):
        worst = max(worst, min(1.0, (tested.size - rank) * tested[i]))
        found[i] = worst
    expected[~np.isnan(p)] = found
    np.testing.assert_allclose(holm(p), expected)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.7])
def test_neighbours_that_are_alike_do_not_make_differences_of_nothing(phi: float) -> None:
    """The error of a mean over time covers as often as it should, where taking bins for independent does not."""
    rng = np.random.default_rng(1)
    wrong = naive = told = 0
    n, rounds = 128, 600
    for _ in range(rounds):
        series = autoregressive(rng, n, phi)
        error, freedom = measures.error_of_mean(series)
        if np.isnan(error):
            continue
        told += 1
        wrong += abs(series.mean()) > stats.t.ppf(0.975, freedom) * error
        naive += abs(series.mean()) > 1.96 * series.std(ddof=1) / np.sqrt(n)
    assert told > rounds / 2
    assert wrong / told < 0.08
    if phi:
        assert naive / told > 2 * wrong / told


@pytest.mark.slow
def test_comparing_like_with_like_raises_few_alarms() -> None:
    """Of pairs of runs of the same wandering process, at most one in twenty has any alarm, give or take chance."""
    rng = np.random.default_rng(2)
    alarms = sum(
        any(one.verdict in ("better", "worse") for one in compare([made(rng, "a")], [made(rng, "b")], policy=POLICY))
        for _ in range(60)
    )
    assert alarms <= stats.binom.ppf(0.999, 60, 0.05)


def test_what_changed_is_found_and_the_rest_is_not() -> None:
    """Half as many RETs and latencies longer by half are found in single runs, with the truth in the interval."""
    rng = np.random.default_rng(3)
    found = by_name(compare([made(rng, "a")], [made(rng, "b", ret=0.15, slower=1.5)], policy=POLICY))
    for name, truth, verdict in (
        ("#PF.ret", -50, "worse"),
        ("#PF.saved", -50, "worse"),
        ("timer.latency_p50", 50, "worse"),
        ("all.self_p90", 50, "worse"),
    ):
        one = found[name]
        assert one.verdict == verdict, one
        assert one.low_pct < truth < one.high_pct, one
    assert found["#PF.rate"].verdict in ("same", "cannot tell")
    back = by_name(compare([made(rng, "b", ret=0.15, slower=1.5)], [made(rng, "a")], policy=POLICY))
    assert back["#PF.ret"].verdict == "better"
    assert back["timer.latency_p50"].verdict == "better"


def test_repeats_say_more_than_single_runs() -> None:
    """Five runs on each side tell a change from what runs differ by anyway, and tell that there is none."""
    rng = np.random.default_rng(4)

    def runs(**fields: Any) -> list[Run]:
        return [made(rng, f"{fields}{i}", phi=0.0, **fields) for i in range(5)]

    found = by_name(compare(runs(), runs(slower=1.2), policy=POLICY, min_effect_pct=5))
    assert found["#PF.latency_p50"].verdict == "worse"
    assert found["#PF.latency_p50"].low_pct < 20 < found["#PF.latency_p50"].high_pct
    assert found["#PF.ret"].verdict == "same"
    assert found["#PF.rate"].verdict == "same"


def test_a_spread_between_runs_is_not_overlooked() -> None:
    """Runs that differ among themselves by more than the sides differ give no verdict, precise as each may be."""
    rng = np.random.default_rng(5)
    sides = [[made(rng, f"{side}{i}", rate=100 * rng.lognormal(0, 0.5)) for i in range(4)] for side in "ab"]
    found = by_name(compare(*sides, policy=POLICY))
    assert found["#PF.rate"].verdict == "cannot tell"
    assert found["#PF.ret"].verdict in ("same", "cannot tell")


def test_what_is_too_small_is_no_alarm() -> None:
    """A change that is certain and below the minimum effect is the same."""
    rng = np.random.default_rng(6)
    sides = [[made(rng, f"{slower}{i}", phi=0.0, slower=slower) for i in range(6)] for slower in (1.0, 1.02)]
    assert by_name(compare(*sides, policy=POLICY, min_effect_pct=5))["#PF.latency_p50"].verdict == "same"


def test_counters_without_time_cannot_tell_alone() -> None:
    """A run that was not counted over time has no error of its own: alone it cannot tell, with repeats it can."""
    rng = np.random.default_rng(7)

    def counted(slower: float) -> list[Run]:
        runs = [made(rng, f"{slower}{i}", phi=0.0, slower=slower) for i in range(4)]
        policy = [replace(run.policies[0], ret_times=None) for run in runs]
        return [replace(run, times=None, policies=(one,)) for run, one in zip(runs, policy, strict=True)]

    base, new = counted(1.0), counted(1.5)
    alone = compare(base[:1], new[:1], policy=POLICY)
    assert {one.verdict for one in alone} == {"cannot tell"}
    assert by_name(compare(base, new, policy=POLICY))["#PF.latency_p50"].verdict == "worse"


def test_a_vector_that_is_new_is_seen() -> None:
    """A vector that only one side met has the rate 0 on the other, and no change in percent."""
    rng = np.random.default_rng(8)
    both, one = made(rng, "a"), made(rng, "b")
    left = by_name(compare([_without_timer(one)], [both], policy=POLICY))["timer.rate"]
    assert left.base == 0
    assert left.verdict == "worse"
    assert np.isnan(left.change_pct)


def _without_timer(run: Run) -> Run:
    times = run.times
    assert times is not None
    first = {name: getattr(times, name)[:, :1] for name in times.__dataclass_fields__ if not name.startswith("all_")}
    policy = run.policies[0]
    keep = policy.slot == PF
    cut = {name: getattr(policy, name)[keep] for name in ("context", "count", "choice", "rule", "hazard")}
    assert policy.ret_times is not None
    return replace(
        run,
        vectors=run.vectors[:1],
        latency=run.latency[:1],
        self_time=run.self_time[:1],
        depths=run.depths[:1],
        times=replace(times, **first),
        policies=(replace(policy, ret_times=policy.ret_times[:, :1], **cut),),
    )


@given(st.floats(0.2, 0.999), st.integers(1, 5))
def test_interpolated_quantiles_stay_in_their_bucket(q: float, seed: int) -> None:
    """A quantile is within a bucket's width of the true one."""
    values = np.random.default_rng(seed).lognormal(9, 1, 2000).astype(np.uint64)
    counts = np.bincount(histogram.bucket_of(values), minlength=histogram.N_BUCKETS)
    found = measures._at(counts, q)
    true = float(np.quantile(values, q, method="inverted_cdf"))
    assert abs(found - true) <= true / histogram.SUB_BUCKETS + 1


def traces(directory: Path, side: str, count: int, **fields: Any) -> list[Path]:
    """Some traces of made-up recordings."""
    paths = []
    for i in range(count):
        clock = Clock(
            source="msr-tsc",
            tsc_khz=TSC_KHZ,
            anchors=[Anchor(tsc=START, realtime_ns=(1_790_000_000 + i) * 10**9, monotonic_ns=5)],
        )
        seed = hash((side, i)) % 1000 if side == "x" else i + (100 if side == "new" else 0)
        said = footer(**{"losses": [], "clock": clock, "tags": {"workload": "w", "side": side}, **fields})
        paths.append(write_trace(directory / f"{side}-{i}.parquet", events(seed), said))
    return paths


def test_the_verb_compares_and_exits_by_what_it_found(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Traces by pattern, runs by tag; JSON as documented; exit 1 where something is worse; Markdown holds the table."""
    traces(tmp_path, "base", 2)
    traces(tmp_path, "new", 2)
    done = run_iretrace("compare", "base-*.parquet", "new-*.parquet", "--json")
    found = json.loads(done.stdout)
    assert found["comparable"] is True
    assert [len(found[side]["runs"]) for side in ("base", "new")] == [2, 2]
    names = [one["name"] for one in found["metrics"]]
    assert {"all.rate", "all.saved", "timer.latency_p50", "#PF.to_kernel"} <= set(names)
    assert {one["verdict"] for one in found["metrics"]} <= {"same", "better", "worse", "cannot tell"}
    run_iretrace("runs", "add", *sorted(tmp_path.glob("*.parquet")), "--policy", POLICY)
    again = json.loads(run_iretrace("compare", "side=base", "side=new", "--json").stdout)
    assert again["metrics"] == found["metrics"]
    shown = run_iretrace("compare", "side=base", "side=new", "--markdown", "--only", "rate", "--all").stdout
    assert "| all | rate |" in shown
    assert "| timer | rate |" in shown
    assert "latency" not in shown.split("| vector")[1]
    assert run_iretrace("compare", "side=base", "side=nothing", check=False).returncode == 2
    assert run_iretrace("compare", "base-0.parquet,base-0.parquet", "new-0.parquet", check=False).returncode == 2
    assert run_iretrace("compare", "base-0.parquet", "new-0.parquet", "--only", "zz", check=False).returncode == 2


def test_a_regression_is_exit_status_1(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Where RETs save less on one side, by calibration, the saving is worse and the verb says so by its exit status."""
    base = traces(tmp_path, "base", 4)
    new = traces(tmp_path, "new", 4)
    for path in new:
        trace = open_trace(path)
        calibration = trace.footer.calibration
        assert calibration is not None
        costs = list(calibration.costs)
        costs[0] = msgspec.structs.replace(costs[0], median_cycles=105, low_cycles=104, high_cycles=106)
        calibration = msgspec.structs.replace(calibration, costs=costs)
        write_trace(path, events(int(path.stem[-1])), msgspec.structs.replace(trace.footer, calibration=calibration))
    sides = [",".join(map(str, side)) for side in (base, new)]
    done = run_iretrace("compare", *sides, "--only", "all.saved", check=False)
    assert done.returncode == 1, done.stdout
    assert "worse" in done.stdout


def test_what_cannot_be_compared_is_refused_with_the_reason(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Another clock, or lost events, is exit status 2 and no metrics, unless asked for; then the obstacle is shown."""
    traces(tmp_path, "base", 1)
    traces(tmp_path, "new", 1, clock=Clock(source="ktime", tsc_khz=TSC_KHZ))
    done = run_iretrace("compare", "base-0.parquet", "new-0.parquet", "--json", check=False)
    assert done.returncode == 2
    found = json.loads(done.stdout)
    assert found["comparable"] is False
    assert found["metrics"] == []
    assert "clock differs" in done.stderr
    anyway = json.loads(run_iretrace("compare", "base-0.parquet", "new-0.parquet", "--json", "--anyway").stdout)
    assert anyway["comparable"] is False
    assert anyway["metrics"]


def test_pyperf_takes_both_sides(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """The files are pyperf's, and ``pyperf compare_to`` compares every time in them."""
    traces(tmp_path, "base", 3)
    traces(tmp_path, "new", 3)
    run_iretrace("compare", "base-*.parquet", "new-*.parquet", "--pyperf", "perf")
    done = subprocess.run(
        [sys.executable, "-m", "pyperf", "compare_to", "--table", "perf.base.json", "perf.new.json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Benchmark" in done.stdout or "not significant" in done.stdout
    again = run_iretrace("compare", "base-*.parquet", "new-*.parquet", "--pyperf", "perf", check=False)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    suite = pyperf.BenchmarkSuite.load(str(tmp_path / "perf.base.json"))
    timer = suite.get_benchmark("timer.latency_p50")
    run = summarize(open_trace(tmp_path / "base-0.parquet"))
    value = measures.estimates(run, POLICY)[TIMER, "latency_p50"].value
    assert timer.get_values()[0] == pytest.approx(value / (TSC_KHZ * 1e3))
    assert len(timer.get_values()) == 3
