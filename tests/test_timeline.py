"""The timeline's index against a replay of the whole trace: counts, single traps, and what is on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import iretrace.trace
import iretrace.trace_writer
from benchmarks import traces
from iretrace.analysis import timeline, timeline_file, timeline_index
from iretrace.analysis.timeline import Timeline
from iretrace.analysis.timeline_index import build
from iretrace.errors import Damaged
from iretrace.footer import Footer
from iretrace.replay.engine import End
from iretrace.replay.policies import FRED, RFC2014, Choice
from iretrace.replay.run import returns
from iretrace.replay.tables import enumerate_policy, ist_vectors
from iretrace.trace import open_trace
from tests import strategies
from tests.traces import KERNEL_CS, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from iretrace.trace import Trace

TABLE = enumerate_policy(RFC2014, frozenset())
NAMES = ("entry_tsc", "cpu", "slot", "irq", "depth", "end", "choice", "rule", "nest", "pid", "self_cycles")


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row groups of 16 events, so that a short trace has many."""
    monkeypatch.setattr(iretrace.trace_writer, "ROW_GROUP_EVENTS", 16)


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """What eight busy CPUs would record; row groups of 2048 events."""
    path = tmp_path_factory.mktemp("busy") / "busy.parquet"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(iretrace.trace_writer, "ROW_GROUP_EVENTS", 2048)
        patch.setattr(traces, "CHUNK", 9000)
        traces.write(path, 60_000)
    return open_trace(path)


def whole(trace: Trace) -> NDArray[Any]:
    """Every trap, by a replay of the whole trace."""
    parts = [timeline_index.as_traps(batch, np.arange(len(batch.rows))) for batch in returns(trace, [RFC2014])]
    found = np.concatenate(parts)
    found["end_tsc"][found["end"] == End.OPEN] = found["end_tsc"].max()
    return found


def keys(traps: NDArray[Any]) -> list[tuple[int, ...]]:
    """What is compared of traps, sorted."""
    return sorted(zip(*(traps[name].tolist() for name in NAMES), strict=True))


@pytest.mark.usefixtures("small_groups")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.one_of(
        strategies.nested_events(), strategies.truncated_events(), strategies.loose_events(max_size=200)
    ).filter(bool),
    least=st.sampled_from((1, 40)),
)
@pytest.mark.slow
def test_blocks_give_the_traps_of_the_whole(tmp_path: Path, events: list[dict[str, Any]], least: int) -> None:
    """Every trap of a replay of the whole comes out of the blocks, judged and nested alike, once."""
    trace = open_trace(write_trace(tmp_path / "t.parquet", events, Footer(kernel_cs=KERNEL_CS)))
    index = build(trace, RFC2014, block_events=least)
    line = Timeline(trace, RFC2014, index)
    found = line._detail.traps(int(index.first[0]), int(index.first[-1]))
    expected = whole(trace)
    # The nest counter is not restored where it does not follow from the open traps (timeline_detail).
    compared = [name for name in NAMES if name not in ("nest", "choice", "rule")]
    ours, theirs = (sorted(zip(*(t[n].tolist() for n in compared), strict=True)) for t in (found, expected))
    assert ours == theirs
    assert index.counts.sum() == len(expected)
    by_choice = np.bincount(expected["choice"], minlength=len(Choice))
    assert index.counts.sum(axis=0).tolist() == by_choice.tolist()


@pytest.mark.slow
def test_any_stretch_shows_what_a_whole_replay_found(busy: Trace) -> None:
    """Traps of stretches of every length, with decision, rule and counter."""
    index = build(busy, RFC2014, block_events=2048)
    assert len(index.events) > 20
    assert len(index.spanning) > 10
    line, expected = Timeline(busy, RFC2014, index), whole(busy)
    random = np.random.default_rng(5)
    for _ in range(40):
        start = int(random.integers(line.start, line.stop))
        stop = min(start + int(10 ** random.uniform(2, 8)), line.stop)
        found = line._detail.traps(start, stop)
        inside = (expected["entry_tsc"] < stop) & (expected["end_tsc"] >= start)
        # Of a trap whose exit was not seen the index knows better when its end was found out.
        sure = expected["end"] == End.EXIT
        assert keys(found[found["end"] == End.EXIT]) == keys(expected[inside & sure])
        assert set(keys(expected[inside & ~sure])) <= set(keys(found))


def test_counts_of_any_stretch_add_up(busy: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bins of the index are right where they end at blocks, by CPU and decision, and nearly right elsewhere."""
    monkeypatch.setattr(timeline, "MAX_DETAIL_EVENTS", 0)
    index = build(busy, RFC2014, block_events=2048)
    line, expected = Timeline(busy, RFC2014, index), whole(busy)
    at = np.where(expected["end"] == End.EXIT, expected["end_tsc"], expected["entry_tsc"])
    for a, b in ((0, 1), (3, 9), (0, len(index.events))):
        start, stop = int(index.first[a]), int(index.first[b])
        view = line.view(start, stop, bins=7)
        assert view.kind == "counts"
        inside = expected[(at >= start) & (at < stop)]
        for cpu in line.cpus:
            mine = view.frame[view.frame["cpu"] == cpu]
            for choice in Choice:
                true = int(((inside["cpu"] == cpu) & (inside["choice"] == choice)).sum())
                assert mine[choice.name].sum() == pytest.approx(true, abs=1e-6)
    whole_view = line.view(line.start, line.stop, bins=50)
    edges = np.linspace(whole_view.start, whole_view.stop, 51)
    totals = np.histogram(at.astype(np.float64), edges)[0]
    ours = whole_view.frame.groupby("start")[[choice.name for choice in Choice]].sum().sum(axis=1).to_numpy()
    assert abs(ours - totals).max() < 0.05 * totals.max()


def test_zooming_ends_at_single_traps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the whole recording to one nested trap, halving the stretch each time: counts first, then traps."""
    monkeypatch.setattr(timeline, "MAX_DETAIL_EVENTS", 1 << 14)
    monkeypatch.setattr(iretrace.trace_writer, "ROW_GROUP_EVENTS", 2048)
    monkeypatch.setattr(traces, "CHUNK", 9000)
    traces.write(tmp_path / "nested.parquet", 60_000)
    busy = open_trace(tmp_path / "nested.parquet")
    line = Timeline(busy, RFC2014, build(busy, RFC2014, block_events=2048))
    nested = next(
        batch.rows[batch.rows["depth"] > 0] for batch in returns(busy, [RFC2014]) if batch.rows["depth"].any()
    )
    centre = int(nested["entry_tsc"][0])
    start, stop, kinds = line.start, line.stop, []
    while stop - start > 2000:
        view = line.view(start, stop)
        kinds.append(view.kind)
        span = (stop - start) // 2
        start, stop = line.clip(centre - span // 2, centre - span // 2 + span)
    assert kinds[0] == "counts"
    assert kinds[-1] == "traps"
    assert kinds == sorted(kinds)  # never back
    last = line.view(start, stop)
    assert 0 < len(last.frame) < 20
    assert last.frame["depth"].max() >= 1


def test_the_index_is_kept_and_not_trusted(busy: Trace, tmp_path: Path) -> None:
    """Read again while it is whole and of this trace and policy; made anew when cut, bent, or of another."""
    first, built = timeline_file.load_or_build(busy, RFC2014, directory=tmp_path)
    assert built
    again, built = timeline_file.load_or_build(busy, RFC2014, directory=tmp_path)
    assert not built
    np.testing.assert_array_equal(first.key, again.key)
    np.testing.assert_array_equal(first.spanning, again.spanning)
    assert timeline_file.load_or_build(busy, FRED, directory=tmp_path)[1]
    identity = timeline_file.identify(busy, enumerate_policy(RFC2014, ist_vectors(busy.footer)))
    (path,) = tmp_path.glob(f"timeline-{identity[:32]}.npz")
    good = path.read_bytes()
    for bad in (b"", good[: len(good) // 2], good[:200] + b"\xff" + good[201:], b"PK\x03\x04" + b"\0" * 100):
        path.write_bytes(bad)
        assert timeline_file.read(path, identity, busy, TABLE) is None
        assert timeline_file.load_or_build(busy, RFC2014, directory=tmp_path)[1]
    assert timeline_file.read(path, "of something else", busy, TABLE) is None


def test_an_index_that_points_outside_is_refused(busy: Trace, tmp_path: Path) -> None:
    """Values that a builder cannot have written, whatever the checksums say."""
    good = build(busy, RFC2014)
    path, identity = tmp_path / "i.npz", "x"
    timeline_file.write(path, identity, good)
    assert timeline_file.read(path, identity, busy, TABLE) is not None
    bent = {
        "groups": good.groups * 7,
        "key": good.key + (1 << 40),
        "first": good.first[::-1].copy(),
        "events": good.events + 1,
        "counts": good.counts[:, :2].copy(),
        "cells": 10**6,
    }
    for name, value in bent.items():
        fields = {field: getattr(good, field) for field in good.__dataclass_fields__}
        timeline_file.write(path, identity, timeline_index.Index(**{**fields, name: value}))
        assert timeline_file.read(path, identity, busy, TABLE) is None, name


def test_a_cache_that_cannot_be_written_is_done_without(busy: Trace, tmp_path: Path) -> None:
    """A file stands where the directory should be."""
    (tmp_path / "file").write_text("")
    index, built = timeline_file.load_or_build(busy, RFC2014, directory=tmp_path / "file" / "x")
    assert built
    assert len(index.events)


def test_the_index_stays_bounded(busy: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells merge until few enough are left; nothing is lost by it."""
    full = build(busy, RFC2014)
    monkeypatch.setattr(timeline_index, "MAX_COUNTS", 500)
    few = build(busy, RFC2014)
    assert len(few.key) <= 500 < len(full.key)
    assert few.cells < full.cells
    assert few.counts.sum() == full.counts.sum()


def test_lying_statistics_are_found_out(busy: Trace, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file says of its row groups is held against their events."""
    events, first, last = busy.row_groups()
    lying = first.copy()
    lying[1] += np.uint64(1)
    monkeypatch.setattr(iretrace.trace.Trace, "row_groups", lambda _: (events, lying, last))
    with pytest.raises(Damaged, match="statistics"):
        build(busy, RFC2014, block_events=2048)
