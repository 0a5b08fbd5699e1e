"""Frames of a small trace against values worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from iretrace.analysis import frames, histogram, savings
from iretrace.analysis.accumulate import nested_rets
from iretrace.analysis.study import Study, study
from iretrace.analysis.totals import totals
from iretrace.footer import Calibration, Clock, Cost, Cpu, Footer, TrapClass, Window
from iretrace.replay.contexts import N_SLOTS
from iretrace.replay.policies import DEVICE, by_name
from iretrace.replay.run import returns
from iretrace.schema import FOOTER_KEY
from iretrace.trace import open_trace
from iretrace.vectors import NMI, PF
from tests.sample_trace import CALL, RESCHEDULE, TIMER, write_sample
from tests.traces import IF, KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

IRET_CYCLES, RET_CYCLES = 300.0, 100.0

FOOTER = Footer(
    kernel_cs=KERNEL_CS,
    cpu=Cpu(online=[0, 1]),
    clock=Clock(tsc_khz=1000.0),  # a cycle is a microsecond
    mitigations={"retbleed": "Not affected"},
    classes=[TrapClass(name="page-fault", vectors=[PF], entry="page_fault_kernel")],
    window=Window(start_tsc=0, stop_tsc=2_000_000),
    calibration=Calibration(
        costs=[
            Cost(path="iretq", median_cycles=IRET_CYCLES, low_cycles=290, high_cycles=310),
            Cost(path="popfq-ret", median_cycles=RET_CYCLES, low_cycles=90, high_cycles=120),
        ]
    ),
)

KERNEL = {"cs": KERNEL_CS, "ip": 0xFFFFFFFF81000000, "flags": IF, "sp": 0xFFFFC90000000000, "to_kernel": True}
USER = {"cs": USER_CS, "ip": 0x401000, "flags": IF, "sp": 0x7FFFFFFFE000, "to_kernel": False}

EVENTS: list[dict[str, Any]] = [
    event(1_000, "entry", TIMER, **KERNEL),  # 10 000 cycles, of which CALL takes 2 000
    event(2_000, "entry", CALL, **KERNEL),
    event(2_500, "entry", PF, **KERNEL),  # ends where it begins
    event(4_000, "exit", CALL, **KERNEL),
    event(11_000, "exit", TIMER, **KERNEL),
    event(20_000, "entry", TIMER, cpu=1, **USER),
    event(24_000, "exit", TIMER, cpu=1, **USER),
    event(30_000, "entry", None, irq=9, **KERNEL),
    event(30_064, "exit", None, irq=9, **KERNEL),
    event(1_900_000, "entry", PF, cpu=1, **USER),
]


def _cell(frame: pd.DataFrame, row: Any, column: str) -> Any:
    return frame.loc[row, column]


@pytest.fixture
def studied(tmp_path: Path) -> Study:
    """The small trace under the mail's policy."""
    return study(open_trace(write_trace(tmp_path / "small.parquet", EVENTS, FOOTER)), by_name("rfc2014"))


def test_by_vector(studied: Study) -> None:
    """Most frequent first, then by number; decisions and targets add up."""
    frame = studied.by_vector
    assert frame["vector"].tolist() == [PF, TIMER, CALL, DEVICE]
    assert frame["name"].tolist() == ["#PF", "timer", "call-function-single", "device"]
    assert frame["returns"].tolist() == [2, 2, 1, 1]
    assert frame["RET"].tolist() == [1, 1, 1, 1]
    assert frame["IRET"].tolist() == [1, 1, 0, 0]
    assert frame["kernel"].tolist() == [1, 1, 1, 1]
    assert frame["user"].tolist() == [1, 1, 0, 0]
    assert frame[["ERETS", "ERETU", "unknown"]].to_numpy().sum() == 0


def test_by_rule(studied: Study) -> None:
    """Every rule in its order, with zeros where it decided nothing."""
    frame = frames.by_rule(studied.result.policies[0]).set_index("rule")
    assert list(frame.index) == ["target-cs", "nmi", "nm", "df-ss", "db-bp", "mc", "non-ist"]
    assert frame["returns"].tolist() == [2, 0, 0, 0, 0, 0, 4]
    assert _cell(frame, "non-ist", "RET") == 4
    assert _cell(frame, "target-cs", "IRET") == 2


def test_durations(studied: Study) -> None:
    """Quantiles within their error; none where fewer than one trap would lie beyond."""
    frame = frames.durations(studied.counts.latency).set_index("name")
    assert frame["traps"].to_dict() == {"timer": 2, "call-function-single": 1, "device": 1}
    assert _cell(frame, "timer", "p50") == pytest.approx(4_000, rel=0.01)
    assert _cell(frame, "timer", "max") == pytest.approx(10_000, rel=0.01)
    assert _cell(frame, "device", "max") == 64
    assert frame[["p90", "p99", "p99.9"]].isna().all(axis=None)
    own = frames.durations(studied.counts.self_time).set_index("name")
    assert _cell(own, "timer", "max") == pytest.approx(8_000, rel=0.01)


def test_the_rare_quantile_needs_its_traps() -> None:
    """A p99.9 is given from a thousand traps on."""
    table = np.zeros((N_SLOTS, histogram.N_BUCKETS), dtype=np.int64)
    table[TIMER, 7], table[CALL, 7] = 1000, 999
    frame = frames.durations(table).set_index("vector")
    assert _cell(frame, TIMER, "p99.9") == 7
    assert np.isnan(_cell(frame, CALL, "p99.9"))
    assert _cell(frame, CALL, "p99") == 7


def test_distribution(studied: Study) -> None:
    """Shares rise to 100 % by vector, and a share at an edge is exact."""
    frame = frames.distribution(studied.counts.latency)
    timer = frame[frame["name"] == "timer"]
    assert timer["share_pct"].tolist() == [50.0, 100.0]
    assert (timer["cycles"] >= [4_000, 10_000]).all()
    assert (timer["cycles"] <= [4_000 * 1.14, 10_000 * 1.14]).all()


def test_depths(studied: Study) -> None:
    """The page fault lay on two traps, the IPI on one."""
    frame = frames.depths(studied.counts)
    assert frame["depth"].tolist() == [0, 1, 2]
    assert frame["returns"].tolist() == [4, 1, 1]
    assert frame["vectors"].tolist() == ["timer 2, #PF 1, device 1", "call-function-single 1", "#PF 1"]


def test_rates(studied: Study) -> None:
    """Traps divided by the bin's width; together they are all traps, over the whole window."""
    frame = frames.rates(studied.counts, 1000.0)
    assert frame["traps"].sum() == 6
    assert (frame["per_s"] * frame["width_s"]).sum() == pytest.approx(6)
    one = frame[frame["vector"] == PF]
    assert (one["start_s"] + one["width_s"]).max() == pytest.approx(2.0, rel=1e-5)
    assert one.loc[one["traps"] > 0, "start_s"].max() == pytest.approx(1.9, abs=0.02)
    assert frames.rates(studied.counts, None).empty


def test_savings(studied: Study) -> None:
    """200 cycles a RET, two seconds; the interval is 170 to 220."""
    frame = savings.by_vector(studied.by_vector, studied.saving, studied.duration_s)
    assert frame["RET"].tolist() == [1, 1, 1, 1]
    assert frame["saved_cycles"].tolist() == [200.0] * 4
    assert frame["saved_per_s"].tolist() == [100.0] * 4
    assert frame["low_per_s"].tolist() == [85.0] * 4
    assert frame["high_per_s"].tolist() == [110.0] * 4
    assert savings.by_vector(studied.by_vector, None, 2.0).empty
    assert savings.by_vector(studied.by_vector, studied.saving, None).empty


def test_medians_take_off_what_nested_traps_save(studied: Study) -> None:
    """The timer loses its own 200 cycles and 200 each for the IPI and the page fault in it."""
    frame = savings.medians(studied.counts).set_index("name")
    assert _cell(frame, "device", "now_cycles") - _cell(frame, "device", "projected_cycles") == 64  # not below zero
    assert _cell(frame, "call-function-single", "projected_cycles") == pytest.approx(2_000 - 400, rel=0.01)
    assert _cell(frame, "timer", "now_cycles") == pytest.approx(10_000, rel=0.01)
    assert _cell(frame, "timer", "projected_cycles") == pytest.approx(10_000 - 600, rel=0.01)
    assert _cell(frame, "timer", "traps") == 1


def test_totals(studied: Study) -> None:
    """The numbers of the headline."""
    sums = totals(studied)
    assert (sums.returns, sums.to_kernel, sums.ret, sums.n_cpus, sums.duration_s) == (6, 4, 4, 2, 2.0)
    assert sums.saved_cycles is not None
    assert sums.saved_cycles.value == 800
    assert sums.saved_cycles_per_s is not None
    assert sums.saved_cycles_per_s.low == 340
    assert sums.saved_ns_per_s is not None
    assert sums.saved_ns_per_s.value == 400_000
    assert sums.saved_pct is not None
    assert sums.saved_pct.value == pytest.approx(0.02)  # 400 µs of 2 CPU seconds


def test_nested_rets_agree_with_a_plain_count(tmp_path: Path) -> None:
    """Against two loops over all pairs, on the made-up sample with timers and NMIs that nest."""
    trace = open_trace(write_sample(tmp_path / "sample.parquet"))
    (batch,) = (b for b in returns(trace, [by_name("rfc2014")]) if b.rows.size)
    ret = batch.decisions[0].choice == 0
    rows, ends = batch.rows, batch.tsc
    expected = np.zeros(rows.size, dtype=np.int64)
    for outer in np.flatnonzero(rows["end"] == 0):
        inside = (rows["cpu"] == rows["cpu"][outer]) & (ends > rows["entry_tsc"][outer])
        inside &= (ends < rows["exit_tsc"][outer]) & ret
        expected[outer] = inside.sum()
    assert expected.sum() > 30
    assert nested_rets(batch, ret).tolist() == expected.tolist()


def test_hazards_have_examples(tmp_path: Path) -> None:
    """Interrupts on in an NMI are found, counted and placed in time; what was not found is listed too."""
    events = [
        event(100, "entry", NMI, **KERNEL),
        event(150, "entry", RESCHEDULE, **KERNEL),
        event(160, "exit", RESCHEDULE, **KERNEL),
        event(200, "exit", NMI, **KERNEL),
    ]
    found = study(open_trace(write_trace(tmp_path / "nmi.parquet", events, FOOTER)), by_name("rfc2014"))
    frame = found.hazards.set_index("name")
    assert _cell(frame, "if-in-nmi", "returns") == 1
    assert str(_cell(frame, "if-in-nmi", "examples")).startswith("TSC 160 on CPU 0: reschedule")
    assert _cell(frame, "nmi-nested", "returns") == 0
    assert _cell(frame, "nmi-nested", "examples") == ""


def test_without_clock_and_cost_nothing_is_made_up(tmp_path: Path) -> None:
    """An imported trace that knows little: counts, and no time, no saving."""
    found = study(open_trace(write_trace(tmp_path / "bare.parquet", EVENTS)), by_name("rfc2014"))
    sums = totals(found)
    assert sums.returns == 6
    assert sums.duration_s is None
    assert sums.n_cpus == 2  # seen
    assert sums.saved_cycles is None
    assert sums.saved_pct is None
    assert savings.medians(found.counts).empty


def test_a_split_trace_counts_the_same(tmp_path: Path) -> None:
    """Counts do not depend on where row groups end (projections may: nested traps of an earlier batch)."""
    trace = open_trace(write_sample(tmp_path / "sample.parquet"))
    whole = study(trace, by_name("rfc2014")).counts
    parts = study(open_trace(_split(tmp_path)), by_name("rfc2014")).counts
    for name in ("latency", "self_time", "ret_latency", "depths", "cpus"):
        assert (getattr(whole, name) == getattr(parts, name)).all(), name
    assert whole.bins is not None
    assert parts.bins is not None
    assert (whole.bins.counts == parts.bins.counts).all()


def _split(directory: Path) -> Path:
    table = pq.read_table(directory / "sample.parquet")
    raw = pq.read_metadata(directory / "sample.parquet").metadata[FOOTER_KEY]
    with pq.ParquetWriter(directory / "split.parquet", table.schema) as writer:
        writer.write_table(table, row_group_size=100)
        writer.add_key_value_metadata({FOOTER_KEY.decode(): raw.decode()})
    return directory / "split.parquet"
