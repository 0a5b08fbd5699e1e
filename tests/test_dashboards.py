"""Numbers, HTML building and figures."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iretrace.analysis import frames, savings
from iretrace.analysis.study import Study, study
from iretrace.dashboards import figures, numbers, tables, theme, words
from iretrace.dashboards.html import MAX_TEXT, clip, for_plotly, join, script_json, tag
from iretrace.replay.engine import REPAIRS
from iretrace.replay.hazards import HAZARDS
from iretrace.replay.policies import BUILT_IN, Choice, by_name
from iretrace.trace import open_trace
from tests.sample_trace import TSC_KHZ, write_sample

if TYPE_CHECKING:
    from collections.abc import Callable

    import plotly.graph_objects as go

THIN = "\u202f"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The sample under the mail's policy."""
    path = write_sample(tmp_path_factory.mktemp("sample") / "sample.parquet")
    return study(open_trace(path), by_name("rfc2014"))


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (numbers.count(1234567), "1 234 567"),
        (numbers.short(845), "845"),
        (numbers.short(12345), "12 345"),
        (numbers.short(1_234_567), "1.23 M"),
        (numbers.short(999_999), "1 M"),
        (numbers.short(-2.5e9), "-2.5 G"),
        (numbers.short(float("nan")), "not known"),
        (numbers.duration_ns(0.5), "0.5 ns"),
        (numbers.duration_ns(3_400), "3.4 µs"),
        (numbers.duration_ns(999_999), "1 ms"),
        (numbers.duration_ns(62e9), "62 s"),
        (numbers.duration_ns(None), "not known"),
        (numbers.percent(0), "0 %"),
        (numbers.percent(0.0114), "0.0114 %"),
        (numbers.percent(0.000001), "< 0.00001 %"),
        (numbers.percent(0.000436), "0.000436 %"),
        (numbers.percent(42.34), "42.3 %"),
        (numbers.percent(99.99), "> 99.9 %"),
        (numbers.percent(100), "100 %"),
        (numbers.share(1, 0), "not known"),
        (numbers.change(-3.14), "\u22123.1 %"),
        (numbers.change(0.024), "+0.02 %"),
        (numbers.change(-0.00001), "\u22120 %"),
        (numbers.change(23_998.2), "+23 998 %"),
        (numbers.size(12), "12 B"),
        (numbers.size(12_328), "12.3 kB"),
        (numbers.size(4_960_737), "4.96 MB"),
        (numbers.plural(1, "hazard"), "1 hazard"),
        (numbers.plural(2000, "hazard"), "2 000 hazards"),
    ],
)
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    """Digits in groups, three significant ones, a unit that suits."""
    assert shown.replace(THIN, " ") == expected


@given(st.floats() | st.integers(-(10**30), 10**30))
def test_any_number_can_be_shown(value: float) -> None:
    """Files are untrusted: no number may stop the report."""
    for show in (numbers.short, numbers.duration_ns, numbers.percent, numbers.cycles, numbers.change):
        assert show(value)


def test_strings_are_escaped_unless_made_by_tag() -> None:
    """Children, attributes and clipped text."""
    hostile = "<img src=x onerror=alert(1)>"
    assert tag("p", hostile) == "<p>&lt;img src=x onerror=alert(1)&gt;</p>"
    assert tag("p", tag("b", "x"), None, 3) == "<p><b>x</b>3</p>"
    assert tag("a", "x", title='"><script>') == '<a title="&quot;&gt;&lt;script&gt;">x</a>'
    assert tag("button", "x", hidden=True, disabled=False) == "<button hidden>x</button>"
    assert join("<", tag("br")) == "&lt;<br>"


def test_long_and_unprintable_strings_are_cut_and_cleaned() -> None:
    """Size does not depend on what a file says, and a label cannot turn the text around."""
    assert len(clip("x" * 10_000)) == MAX_TEXT
    assert clip("a\u202eb\x00c\nd") == "a b c d"
    assert for_plotly("<b>&") == "&lt;b&gt;&amp;"


@given(st.text())
def test_json_in_a_script_element_stays_json_and_inside(text: str) -> None:
    """It decodes to the same, and holds nothing that ends or opens a script."""
    document = script_json(json.dumps({"x": text + "</script><!--"}, ensure_ascii=False))
    assert json.loads(document)["x"] == text + "</script><!--"
    assert not set(document) & set("<>&\u2028\u2029")


def test_every_word_has_its_meaning() -> None:
    """Rules, decisions, repairs and severities that exist are explained; nothing else is."""
    assert set(words.RULES) == {rule for policy in BUILT_IN.values() for rule in policy.rules}
    assert set(words.DECISIONS) == set(theme.DECISIONS) == set(Choice.__members__) == set(frames.CHOICES)
    assert set(words.REPAIRS) == set(REPAIRS)
    assert set(words.SEVERITIES) == {hazard.severity for hazard in HAZARDS}
    assert set(theme.TARGETS) == set(frames.TARGETS)


def test_no_two_things_look_the_same() -> None:
    """Neither colour nor pattern is shared within a figure."""
    for styles in (theme.DECISIONS.values(), theme.TARGETS.values(), (*theme.VECTORS, theme.OTHERS)):
        listed = list(styles)
        assert len({style.colour for style in listed}) == len(listed)
        assert len({style.pattern for style in listed}) == len(listed)


FIGURES: dict[str, Callable[[Study], go.Figure]] = {
    "decisions": lambda s: figures.decisions(s.by_vector),
    "targets": lambda s: figures.targets(s.by_vector),
    "rules": lambda s: figures.rules(frames.by_rule(s.result.policies[0])),
    "rates": lambda s: figures.rates(frames.rates(s.counts, s.tsc_khz)),
    "latency": lambda s: figures.distribution(frames.distribution(s.counts.latency), s.tsc_khz, what="time"),
    "cycles": lambda s: figures.distribution(frames.distribution(s.counts.latency), None, what="time"),
    "depth": lambda s: figures.depth(frames.depths(s.counts)),
    "savings": lambda s: figures.savings(savings.by_vector(s.by_vector, s.saving, s.duration_s)),
    "medians": lambda s: figures.before_after(savings.medians(s.counts), s.tsc_khz),
}

UNIT = re.compile(r"\((%|s|s, logarithmic|µs|TSC cycles.*)\)$|^returns$|^traps \(logarithmic\)$")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_say_what_their_axes_are(studied: Study, name: str) -> None:
    """Every figure has an axis title with a unit, data, transparent ground and fixed height."""
    figure = FIGURES[name](studied)
    assert UNIT.search(figure.layout.xaxis.title.text)
    assert figure.layout.height >= 100
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert sum(len(trace.x) for trace in figure.data) > 0


def test_shares_add_up(studied: Study) -> None:
    """Stacked decisions of each vector are 100 %, in the colours and patterns of the theme."""
    figure = figures.decisions(studied.by_vector)
    assert sum(trace.x for trace in figure.data).tolist() == pytest.approx([100.0] * len(studied.by_vector))
    for trace in figure.data:
        assert trace.marker.color == theme.DECISIONS[trace.name].colour
        assert trace.marker.pattern.shape == theme.DECISIONS[trace.name].pattern


def test_distribution_axis_is_time(studied: Study) -> None:
    """Cycles become seconds; curves begin at 0 % and end at 100 %."""
    frame = frames.distribution(studied.counts.latency)
    figure = figures.distribution(frame, TSC_KHZ, what="time")
    first = frame[frame["vector"] == frame["vector"].iloc[0]]
    assert figure.data[0].x[-1] == pytest.approx(first["cycles"].iloc[-1] / 2e9)
    assert [(trace.y[0], trace.y[-1]) for trace in figure.data] == [(0, 100)] * len(figure.data)


def test_an_axis_of_durations_has_ticks_enough() -> None:
    """Within one decade 2 and 5 are marked as well; each tick has its unit."""

    def ticks(*cycles: int) -> list[str]:
        frame = pd.DataFrame({"vector": 14, "name": "#PF", "cycles": cycles, "traps": 1, "share_pct": 50.0})
        axis = figures.distribution(frame, TSC_KHZ, what="time").layout.xaxis
        assert len(axis.tickvals) == len(axis.ticktext)
        return [text.replace(THIN, " ") for text in axis.ticktext]

    assert ticks(4_000, 36_000) == ["2 µs", "5 µs", "10 µs"]
    assert ticks(400, 2_000_000) == ["1 µs", "10 µs", "100 µs", "1 ms"]


def test_many_vectors_are_folded() -> None:
    """Bars beyond the limit become one, and nothing is dropped."""
    frame = pd.DataFrame({"vector": range(40), "name": [f"v{i}" for i in range(40)], "returns": range(40, 0, -1)})
    folded = figures.fold(frame, 12)
    assert len(folded) == 13
    assert folded["returns"].sum() == frame["returns"].sum()
    assert folded["name"].iloc[-1] == "28 others"


def test_rates_of_many_vectors_keep_their_sum() -> None:
    """The most frequent have their own area, the rest one together."""
    frame = pd.DataFrame(
        [(float(t), 1.0, v, f"v{v}", v, float(v)) for v in range(20, 0, -1) for t in range(3)],
        columns=["start_s", "width_s", "vector", "name", "traps", "per_s"],
    )
    figure = figures.rates(frame)
    assert len(figure.data) == len(theme.VECTORS) + 1
    assert sum(trace.y.sum() for trace in figure.data) == frame["per_s"].sum()


def test_hostile_rule_names_are_text_in_figures(studied: Study) -> None:
    """A user's policy may name its rules as it likes; plotly reads markup in labels."""
    frame = frames.by_rule(studied.result.policies[0]).assign(rule='<a href="javascript:x">')
    figure = figures.rules(frame.head(1))
    assert '<b>&lt;a href="javascript:x"&gt;</b>' in figure.layout.annotations[0].text


def test_tables_show_all_rows_and_blank_what_is_unknown() -> None:
    """Numbers flush right, NaN as an empty cell, names escaped."""
    frame = pd.DataFrame({"name": ["<x>", "y"], "n": [1234.0, float("nan")]})
    columns = [tables.Column("name", "Name"), tables.Column("n", "N", numbers.count)]
    shown = tables.of_frame(frame, columns, "T")
    assert shown.count("<tr>") == 3
    assert "<td>&lt;x&gt;</td>" in shown
    assert f'<td class="n">1{THIN}234</td>' in shown
    assert '<td class="n"></td>' in shown


def test_tables_of_text_are_bounded() -> None:
    """A footer with a thousand hooks does not make a thousand rows, and says so."""
    shown = tables.rows(("A",), ((str(i),) for i in range(1000)), "T")
    assert shown.count("<tr>") == 102
    assert "and 900 more" in shown


def test_columns_of_numbers_are_flush_right() -> None:
    """A column of text in which one number stands is text, and what is not known does not make it text."""
    body = [("#PF", f"{numbers.count(12345)}", "6", "1 MB", "not known"), ("timer", "8", "must use", "12 kB", "< 1 %")]
    shown = tables.rows(("a", "b", "c", "d", "e"), body, "T")
    assert [heading in shown for heading in ('<th scope="col">a<', '<th scope="col">c<')] == [True, True]
    assert all(f'<th scope="col" class="n">{name}<' in shown for name in "bde")
    assert '<td class="n">8</td>' in shown
    assert "<td>must use</td>" in shown


def test_a_bar_names_what_it_has() -> None:
    """Of several policies side by side, each bar tells the share of its own cheaper return."""
    frame = pd.DataFrame(
        {
            "name": ["rfc2014", "fred"],
            "returns": [10, 10],
            "RET": [4, 0],
            "IRET": [6, 0],
            "ERETS": [0, 4],
            "ERETU": [0, 6],
        }
    )
    shown = [one.text.replace(THIN, " ") for one in figures.decisions(frame, what="returns").layout.annotations]
    assert shown == ["<b>rfc2014</b> · 10 returns, 40 % RET", "<b>fred</b> · 10 returns, 40 % ERETS"]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_every_policy_makes_figures(tmp_path: Any, name: str) -> None:
    """Whatever a policy decides, decisions by vector and rule can be drawn."""
    found = study(open_trace(write_sample(tmp_path / "s.parquet")), by_name(name))
    assert figures.decisions(found.by_vector).data
    assert figures.rules(frames.by_rule(found.result.policies[0])).data
