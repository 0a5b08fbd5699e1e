"""A comparison as a section: what changed is shown, what cannot be told is not shown off, the figure says the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import stores
from iretrace.analysis.compare import Difference, Verdict, compare
from iretrace.commands.report_ import command
from iretrace.dashboards.comparison import Comparison, differences, frame_of, section
from iretrace.dashboards.html import text
from iretrace.dashboards.numbers import THIN
from iretrace.dashboards.page import Figures
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace
from tests.conftest import ROOT
from tests.sample_trace import write_sample

if TYPE_CHECKING:
    from pathlib import Path

SAMPLE = ROOT / "samples" / "mixed.parquet"


def difference(measure: str, verdict: Verdict, change: float, half: float, *, vector: int = -1) -> Difference:
    """A difference with an interval of ``half`` percent either way; NaN: not known."""
    return Difference(
        vector=vector, measure=measure, base=100.0, new=100.0 + change, change_pct=change, low_pct=change - half,
        high_pct=change + half, p=0.001, verdict=verdict, reason="" if verdict != "cannot tell" else "too few",
    )  # fmt: skip


FOUND = [
    difference("rate", "same", 0.5, 1.0),
    difference("latency_p99", "worse", 40.0, 5.0, vector=14),
    difference("ret", "better", 12.0, 3.0),
    difference("latency_p50", "cannot tell", 30.0, 80.0, vector=14),
    difference("saved", "cannot tell", np.nan, np.nan),
]


def made(found: list[Difference], **fields: object) -> tuple[str, Figures]:
    """The section's HTML and its figures."""
    page = Figures()
    parts = {"against": [], "notes": [], "policy": "rfc2014", "min_effect_pct": 5.0, **fields}
    compared = Comparison(found=found, base=text("before"), new=text("after"), **parts)  # type: ignore[arg-type]
    return section(compared, page).body, page


def test_what_changed_comes_first_and_the_rest_is_folded() -> None:
    """The largest change first; neither "same" nor "cannot tell" stands outside of the fold's table and the figure."""
    html, page = made(FOUND)
    assert "1 worse, 1 better, 1 the same; of 2 it cannot be told." in html
    changed, _, folded = html.partition("<details><summary>3")
    assert changed.index("latency_p99") < changed.index(">ret<")
    assert "latency_p50" not in changed
    assert "too few" in folded
    figure = page.plots["plot-differences"]
    shown = [label for trace in figure.data for label in trace.y]
    assert sorted(shown) == ["#PF latency_p99", "all rate", "all ret"]


def test_nothing_changed_is_said_as_such() -> None:
    """No table of changes, and the figure's title says so."""
    html, _ = made([difference("rate", "same", 0.1, 0.5), difference("ret", "cannot tell", 3.0, 60.0)])
    assert "What changed" not in html
    assert "Nothing is known to have changed" in html


def test_obstacles_are_shown_and_nothing_is_compared() -> None:
    """Where sides must not be compared there is the reason, no figure and no verdict."""
    html, page = made([], against=["cpu_id differs: A against B"])
    assert "cpu_id differs" in html
    assert "not compared" in html
    assert not page.plots


def test_the_figure_has_intervals_and_the_band() -> None:
    """Error bars are the intervals; the axis names its unit; mark and colour tell verdicts apart."""
    figure = differences(frame_of(FOUND[:3]), min_effect_pct=5.0)
    by_name = {trace.name: trace for trace in figure.data}
    assert by_name["worse"].error_x.array[0] == pytest.approx(5.0)
    assert by_name["worse"].error_x.arrayminus[0] == pytest.approx(5.0)
    assert len({trace.marker.symbol for trace in figure.data}) == 3
    assert len({trace.marker.color for trace in figure.data}) == 3
    assert "(%)" in figure.layout.xaxis.title.text
    assert (figure.layout.shapes[0].x0, figure.layout.shapes[0].x1) == (-5.0, 5.0)


def test_what_lies_beyond_the_axis_is_told() -> None:
    """A change that the axis has no room for is at its end, with its number; its interval does not reach back."""
    figure = differences(frame_of([difference("rate", "worse", 400.0, 40.0)]), min_effect_pct=5.0)
    (trace,) = figure.data
    assert trace.x[0] == figure.layout.xaxis.range[1]
    assert (trace.error_x.array[0], trace.error_x.arrayminus[0]) == (0.0, 0.0)
    assert trace.text[0].replace(THIN, " ") == "+400.0 %"
    assert not any(one for each in differences(frame_of(FOUND[:3]), min_effect_pct=5.0).data for one in each.text)


def test_a_run_against_itself_raises_nothing() -> None:
    """The same recording on both sides: nothing worse, nothing better."""
    run = summarize(open_trace(SAMPLE))
    html, _ = made(compare([run], [run], policy="rfc2014"))
    assert "0 worse, 0 better" in html


@pytest.mark.slow
def test_report_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--compare`` takes a trace or runs of a store; what must not be compared is not, unless anyway."""
    monkeypatch.chdir(tmp_path)
    other = write_sample(tmp_path / "a,b.parquet")
    stores.fill(tmp_path / "store", 4)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(command, [*arguments, "--force", "--json", "-o", "r.html"], catch_exceptions=False)
        assert json.loads(done.output)["report"] == "r.html"
        return (tmp_path / "r.html").read_text(encoding="utf-8")

    assert "not compared" in run(str(other), "--compare", str(SAMPLE))
    assert "workload differs" in run(str(other), "--compare", str(SAMPLE), "--anyway")
    page = run(str(SAMPLE), "--compare", "workload=samples/workload.py", "--store", str(tmp_path / "store"))
    assert "(4 runs)" in page
    assert 'id="plot-differences"' in page
    assert "Compared" not in run(str(SAMPLE))
    assert len(page) < 6_000_000
