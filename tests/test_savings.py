"""What policies save, against values by hand and a plain Python count."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iretrace.analysis import histogram, saved
from iretrace.analysis.projection import MAX_PIDS, Projection, project
from iretrace.analysis.saved import BY_COMM, BY_CPU, BY_PID, LATENCY, MIN_RETS, TOTAL
from iretrace.footer import Calibration, Clock, Cost, Cpu, Footer, Process, TrapClass, Window
from iretrace.replay import run
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.engine import Engine, Pairing
from iretrace.replay.policies import FRED, IRET, RFC2014
from iretrace.replay.run import Decisions, Returns
from iretrace.replay.tables import enumerate_policy
from iretrace.trace import open_trace
from tests import strategies
from tests.sample_trace import write_sample
from tests.test_engine import batches
from tests.traces import IF, KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from iretrace.replay.engine import Rows

PF, TIMER, CALL, RESCHEDULE = 14, 0xEC, 0xFB, 0xFD
LOW, SAVING, HIGH = 170.0, 200.0, 220.0

FOOTER = Footer(
    kernel_cs=KERNEL_CS,
    cpu=Cpu(online=[0, 1, 5]),
    clock=Clock(tsc_khz=1000.0),  # a cycle is a microsecond
    mitigations={"retbleed": "Not affected"},
    classes=[TrapClass(name="page-fault", vectors=[PF], entry="page_fault_kernel")],
    window=Window(start_tsc=0, stop_tsc=2_000_000),
    calibration=Calibration(
        costs=[
            Cost(path="iretq", median_cycles=300, low_cycles=290, high_cycles=310),
            Cost(path="popfq-ret", median_cycles=100, low_cycles=90, high_cycles=120),
        ]
    ),
)

KERNEL = {"cs": KERNEL_CS, "ip": 0xFFFFFFFF81000000, "flags": IF, "sp": 0xFFFFC90000000000, "to_kernel": True}
USER = {"cs": USER_CS, "ip": 0x401000, "flags": IF, "sp": 0x7FFFFFFFE000, "to_kernel": False}

NEST: list[dict[str, Any]] = [
    event(1_000, "entry", TIMER, **USER),  # 10 000 cycles, itself by IRET
    event(2_000, "entry", CALL, **KERNEL, pid=7),  # 2 000, a RET
    event(2_500, "entry", RESCHEDULE, **KERNEL, pid=7),  # 100, a RET: less than it saves
    event(2_600, "exit", RESCHEDULE, **KERNEL, pid=7),
    event(2_700, "entry", PF, **KERNEL, pid=7),  # a RET, of which no end is seen
    event(4_000, "exit", CALL, **KERNEL, pid=7),
    event(11_000, "exit", TIMER, **USER),
    event(30_000, "entry", CALL, cpu=1, **KERNEL),
    event(31_000, "exit", CALL, cpu=1, **KERNEL),
]


def savings_of(path: Path, events: Iterable[dict[str, Any]], **fields: Any) -> saved.Saved:
    """Under today's kernel, the mail and FRED."""
    known = {name: getattr(FOOTER, name) for name in FOOTER.__struct_fields__} | fields
    return saved.saved(open_trace(write_trace(path / "t.parquet", events, Footer(**known))), [IRET, RFC2014, FRED])


def row(frame: pd.DataFrame, **where: object) -> dict[str, Any]:
    """The one row with these values."""
    for name, value in where.items():
        frame = frame[frame[name] == value]
    (found,) = frame.to_dict("records")
    return {str(name): value for name, value in found.items()}


def test_what_is_nested_climbs(tmp_path: Path) -> None:
    """Each trap loses its own saving and that of every trap inside it, whether its end was seen or not."""
    latency = savings_of(tmp_path, NEST).latency
    assert tuple(latency.columns) == LATENCY
    timer = row(latency, policy="rfc2014", vector=TIMER)
    assert (timer["traps"], timer["RET"], timer["nested_RET"], timer["saved_mean_cycles"]) == (1, 0, 3, 600)
    assert timer["before_max"] == pytest.approx(10_000, rel=0.01)
    assert timer["after_max"] == pytest.approx(10_000 - 600, rel=0.01)
    call = row(latency, policy="rfc2014", vector=CALL)
    assert (call["traps"], call["RET"], call["nested_RET"], call["saved_mean_cycles"]) == (2, 2, 2, 400)
    assert call["before_p50"] == pytest.approx(1_000, rel=0.01)
    assert call["after_p50"] == pytest.approx(800, rel=0.01)
    assert call["after_max"] == pytest.approx(2_000 - 600, rel=0.01)
    reschedule = row(latency, policy="rfc2014", vector=RESCHEDULE)
    assert (reschedule["after_max"], reschedule["floored"]) == (0, 1)
    assert PF not in set(latency["vector"])
    today = latency[latency["policy"] == "iret"]
    assert today["before_max"].tolist() == today["after_max"].tolist()


def test_totals(tmp_path: Path) -> None:
    """Four RETs of five returns, in 2 seconds of three CPUs; the interval is the cost's, as four are too few."""
    total = savings_of(tmp_path, NEST).total
    assert tuple(total.columns) == TOTAL
    mail = row(total, policy="rfc2014")
    assert (mail["returns"], mail["RET"], mail["saving_cycles"], mail["saved_cycles"]) == (5, 4, SAVING, 4 * SAVING)
    assert (mail["cost_low_cycles"], mail["cost_high_cycles"]) == (4 * LOW, 4 * HIGH)
    assert mail["saved_per_s"] == 2 * SAVING
    assert mail["share_pct"] == pytest.approx(100 * 800 / 6_000_000)
    assert np.isnan(mail["low_cycles"])
    assert mail["reason"] == f"4 RETs are too few for an interval over time (at least {MIN_RETS})"


def test_a_policy_that_never_uses_ret_saves_nothing_for_certain(tmp_path: Path) -> None:
    """Zero, from zero to zero."""
    today = row(savings_of(tmp_path, NEST).total, policy="iret")
    assert (today["saved_cycles"], today["low_cycles"], today["high_cycles"], today["reason"]) == (0, 0, 0, "")


def test_by_cpu(tmp_path: Path) -> None:
    """Online CPUs without a trap are there too; a share is of that CPU's time."""
    frame = savings_of(tmp_path, NEST).by_cpu
    assert tuple(frame.columns) == BY_CPU
    mail = frame[frame["policy"] == "rfc2014"]
    assert mail["cpu"].tolist() == [0, 1, 5]
    assert mail["returns"].tolist() == [4, 1, 0]
    assert mail["RET"].tolist() == [3, 1, 0]
    assert mail["saved_cycles"].tolist() == [600, 200, 0]
    assert mail["share_pct"].tolist() == pytest.approx([0.03, 0.01, 0])


def test_by_pid(tmp_path: Path) -> None:
    """By the process that was interrupted, the one that saves most first; impossible pids are one."""
    impossible = [
        event(50_000 + i, phase, CALL, **KERNEL, pid=2**32 - 1 - i // 10)
        for i, phase in ((0, "entry"), (1, "exit"), (10, "entry"), (11, "exit"))
    ]
    frame = savings_of(tmp_path, [*NEST, *impossible]).by_pid
    assert tuple(frame.columns) == BY_PID
    mail = frame[frame["policy"] == "rfc2014"]
    assert mail["pid"].tolist() == [7, MAX_PIDS, 1]
    assert mail["RET"].tolist() == [3, 2, 1]
    assert mail["returns"].tolist() == [3, 2, 2]
    assert mail["saved_cycles"].tolist() == [600, 400, 200]
    assert mail["cost_high_cycles"].tolist() == [660, 440, 220]
    assert mail["share_pct"].tolist() == pytest.approx([0.03, 0.02, 0.01])


def test_by_comm(tmp_path: Path) -> None:
    """By what the process was called when it was interrupted; unnamed processes are one command without a name."""
    idle = [event(40_000, "entry", CALL, **KERNEL, pid=0), event(40_100, "exit", CALL, **KERNEL, pid=0)]
    called = [Process(pid=7, comm="sh"), Process(pid=7, comm="gcc", since_tsc=2_600), Process(pid=8, comm="gcc")]
    found = savings_of(tmp_path, [*NEST, *idle], processes=called)
    assert tuple(found.by_comm.columns) == BY_COMM
    mail = found.by_comm[found.by_comm["policy"] == "rfc2014"]
    rows = mail[["comm", "pids", "returns", "RET", "saved_cycles"]].to_numpy().tolist()
    assert rows == [
        ["sh", 1, 2, 2, 400],  # the page fault struck after the reschedule's exit, when it was gcc already
        ["", 1, 2, 1, 200],
        ["gcc", 1, 1, 1, 200],
        ["swapper", 1, 1, 1, 200],
    ]
    assert mail["share_pct"].tolist() == pytest.approx([0.02, 0.01, 0.01, 0.01])
    pids = found.by_pid[found.by_pid["policy"] == "rfc2014"]
    assert dict(zip(pids["pid"], pids["comm"], strict=True)) == {7: "sh → gcc", 1: "", 0: "swapper"}


@pytest.mark.parametrize(
    ("policy", "fields", "reason"),
    [
        ("rfc2014", {"calibration": None, "mitigations": {}}, "saving by RET unknown: the trace has no calibration"),
        ("fred", {}, "what ERETS and ERETU cost is unknown"),
    ],
)
def test_unknown_stays_unknown(tmp_path: Path, policy: str, fields: dict[str, Any], reason: str) -> None:
    """Counts are there, savings are NaN in every frame, and the reason is told."""
    found = savings_of(tmp_path, NEST, **fields)
    total = row(found.total, policy=policy)
    assert total["reason"].startswith(reason)
    assert total["returns"] == 5
    for frame in (found.total, found.by_cpu, found.by_pid, found.latency):
        mine = frame[frame["policy"] == policy]
        unknown = [name for name in frame.columns if name.startswith(("sav", "share", "cost", "low", "high", "after"))]
        assert mine[unknown].isna().all(axis=None)
        assert mine.drop(columns=unknown).filter(regex="^(policy|RET|returns|traps|before_max)$").notna().all(axis=None)


def test_as_json(tmp_path: Path) -> None:
    """Plain numbers and texts that any JSON encoder takes, null where nothing is known, one policy's rows."""
    found = savings_of(tmp_path, NEST)
    made = json.loads(json.dumps(saved.document(found, "rfc2014", max_comms=0), allow_nan=False))
    assert made["total"]["saved_cycles"] == 4 * SAVING
    assert made["total"]["low_cycles"] is None
    assert [one["cpu"] for one in made["by_cpu"]] == [0, 1, 5]
    assert [one["pid"] for one in made["by_pid"]] == [7, 1]
    assert made["by_comm"] == []
    assert {one["name"] for one in made["latency"]} == {"timer", "call-function-single", "reschedule"}
    unknown = json.loads(json.dumps(saved.document(found, "fred"), allow_nan=False))
    assert unknown["total"]["saved_cycles"] is None


def test_without_a_clock_there_is_no_second(tmp_path: Path) -> None:
    """Cycles are known, cycles a second are not; without a window the time is that from first to last return."""
    found = savings_of(tmp_path, NEST, clock=Clock(), window=Window())
    mail = row(found.total, policy="rfc2014")
    assert mail["saved_cycles"] == 800
    assert np.isnan(mail["saved_per_s"])
    assert "in seconds is not known" in mail["reason"]
    assert mail["share_pct"] == pytest.approx(100 * 800 / 3 / (31_000 - 2_600))


def test_a_negative_saving_is_shown_as_it_is(tmp_path: Path) -> None:
    """Where RET is the dearer, latencies grow and the ends keep their order."""
    costs = [
        Cost(path="iretq", median_cycles=100, low_cycles=90, high_cycles=110),
        Cost(path="popfq-ret", median_cycles=150, low_cycles=140, high_cycles=160),
    ]
    found = savings_of(tmp_path, busy(), calibration=Calibration(costs=costs))
    mail = row(found.total, policy="rfc2014")
    assert mail["low_cycles"] < mail["cost_low_cycles"] < mail["saved_cycles"] == -50 * mail["RET"]
    assert mail["saved_cycles"] < mail["cost_high_cycles"] < mail["high_cycles"] < 0
    call = row(found.latency, policy="rfc2014", vector=CALL)
    assert call["after_p50"] == pytest.approx(call["before_p50"] + 50, rel=0.01)


def busy(seed: int = 1) -> list[dict[str, Any]]:
    """Two seconds of calls on two CPUs, at random."""
    rng = np.random.default_rng(seed)
    events = []
    for cpu in (0, 1):
        for tsc in np.unique(rng.integers(0, 1_990, 400)) * 1_000:
            events.append(event(int(tsc), "entry", CALL, cpu=cpu, **KERNEL))
            events.append(event(int(tsc) + 600, "exit", CALL, cpu=cpu, **KERNEL))
    return events


def test_intervals(tmp_path: Path) -> None:
    """Independent arrivals give the textbook's interval of their number; costs widen it; each CPU has its own."""
    found = savings_of(tmp_path, busy())
    mail = row(found.total, policy="rfc2014")
    n = mail["RET"]
    assert mail["reason"] == ""
    assert mail["low_cycles"] < mail["cost_low_cycles"] < mail["cost_high_cycles"] < mail["high_cycles"]
    assert n - mail["low_cycles"] / LOW == pytest.approx(1.96 * np.sqrt(n), rel=0.35)
    assert mail["high_cycles"] / HIGH - n == pytest.approx(1.96 * np.sqrt(n), rel=0.35)
    assert mail["share_low_pct"] == pytest.approx(100 * mail["low_cycles"] / 6_000_000)
    cpus = found.by_cpu[found.by_cpu["policy"] == "rfc2014"]
    assert (cpus["low_cycles"] < cpus["saved_cycles"]).tolist() == [True, True, False]
    assert cpus["low_cycles"].isna().tolist() == [False, False, True]


def test_the_seed_decides(tmp_path: Path) -> None:
    """The same seed gives the same frames, another one others."""
    trace = open_trace(write_trace(tmp_path / "t.parquet", busy(), FOOTER))
    first, again, other = (saved.saved(trace, [RFC2014], seed=seed).total for seed in (3, 3, 4))
    pd.testing.assert_frame_equal(first, again)
    assert first["low_cycles"].tolist() != other["low_cycles"].tolist()


@pytest.mark.slow
def test_frames_do_not_depend_on_how_a_trace_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trap that straddles parts keeps what is nested in it."""
    trace = open_trace(write_sample(tmp_path / "sample.parquet"))
    whole = saved.saved(trace, [IRET, RFC2014])
    monkeypatch.setattr(run, "ROW_GROUP_EVENTS", 7)
    parts = saved.saved(trace, [IRET, RFC2014])
    assert whole.latency["nested_RET"].sum() > 30
    for name in ("total", "by_cpu", "by_pid", "latency"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(parts, name))


def test_more_cpus_than_are_counted_over_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share a place and have no interval of their own; the total's is the same."""
    trace = open_trace(write_trace(tmp_path / "t.parquet", busy(), FOOTER))
    known = saved.saved(trace, [RFC2014])
    monkeypatch.setattr("iretrace.analysis.projection.MAX_CPUS", 1)
    fewer = saved.saved(trace, [RFC2014])
    pd.testing.assert_frame_equal(known.total, fewer.total)
    assert fewer.by_cpu["RET"].tolist() == known.by_cpu["RET"].tolist()
    assert fewer.by_cpu["high_cycles"].isna().tolist() == [False, True, True]


def counted(rows: Sequence[Rows], saving: float) -> Projection:
    """The vectorised counts of an engine's rows, under a policy made of the slot alone."""
    table = enumerate_policy(replace(RFC2014, counter=IRET.counter), frozenset())
    counts = Projection(1, saving_cycles=saving)
    for part in rows:
        decisions = Decisions(table=table, nest=part.nest[:, 0], context=part.returns["context"])
        counts.add(Returns(rows=part.returns, decisions=(decisions,)))
    return counts


def histograms(rows: Sequence[Rows], saving: float) -> tuple[dict[Any, int], dict[Any, int]]:
    """The same in plain Python: walk back over what lies above each trap on its CPU, one return after the other."""
    table = enumerate_policy(replace(RFC2014, counter=IRET.counter), frozenset())
    before: dict[Any, int] = {}
    after: dict[Any, int] = {}
    earlier: dict[int, list[tuple[int, bool]]] = {}
    for one in (one for part in rows for one in part.returns):
        ret = bool(table.choice[one["context"]] == 0)
        seen = earlier.setdefault(int(one["cpu"]), [])
        inside = 0
        for depth, inner in reversed(seen):
            if depth <= one["depth"]:
                break
            inside += inner
        seen.append((int(one["depth"]), ret))
        if one["end"] != 0:
            continue
        measured = int(one["exit_tsc"]) - int(one["entry_tsc"])
        projected = max(measured - round(saving * (inside + ret)), 0)
        for held, cycles in ((before, measured), (after, projected)):
            key = (int(one["slot"]), int(histogram.bucket_of(np.array([cycles], np.uint64))[0]))
            held[key] = held.get(key, 0) + 1
    return before, after


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=st.one_of(strategies.nested_events(), strategies.truncated_events(), strategies.loose_events()),
    pairing=strategies.pairings,
    cuts=st.sets(st.integers(1, 60), max_size=4),
    saving=st.sampled_from((0.0, 3.25, 40.0, -7.75)),
)
@pytest.mark.slow
def test_projected_latencies_agree_with_a_plain_count(
    events: list[dict[str, Any]], pairing: Pairing, cuts: set[int], saving: float
) -> None:
    """Whatever the events and wherever batches end: both distributions, trap by trap."""
    engine = Engine(pairing, [IRET.counter])
    fed = [*(engine.feed(batch, rows=True) for batch in batches(events, cuts)), engine.finish(rows=True)]
    rows = [part for part in fed if part is not None]
    counts = counted(rows, saving)
    before, after = histograms(rows, saving)
    for found, expected in ((counts.before, before), (counts.after[0], after)):
        slots, buckets = found.nonzero()
        assert {(int(s), int(b)): int(found[s, b]) for s, b in zip(slots, buckets, strict=True)} == expected
    assert counts.before.shape == (N_SLOTS, histogram.N_BUCKETS)


def test_projection_keeps_large_values() -> None:
    """Durations beyond what a double holds lose exactly what is saved."""
    measured = np.array([2**63 + 1, 10, 0, 2**64 - 1], np.uint64)
    left, floored = project(measured, np.array([1, 3, 0, 0]), 4.0)
    assert left.tolist() == [2**63 - 3, 0, 0, 2**64 - 1]
    assert floored.tolist() == [False, True, False, False]
