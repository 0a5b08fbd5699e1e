"""A store of runs: what is added is what comes back, whatever else lies there and whoever writes at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings

from iretrace.analysis import frames, histogram, savings
from iretrace.analysis.study import study
from iretrace.analysis.totals import totals
from iretrace.errors import InputError, IretraceError, OutputError, UsageError
from iretrace.footer import Anchor, Clock, Cpu
from iretrace.replay.policies import by_name
from iretrace.replay.run import replay, returns
from iretrace.store import Run, Store, long_form, open_store, records
from iretrace.store.comparable import obstacles
from iretrace.store.member import from_bytes, to_bytes
from iretrace.store.schema import METRIC_COLUMNS, RUN_COLUMNS, RUN_KEY
from iretrace.store.store import INDEX_AFTER, SUFFIX
from iretrace.store.summarize import describe, policy_run, summarize
from iretrace.trace import open_trace
from tests.conftest import ROOT, RunIretrace
from tests.sample_trace import START, TSC_KHZ, events, footer, write_sample
from tests.strategies import truncated_events
from tests.traces import write_trace

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

POLICIES = ("iret", "rfc2014", "fred")


def make_run(directory: Path, seed: int = 1, **fields: Any) -> Run:
    """A run of a made-up trace."""
    directory.mkdir(exist_ok=True)
    clock = Clock(
        source="msr-tsc",
        tsc_khz=TSC_KHZ,
        anchors=[Anchor(tsc=START, realtime_ns=(1_790_000_000 + seed) * 10**9, monotonic_ns=5)],
    )
    path = write_trace(directory / f"trace-{seed}.parquet", events(seed), footer(**{"clock": clock, **fields}))
    return summarize(open_trace(path), [by_name(name) for name in POLICIES])


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run."""
    return make_run(tmp_path / "traces")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return open_store(tmp_path / "store", create=True)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_stored_run_says_what_the_trace_says(tmp_path: Path, policy: str) -> None:
    """A study made of a stored run has the same numbers as one made of the trace."""
    made = make_run(tmp_path / "traces")
    stored = from_bytes(to_bytes(made), "member").study(policy)
    fresh = study(open_trace(tmp_path / "traces" / "trace-1.parquet"), by_name(policy))
    assert totals(stored) == totals(fresh)
    for frame in ("by_vector", "hazards"):
        pd.testing.assert_frame_equal(getattr(stored, frame), getattr(fresh, frame))
    pd.testing.assert_frame_equal(frames.by_rule(stored.result.policies[0]), frames.by_rule(fresh.result.policies[0]))
    pd.testing.assert_frame_equal(frames.depths(stored.counts), frames.depths(fresh.counts))
    for table in ("latency", "self_time", "ret_latency"):
        of = frames.durations
        pd.testing.assert_frame_equal(of(getattr(stored.counts, table)), of(getattr(fresh.counts, table)))
    pd.testing.assert_frame_equal(
        frames.rates(stored.counts, TSC_KHZ).groupby("name")["traps"].sum().to_frame(),
        frames.rates(fresh.counts, TSC_KHZ).groupby("name")["traps"].sum().to_frame(),
    )
    left, right = savings.medians(stored.counts), savings.medians(fresh.counts)
    pd.testing.assert_frame_equal(left, right, rtol=2 * histogram.RELATIVE_ERROR)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(truncated_events())
@pytest.mark.slow
def test_every_return_is_counted_once(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Over vectors, contexts and time, a run counts the returns of the replay, whatever the trace."""
    if not rows:
        return
    trace = open_trace(write_trace(tmp_path / "t.parquet", rows))
    made = from_bytes(to_bytes(summarize(trace, [by_name("rfc2014")])), "member")
    policy = made.policies[0]
    slots = np.concatenate([batch.rows["slot"] for batch in returns(trace, [by_name("rfc2014")])])
    assert made.times is not None
    assert policy.ret_times is not None
    assert made.vectors.tolist() == sorted(set(slots.tolist()))
    per_vector = [int((slots == vector).sum()) for vector in made.vectors]
    assert made.times.returns.sum(axis=0).tolist() == per_vector
    assert made.depths.sum(axis=1).tolist() == per_vector
    assert int(policy.count.sum()) == slots.size
    assert int(policy.ret_times.sum()) == int(policy.count[policy.choice == 0].sum())
    assert (made.times.latency.sum(axis=0) == made.latency.sum(axis=1)).all()
    assert (made.times.latency_below.sum(axis=0)[:, 3] <= made.latency.sum(axis=1)).all()


def test_quantiles_over_time_add_up(run: Run) -> None:
    """At least the quantile's share of a run's durations is counted as not above it, in all of its time bins."""
    assert run.times is not None
    total = run.latency.sum(axis=1)
    for j, q in enumerate((0.5, 0.9, 0.99, 0.999)):
        below = run.times.latency_below[:, :, j].sum(axis=0)
        assert (below >= q * total - 1e-6).all()


def test_frames_have_the_documented_columns(store: Store, run: Run) -> None:
    """Columns are those of the schema; the long form has one row a known value."""
    store.add(run)
    assert list(store.runs().columns) == [column.name for column in RUN_COLUMNS]
    metrics = store.metrics()
    assert list(metrics.columns) == [column.name for column in METRIC_COLUMNS]
    row = records(store.runs())[0]
    assert row["tags"] == {"workload": "build"}
    assert row["losses"] == {"ring-full": 17, "frame-unread": 3}
    assert row["lossy"] is True
    assert row["workload"] == "build"
    values = long_form(metrics)
    assert len(values) == int(metrics.drop(columns=["run", "policy", "vector", "name"]).notna().sum().sum())
    one = values.query("policy == 'rfc2014' and vector == -1 and metric == 'ret_pct'")
    whole = totals(run.study("rfc2014"))
    assert one["value"].tolist() == [pytest.approx(100 * whole.ret / whole.returns)]


def test_duckdb_asks_the_same_rows(store: Store, run: Run) -> None:
    """The tables of connect() are the frames, and its SQL reaches no file."""
    store.add(run)
    connection = store.connect()
    assert connection.sql("SELECT tags['workload'] FROM runs").fetchall() == [("build",)]
    assert connection.sql("SELECT count(*) FROM metrics").fetchall() == [(len(store.metrics()),)]
    with pytest.raises(Exception, match="disabled"):
        connection.sql("SELECT * FROM read_csv('/etc/passwd')")


@pytest.mark.slow
def test_object_stores_work_as_directories_do(tmp_path: Path) -> None:
    """A store behind fsspec adds, lists, loads and removes."""
    store = open_store(f"memory://{uuid.uuid4().hex}/fleet", create=True)
    made = [make_run(tmp_path / "t", seed) for seed in range(1, 4)]
    for one in made:
        store.add(one)
    assert store.ids() == [one.id for one in made]
    with pytest.raises(OutputError, match="there already"):
        store.add(made[0])
    assert store.load(made[1].id).document == made[1].document
    store.remove(made[1].id)
    again = open_store(store.location.url)
    assert again.ids() == [made[0].id, made[2].id]


def damage(store: Store, run: Run) -> dict[str, str]:
    """Put unreadable members beside a run; gives their names and what must be said of them."""
    good = to_bytes(run)
    folder = store.location.local
    assert folder is not None
    assert good.count(RUN_KEY) >= 1
    newer = good.replace(b'{"schema":1,"run":', b'{"schema":9,"run":')
    assert newer != good
    files = {"cut": good[: len(good) // 2], "zero": b"", "newer": newer, "text": b"hello", "renamed": good}
    for name, data in files.items():
        (folder / "runs" / f"{name}{SUFFIX}").write_bytes(data)
    return {
        "cut": "truncated",
        "zero": "zero bytes",
        "newer": "schema 9",
        "text": "expected a Parquet file",
        "renamed": "says it is run",
    }


def test_unreadable_members_are_named_and_the_rest_is_shown(store: Store, run: Run) -> None:
    """Truncated, of zero bytes, of a newer schema, no Parquet, of another name: named with the reason, never fatal."""
    store.add(run)
    said = damage(store, run)
    again = open_store(store.location.url)
    assert again.ids() == [run.id]
    found = {one.name.removesuffix(SUFFIX): one.reason for one in again.unreadable()}
    assert set(found) == set(said)
    for name, text in said.items():
        assert text in found[name]
        if name != "renamed":
            with pytest.raises(InputError):
                again.load(name)


@pytest.mark.parametrize("position", range(0, 100, 7))
@pytest.mark.slow
def test_a_damaged_member_is_an_error_in_one_line(run: Run, position: int) -> None:
    """Bytes changed anywhere give the run or an error that names the file, and nothing else."""
    data = bytearray(to_bytes(run))
    at = len(data) * position // 100
    data[at : at + 40] = bytes(byte ^ 0x55 for byte in data[at : at + 40])
    said = ""
    try:
        from_bytes(bytes(data), "member")
    except IretraceError as error:
        said = str(error)
    assert not said or said.startswith("member: ")


def test_names_that_lead_elsewhere_are_refused(store: Store, run: Run) -> None:
    """No run outside the store can be asked for or removed, and links are not followed."""
    store.add(run)
    folder = store.location.local
    assert folder is not None
    (folder / "runs" / f"link{SUFFIX}").symlink_to("/etc/passwd")
    for name in ("../index/x", "/etc/passwd", "..", ".hidden", "a\\b"):
        with pytest.raises(InputError):
            store.load(name)
        with pytest.raises(InputError):
            store.remove(name)
    store.refresh()
    assert store.ids() == [run.id]
    assert not store.unreadable()


@pytest.mark.slow
def test_an_index_changes_nothing_but_the_time(tmp_path: Path, store: Store) -> None:
    """With an index, a stale one, a damaged one or none, a store says the same."""
    made = [make_run(tmp_path / "t", 1)]
    for seed in range(2, INDEX_AFTER + 4):
        copy = msgspec.structs.replace(made[0].document, run=f"20990101T0000{seed:02}Z-{seed:010x}")
        made.append(Run(**{**made[0].__dict__, "document": copy}))
    for one in made[:-1]:
        store.add(one)
    without = (store.runs(), store.metrics())
    assert store.index()
    assert not store.index()
    folder = store.location.local
    assert folder is not None
    assert len(list((folder / "index").iterdir())) == 2

    def same(left: tuple[pd.DataFrame, pd.DataFrame]) -> None:
        again = open_store(store.location.url, readonly=True)
        pd.testing.assert_frame_equal(again.runs(), left[0])
        pd.testing.assert_frame_equal(again.metrics(), left[1])

    same(without)
    store.add(made[-1])
    (folder / "runs" / f"{made[3].id}{SUFFIX}").write_bytes(b"")
    store.remove(made[5].id)
    gone = (made[3].id, made[5].id)
    left = open_store(store.location.url)
    assert left.ids() == [one.id for one in made if one.id not in gone]
    assert [one.name for one in left.unreadable()] == [f"{made[3].id}{SUFFIX}"]
    now = (left.runs(), left.metrics())
    for file in (folder / "index").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    same(now)
    for file in (folder / "index").iterdir():
        file.unlink()
    same(now)


def test_a_store_that_is_read_only_is_not_written(store: Store, run: Run) -> None:
    """Opened to be read only, nothing is added, removed or indexed."""
    store.add(run)
    again = open_store(store.location.url, readonly=True)
    assert not again.index()
    with pytest.raises(UsageError, match="read only"):
        again.add(run)
    with pytest.raises(UsageError, match="read only"):
        again.remove(run.id)


WRITER = """
import sys
from dataclasses import replace
import msgspec
from iretrace.store import open_store
from iretrace.store.member import from_bytes
from pathlib import Path
base = from_bytes(Path(sys.argv[2]).read_bytes(), "base")
store = open_store(sys.argv[1], create=True)
for i in range(25):
    name = f"run-{sys.argv[3]}-{i:02}"
    store.add(replace(base, document=msgspec.structs.replace(base.document, run=name)))
    store.index()
"""


@pytest.mark.slow
def test_several_writers_lose_nothing(tmp_path: Path, run: Run) -> None:
    """Three processes that add and index at once leave every run, readable, and no half file."""
    base, where = tmp_path / "base.parquet", tmp_path / "store"
    base.write_bytes(to_bytes(run))
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(where), str(base), str(i)], cwd=ROOT) for i in range(3)
    ]
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    store = open_store(where)
    assert sorted(store.ids()) == sorted(f"run-{i}-{j:02}" for i in range(3) for j in range(25))
    assert not store.unreadable()
    assert set(store.metrics()["run"]) == set(store.ids())
    assert not [path for path in where.rglob("*") if path.name.startswith(".")]


def test_counters_alone_make_a_run(store: Store, run: Run) -> None:
    """Contexts, their counts and histograms are enough: what was not counted over time stays unknown."""
    trace = open_trace(write_sample(store.location.local.parent / "t.parquet"))  # type: ignore[union-attr]
    counts = replay(trace, [by_name("rfc2014")]).policies
    document = describe(trace.footer, run_id="counted-1", policies=counts, duration_cycles=10**9)
    zeros = np.zeros_like(run.latency)
    made = Run(
        document=msgspec.structs.replace(document, source="aggregate"),
        vectors=run.vectors,
        latency=run.latency,
        self_time=zeros,
        depths=np.zeros_like(run.depths),
        times=None,
        policies=(policy_run(counts[0], zeros, zeros),),
    )
    store.add(made)
    loaded = store.load("counted-1")
    assert loaded.times is None
    assert totals(loaded.study("rfc2014")).ret == int(counts[0].counts[counts[0].table.choice == 0].sum())
    whole = store.metrics().query("vector == -1 and policy == ''").iloc[0]
    assert whole["latency_p50_cycles"] > 0
    assert np.isnan(whole["self_p50_cycles"])


@pytest.mark.slow
def test_runs_that_differ_are_not_comparable(tmp_path: Path, store: Store) -> None:
    """Another CPU, clock or workload, or a loss, is an obstacle with its reason; other kernels and tags are not."""
    plain: dict[str, Any] = {"losses": []}
    clock = Clock(source="ktime", anchors=[Anchor(tsc=1, realtime_ns=1_790_000_009 * 10**9, monotonic_ns=1)])
    fields: list[dict[str, Any]] = [
        plain,
        {**plain, "tags": {"workload": "build", "commit": "2"}},
        {**plain, "cpu": Cpu(vendor="AuthenticAMD", family=25, model=1)},
        {**plain, "clock": clock},
        {**plain, "tags": {"workload": "idle"}},
        {},
    ]
    for seed, one in enumerate(fields, 1):
        store.add(make_run(tmp_path / "t", seed, **one))
    rows = records(store.runs().sort_values("added"))
    assert obstacles(rows[:1], rows[1:2]) == []
    for row, text in zip(rows[2:], ("CPU differs", "clock differs", "workload differs", "lost 17 events"), strict=True):
        found = obstacles(rows[:1], [row])
        assert any(text in one for one in found), found
    assert len(obstacles([rows[5]], [rows[5]])) == 1, "a run on both sides is told once"
    mixed = obstacles(rows[:3], rows[:3])
    assert any("CPU differs" in one and "on each side" in one for one in mixed), mixed
    nameless = {**rows[0], "cpu_id": "AuthenticAMD/25/1/1 on unnamed"}
    assert "25/1/1 on an unnamed hypervisor" in obstacles(rows[:1], [nameless])[0]


def test_the_verb_from_end_to_end(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """Add, list, show and remove, as tables and as JSON; a run is added once; removing needs leave."""
    trace = write_sample(tmp_path / "t.parquet")
    added = json.loads(run_iretrace("runs", "add", trace, "--tag", "commit=abc", "--json").stdout)
    name = added["added"][0]["run"]
    again = run_iretrace("runs", "add", trace, check=False)
    assert again.returncode == 2
    assert "there already" in again.stderr
    listed = json.loads(run_iretrace("runs", "list", "--where", "commit=abc", "--json").stdout)
    assert [row["run"] for row in listed["runs"]] == [name]
    assert listed["runs"][0]["tags"] == {"workload": "build", "commit": "abc"}
    assert json.loads(run_iretrace("runs", "list", "--where", "commit=x", "--json").stdout)["runs"] == []
    assert name in run_iretrace("runs", "list", "iretrace-runs").stdout
    shown = run_iretrace("runs", "show", name[:12]).stdout
    assert "rfc2014-reviewed" in shown
    assert "ring-full 17" in shown
    assert json.loads(run_iretrace("runs", "show", name, "--json").stdout)["lost_events"] == 17
    (tmp_path / "iretrace-runs" / "runs" / f"bad{SUFFIX}").write_bytes(b"")
    bad = run_iretrace("runs", "list", check=False)
    assert bad.returncode == 1
    assert f"bad{SUFFIX}: cannot be read: has zero bytes" in bad.stderr
    refused = run_iretrace("runs", "rm", name, check=False)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    run_iretrace("runs", "rm", name, f"bad{SUFFIX}", "--yes")
    assert "0 runs" in run_iretrace("runs", "list").stdout


def test_what_is_no_store_is_told(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """A missing directory, a file, and a directory of other things are errors in one line."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_text("x")
    for name, text in (
        ("missing", "no such store"),
        ("file", "is a file"),
        ("other", "no store"),
        ("zz://x", "cannot"),
    ):
        done = run_iretrace("runs", "list", name, check=False)
        assert done.returncode == 2
        assert text in done.stderr
        assert done.stderr.count("\n") == 1
