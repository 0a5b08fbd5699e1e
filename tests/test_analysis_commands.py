"""RETs by command, against the savings that count every return."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from iretrace.analysis.commands import COLUMNS, RetsByCommand
from iretrace.analysis.saved import saved
from iretrace.analysis.study import study
from iretrace.dashboards.report import report
from iretrace.footer import Process
from iretrace.replay.policies import RFC2014
from iretrace.trace import open_trace
from tests.test_savings import FOOTER, KERNEL, NEST
from tests.traces import event, write_trace

if TYPE_CHECKING:
    from pathlib import Path

NAMED = [Process(pid=7, comm="sh"), Process(pid=7, comm="gcc", since_tsc=2_600)]


def test_commands_of_a_study_are_those_of_the_savings(tmp_path: Path) -> None:
    """The report's shorter way counts the same RETs for each command."""
    footer = type(FOOTER)(**{name: getattr(FOOTER, name) for name in FOOTER.__struct_fields__} | {"processes": NAMED})
    trace = open_trace(write_trace(tmp_path / "t", NEST, footer))
    counted = study(trace, RFC2014).commands
    assert counted is not None
    frame = counted.frame(study(trace, RFC2014).saving)
    assert tuple(frame.columns) == COLUMNS
    whole = saved(trace, [RFC2014]).by_comm
    expected = whole[whole["RET"] > 0].set_index("comm")[["RET", "saved_cycles"]]
    pd.testing.assert_frame_equal(frame.set_index("comm")[["RET", "saved_cycles"]].sort_index(), expected.sort_index())
    assert frame["RET"].tolist() == [2, 1, 1]


def test_a_trace_without_names_has_no_commands(tmp_path: Path) -> None:
    """Nothing is counted where there is nothing to say."""
    trace = open_trace(write_trace(tmp_path / "t", NEST, FOOTER))
    assert study(trace, RFC2014).commands is None


def test_no_cost_no_saving() -> None:
    """Unknown stays unknown."""
    counted = RetsByCommand(NAMED)
    counted.ret[1] = 3
    assert counted.frame(None)["saved_cycles"].isna().all()
    assert counted.frame(None)["comm"].tolist() == ["swapper"]


def test_the_report_names_commands_as_text(tmp_path: Path) -> None:
    """A process may call itself markup; idle has a plain word."""
    named = [Process(pid=7, comm="<img src=x>")]
    footer = type(FOOTER)(**{name: getattr(FOOTER, name) for name in FOOTER.__struct_fields__} | {"processes": named})
    idle = [event(40_000, "entry", 0xFB, **KERNEL, pid=0), event(40_100, "exit", 0xFB, **KERNEL, pid=0)]
    page = report(study(open_trace(write_trace(tmp_path / "t", [*NEST, *idle], footer)), RFC2014))
    section = page[page.index("Projected saving by command") :]
    section = section[: section.index("</table>")]
    assert "&lt;img src=x&gt;" in section
    assert "<img" not in section
    assert "<td>idle</td>" in section
    assert "<td>not known</td>" in section
