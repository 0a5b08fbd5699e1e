"""iretrace from Python: frames of small traces against values by hand, and names that are light until they are used."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any, assert_type

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import iretrace
from iretrace.errors import InputError, UsageError
from iretrace.footer import Process
from iretrace.replay import policies, run
from iretrace.schema import EVENT_COLUMNS
from iretrace.traps import DECISION_COLUMNS, TRAP_COLUMNS
from tests.conftest import ROOT
from tests.sample_trace import footer, write_sample
from tests.traces import IF, KERNEL_CS, USER_CS, event, write_trace

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from iretrace.schema import Column

PF, NMI, TIMER, CALL = 14, 2, 0xEC, 0xFB
KERNEL = {"cs": KERNEL_CS, "ip": 0xFFFFFFFF81000000, "flags": IF, "sp": 0xFFFFC90000000000, "to_kernel": True}
USER = {"cs": USER_CS, "ip": 0x401000, "flags": IF, "sp": 0x7FFFFFFFE000, "to_kernel": False}

EVENTS: list[dict[str, Any]] = [
    event(50, "exit", CALL, **KERNEL),  # its entry was before the trace
    event(100, "entry", TIMER, **USER),
    event(200, "entry", CALL, **KERNEL, pid=7),
    event(250, "entry", PF, **KERNEL),  # ends where it begins
    event(300, "exit", CALL, **KERNEL),
    event(300, "entry", None, irq=9, cpu=1, **KERNEL),
    event(400, "exit", TIMER, **USER),
    event(500, "exit", None, irq=9, cpu=1, **KERNEL),
    event(600, "entry", NMI, cpu=1),  # of unknown target; the trace ends inside it
]


@pytest.fixture
def trace(tmp_path: Path) -> iretrace.Trace:
    """The small trace."""
    return iretrace.open(write_trace(tmp_path / "small.parquet", EVENTS, footer(losses=[])))


def dtype_of(column: Column) -> object:
    """What a frame of Arrow columns has for one."""
    return "category" if pa.types.is_dictionary(column.type) else pd.ArrowDtype(column.type)


def check_columns(frame: pd.DataFrame, columns: Sequence[Column]) -> None:
    """The frame has these columns, so typed."""
    assert list(frame.columns) == [column.name for column in columns]
    for column in columns:
        assert frame[column.name].dtype == dtype_of(column), column.name


def listed(series: pd.Series[Any]) -> list[object]:
    """Values, ``None`` where there is none."""
    return [None if pd.isna(value) else value for value in series]


@pytest.mark.slow
def test_importing_is_light() -> None:
    """Nothing but the interpreter's own is imported until a name is used."""
    program = (
        "import sys, iretrace\n"
        "bad = {'numpy', 'pyarrow', 'pandas', 'msgspec', 'click', 'iretrace.replay'} & set(sys.modules)\n"
        "assert not bad, bad\n"
        "assert {'open', 'replay', 'Trace', 'Replay'} <= set(dir(iretrace))\n"
        "iretrace.open\n"
        "assert 'pandas' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "first",
    [
        "import iretrace",
        "import iretrace.replay.costs",
        "import iretrace.api",
        "from iretrace import replay",
        "from iretrace.replay import run",
        "import iretrace.analysis.study",
    ],
)
@pytest.mark.slow
def test_replay_is_a_function_and_a_package(first: str, tmp_path: Path) -> None:
    """Whatever is imported first, ``iretrace.replay`` can be called and has modules."""
    path = write_trace(tmp_path / "small.parquet", EVENTS)
    program = (
        f"{first}\nimport iretrace\n"
        f"found = iretrace.replay(iretrace.open({str(path)!r}), policies=['rfc2014'])\n"
        "assert isinstance(found, iretrace.Replay)\n"
        "import iretrace.replay.costs\n"
        "assert iretrace.replay.costs.saving_per_return\n"
        "assert iretrace.replay(found.trace).summary['policy'].tolist() == ['iret', 'rfc2014']\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, cwd=ROOT)


def test_unknown_names_are_refused() -> None:
    """As any module refuses them."""
    with pytest.raises(AttributeError, match="no attribute 'collekt'"):
        _ = getattr(iretrace, "collekt")  # noqa: B009 - a type checker would refuse it


def test_types_are_seen_by_checkers(trace: iretrace.Trace) -> None:
    """A strict mypy checks these statements."""
    assert_type(iretrace.open(trace.path), iretrace.Trace)
    result = iretrace.replay(trace, policies=["rfc2014", policies.IRET])
    assert_type(result, iretrace.Replay)
    assert_type(result.summary, pd.DataFrame)
    assert_type(result.returns(), pd.DataFrame)


def test_events(trace: iretrace.Trace) -> None:
    """The file as it is: every column typed as declared, nulls kept."""
    frame = trace.events()
    check_columns(frame, EVENT_COLUMNS)
    assert frame["tsc"].tolist() == [row["tsc"] for row in EVENTS]
    assert listed(frame["vector"]) == [row["vector"] for row in EVENTS]
    assert frame["phase"].tolist() == [row["phase"] for row in EVENTS]
    assert trace.events(["vector", "tsc"]).columns.tolist() == ["vector", "tsc"]


@pytest.mark.parametrize("columns", [["tsc", "irqs"], []])
def test_events_of_columns_that_are_not_there(trace: iretrace.Trace, columns: list[str]) -> None:
    """Refused in one line that names those there are."""
    with pytest.raises(UsageError, match="error_code"):
        trace.events(columns)


def test_traps(trace: iretrace.Trace) -> None:
    """One row a trap in the order of beginnings, with what was seen and no more."""
    frame = trace.traps()
    check_columns(frame, TRAP_COLUMNS)
    expected: dict[str, list[object]] = {
        "entry_tsc": [None, 100, 200, 250, 300, 600],
        "exit_tsc": [50, 400, 300, None, 500, None],
        "duration_cycles": [None, 300, 100, None, 200, None],
        "self_cycles": [None, 200, None, None, 200, None],
        "cpu": [0, 0, 0, 0, 1, 1],
        "vector": [CALL, TIMER, CALL, PF, None, NMI],
        "name": ["call-function-single", "timer", "call-function-single", "#PF", "device", "NMI"],
        "irq": [None, None, None, None, 9, None],
        "depth": [0, 0, 1, 2, 0, 0],
        "to_kernel": [True, False, True, True, True, None],
        "pid": [1, 1, 7, 1, 1, 1],
        "end": ["orphan", "exit", "exit", "no_hook", "exit", "open"],
    }
    assert {name: listed(frame[name]) for name in expected} == expected


def test_traps_that_begin_together(tmp_path: Path) -> None:
    """Of two with the same TSC the outer comes first."""
    events = [event(1, "entry", TIMER), event(1, "entry", CALL), event(2, "exit", CALL), event(2, "exit", TIMER)]
    frame = iretrace.open(write_trace(tmp_path / "t.parquet", events)).traps()
    assert frame["depth"].tolist() == [0, 1]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """The library's errors, as everywhere."""
    with pytest.raises(InputError, match="no such file"):
        iretrace.open(tmp_path / "none.parquet")


def test_processes(tmp_path: Path) -> None:
    """Names by pid and time, typed as the other frames; a trace without names has none."""
    named = footer(processes=[Process(pid=7, comm="sh"), Process(pid=7, comm="gcc", since_tsc=2**64 - 1)])
    frame = iretrace.open(write_trace(tmp_path / "named.parquet", EVENTS, named)).processes()
    assert frame["pid"].tolist() == [7, 7]
    assert frame["comm"].tolist() == ["sh", "gcc"]
    assert listed(frame["since_tsc"]) == [None, 2**64 - 1]
    bare = iretrace.open(write_trace(tmp_path / "bare.parquet", EVENTS, footer(losses=[]))).processes()
    assert len(bare) == 0
    assert bare.dtypes.to_dict() == frame.dtypes.to_dict()


def test_summary(trace: iretrace.Trace) -> None:
    """Counts and the projected saving by policy: 250 cycles a RET in this footer."""
    frame = iretrace.replay(trace, policies=["iret", "rfc2014", "fred"]).summary.set_index("policy")
    assert frame["returns"].tolist() == [6, 6, 6]
    assert frame["to_kernel"].tolist() == [4, 4, 4]
    assert frame[["RET", "IRET", "ERETS", "ERETU"]].to_numpy().tolist() == [[0, 6, 0, 0], [4, 2, 0, 0], [0, 0, 4, 2]]
    saved = frame[["saved_cycles", "low_cycles", "high_cycles"]].to_numpy()
    assert saved[:2].tolist() == [[0, 0, 0], [1000, 4 * 242, 4 * 260]]
    assert np.isnan(saved[2]).all()


def test_frames_by_policy(trace: iretrace.Trace) -> None:
    """By vector, rule and hazard, every policy in the order given; sums agree with the summary."""
    result = iretrace.replay(trace, policies=["rfc2014", "iret"])
    for frame in (result.by_vector, result.by_rule):
        assert frame.columns[0] == "policy"
        assert frame.groupby("policy")[["returns", "RET"]].sum().to_dict("index") == {
            "iret": {"returns": 6, "RET": 0},
            "rfc2014": {"returns": 6, "RET": 4},
        }
    assert result.hazards["policy"].unique().tolist() == ["rfc2014", "iret"]
    assert result.summary["hazards"].tolist() == result.hazards.groupby("policy", sort=False)["returns"].sum().tolist()


def test_returns(trace: iretrace.Trace) -> None:
    """The traps, row by row, and each policy's decisions."""
    result = iretrace.replay(trace, policies=["rfc2014", "fred"])
    frame = result.returns()
    pd.testing.assert_frame_equal(frame[[column.name for column in TRAP_COLUMNS]], trace.traps())
    for policy in ("rfc2014", "fred"):
        for column in DECISION_COLUMNS:
            assert frame[f"{column.name}.{policy}"].dtype == dtype_of(column)
    assert frame["decision.rfc2014"].tolist() == ["RET", "IRET", "RET", "RET", "RET", "IRET"]
    assert frame["rule.rfc2014"].tolist()[:2] == ["non-ist", "target-cs"]
    assert listed(frame["saved_cycles.rfc2014"]) == [250, 0, 250, 250, 250, 0]
    assert listed(frame["saved_cycles.fred"]) == [None] * 6


def test_hazards_of_returns(tmp_path: Path) -> None:
    """Named where there are some, null where there are none."""
    at_fault = {**KERNEL, "flags": IF | 1 << 16}
    path = write_sample(tmp_path / "sample.parquet")
    events = [event(1, "entry", TIMER, **at_fault), event(2, "exit", TIMER, **at_fault), *EVENTS[1:]]
    frame = iretrace.replay(iretrace.open(write_trace(tmp_path / "t.parquet", events)), "rfc2014").returns()
    assert listed(frame["hazard.rfc2014"])[:2] == ["ret-rf", None]
    sample = iretrace.replay(iretrace.open(path), "rfc2014")
    counted = sample.returns()["hazard.rfc2014"].dropna().str.split(",").explode().value_counts().to_dict()
    hazards = sample.hazards.set_index("name")["returns"]
    assert counted == hazards[hazards > 0].to_dict()


def test_parts_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The streaming variants give every row once, of the same types."""
    monkeypatch.setattr(run, "ROW_GROUP_EVENTS", 200)
    trace = iretrace.open(write_sample(tmp_path / "sample.parquet"))
    result = iretrace.replay(trace, "rfc2014")
    for parts, whole in (
        (list(trace.trap_batches()), trace.traps()),
        (list(result.return_batches()), result.returns()),
    ):
        assert len(parts) > 5
        assert {tuple(map(str, part.dtypes)) for part in parts} == {tuple(map(str, whole.dtypes))}
        key = ["cpu", "entry_tsc", "exit_tsc"]
        joined, sorted_whole = (
            frame[[*key, "pid"]].sort_values(key, ignore_index=True) for frame in (pd.concat(parts), whole)
        )
        pd.testing.assert_frame_equal(joined, sorted_whole)


def test_policies_may_be_given_in_many_ways(trace: iretrace.Trace, tmp_path: Path) -> None:
    """A name, a policy, a file's function, one or several; two of a name would be one column."""
    own = tmp_path / "own.py"
    own.write_text("def never(context):\n    return 'IRET', 'never'\n")
    for given in ("iret", policies.IRET, f"{own}:never", ["iret"]):
        assert iretrace.replay(trace, given).summary["IRET"].tolist() == [6]
    frame = iretrace.replay(trace, [f"{own}:never", "iret"]).returns()
    assert frame[f"rule.{own}:never"].unique().tolist() == ["never"]
    with pytest.raises(UsageError, match="two are called iret"):
        iretrace.replay(trace, ["iret", "rfc2014", policies.IRET])
    with pytest.raises(UsageError, match="no such policy"):
        iretrace.replay(trace, ["rfc2015"])
    with pytest.raises(UsageError, match="no policy given"):
        iretrace.replay(trace, [])
