"""Two sides beside each other: the differences with their intervals. What cannot be told is said, not shown off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from iretrace.analysis.measures import ALL, BY_NAME, name_of
from iretrace.dashboards import figures, numbers, tables
from iretrace.dashboards.html import Safe, clip, for_plotly, join, tag
from iretrace.dashboards.page import Section
from iretrace.dashboards.theme import figure
from iretrace.store import records

if TYPE_CHECKING:
    from collections.abc import Sequence

    from iretrace.analysis.compare import Difference
    from iretrace.dashboards.page import Figures

_STYLES: Final = {
    "worse": ("#D55E00", "triangle-up"),
    "better": ("#009E73", "circle"),
    "same": ("#808080", "line-ns-open"),
    "cannot tell": ("#A0A0A0", "x-thin-open"),
}
"""Colour and mark of each verdict."""

_MEANING: Final = {
    "worse": "a change to the worse, significant and large enough to matter",
    "better": "a change to the better, significant and large enough to matter",
    "same": "if anything changed, then by less than what matters",
    "cannot tell": "the runs do not say",
}

MAX_CHANGED: Final = 24
_WIDEST_PCT: Final = 150.0
_ROW_PX: Final = 38
_LABEL_PX: Final = 15


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two sides, compared.

    Attributes:
        found: :func:`iretrace.analysis.compare.compare`; empty: they were not compared.
        base: what the base is.
        new: what the new is.
        against: why they should not be compared.
        notes: what a reader must know.
        policy: whose RETs and savings are compared.
        min_effect_pct: smaller changes do not matter.
    """

    found: Sequence[Difference]
    base: Safe
    new: Safe
    against: Sequence[str]
    notes: Sequence[str]
    policy: str
    min_effect_pct: float


ONE_EACH: Final = (
    "One run on each side: the intervals hold what differs over time within a run, not what differs between runs of "
    "the same thing. Several runs on each side tell more."
)


def frame_of(found: Sequence[Difference]) -> pd.DataFrame:
    """Differences as a frame.

    Columns: ``vector``, ``name`` (of the vector), ``measure``, ``unit``, ``base``, ``new``, ``change_pct``,
    ``low_pct``, ``high_pct``, ``p``, ``verdict``, ``reason``.
    """
    columns = ("vector", "measure", "base", "new", "change_pct", "low_pct", "high_pct", "p", "verdict", "reason")
    frame = pd.DataFrame([[getattr(one, name) for name in columns] for one in found], columns=list(columns))
    frame["name"] = [name_of(int(vector)) for vector in frame["vector"]]
    frame["unit"] = [BY_NAME[measure].unit for measure in frame["measure"]]
    return frame


def differences(frame: pd.DataFrame, *, min_effect_pct: float) -> go.Figure:
    """Changes with their intervals of 95 %, one row a measure; what lies beyond the axis is at its end, as a number.

    Args:
        frame: :func:`frame_of`, the rows to show.
        min_effect_pct: the band within which a change does not matter.
    """
    labels = [f"{name} {measure}" for name, measure in zip(frame["name"], frame["measure"], strict=True)]
    reach = frame[["low_pct", "high_pct", "change_pct"]].abs().max().max()
    widest = min(max(3 * min_effect_pct, 1.15 * float(np.nan_to_num(reach))), _WIDEST_PCT)
    traces = []
    for verdict, (colour, symbol) in _STYLES.items():
        here = (frame["verdict"] == verdict) & frame["change_pct"].notna()
        if not here.any():
            continue
        rows = frame[here]
        at, low, high = (rows[name].clip(-widest, widest) for name in ("change_pct", "low_pct", "high_pct"))
        traces.append(
            go.Scatter(
                name=verdict,
                mode="markers+text",
                x=at,
                text=[numbers.change(pct) if abs(pct) > widest else "" for pct in rows["change_pct"]],
                textposition=["middle left" if pct > 0 else "middle right" for pct in rows["change_pct"]],
                cliponaxis=False,
                y=[for_plotly(label) for label, shown in zip(labels, here, strict=True) if shown],
                marker={"color": colour, "symbol": symbol, "size": 11, "line": {"width": 2, "color": colour}},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": (high - at).fillna(0),
                    "arrayminus": (at - low).fillna(0),
                    "color": colour,
                    "thickness": 2.5 if verdict in {"worse", "better"} else 1,
                },
                hovertext=[_told(row) for row in records(rows)],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    band = {"type": "rect", "x0": -min_effect_pct, "x1": min_effect_pct, "yref": "paper", "y0": 0, "y1": 1}
    return figure(
        *traces,
        height=120 + _ROW_PX * len(frame),
        x="change (%), with its interval of 95 %",
        annotations=figures.above([for_plotly(label) for label in labels], _LABEL_PX),
        yaxis_showticklabels=False,
        yaxis_ticks="",
        xaxis_range=[-widest, widest],
        xaxis_zeroline=True,
        xaxis_zerolinecolor="#808080",
        yaxis_type="category",
        yaxis_categoryorder="array",
        yaxis_categoryarray=[for_plotly(label) for label in reversed(labels)],
        yaxis_range=[-0.6, len(frame) - 0.4],
        hovermode="closest",
        shapes=[{**band, "layer": "below", "line": {"width": 0}, "fillcolor": "rgba(128,128,128,0.14)"}],
    )


def _told(row: dict[str, object]) -> str:
    unit = str(row["unit"])
    head = f"<b>{for_plotly(row['name'])} {for_plotly(row['measure'])}</b>: {row['verdict']}"
    lines = [head, f"{_value(row['base'], unit)} → {_value(row['new'], unit)}", _change(row)]
    if row["reason"]:
        lines.append(for_plotly(row["reason"]))
    return "<br>".join(lines)


def section(compared: Comparison, page: Figures) -> Section:
    """A comparison: the verdict in a sentence, what changed, and everything else folded away.

    Args:
        compared: what was compared.
        page: where the figure goes.
    """
    frame, against, least = frame_of(compared.found), compared.against, compared.min_effect_pct
    named = tables.facts([("Base", compared.base), ("New", compared.new), ("Policy", clip(compared.policy))])
    told = [tag("div", *(tag("p", text) for text in against), class_="notice warn", role="alert")] if against else []
    told += [tag("div", tag("p", note), class_="notice", role="note") for note in compared.notes]
    if frame.empty:
        return Section(
            id="compared", title="Compared", body=join(named, *told, tag("p", "They are not compared.", class_="lead"))
        )
    changed = frame[frame["verdict"].isin(["worse", "better"])]
    changed = changed.reindex(changed["change_pct"].abs().sort_values(ascending=False, kind="stable").index)
    whole = frame[(frame["vector"] == ALL) & ~frame.index.isin(changed.index) & frame["change_pct"].notna()]
    shown = pd.concat([changed.head(MAX_CHANGED), whole])
    rest = frame[~frame.index.isin(changed.index)]
    body = [named, tag("p", _headline(frame), class_="lead"), *told]
    if len(changed):
        body += [tag("h3", "What changed"), _table(changed, "What changed")]
    if len(shown):
        verdicts = "; ".join(f"{name}: {_MEANING[name]}" for name in _STYLES if (shown["verdict"] == name).any())
        rows = "Changed measures, then all vectors together" if len(changed) else "All vectors together"
        body.append(
            page.add(
                "differences",
                "Changes and how sure they are" if len(changed) else "Nothing is known to have changed",
                f"{rows}. The grey band is what does not matter ({least:g} % either way). "
                f"{verdicts[0].upper()}{verdicts[1:]}.",
                plot=differences(shown, min_effect_pct=least),
                data=_plain(shown, "Changes with their intervals"),
                summary=f"Changes with intervals. {_headline(frame)}",
            )
        )
    fold = tag("summary", f"{numbers.plural(len(rest), 'measure')} without a change that can be told")
    body.append(tag("details", fold, _table(rest, "Measures without a change that can be told")))
    return Section(id="compared", title="Compared", body=join(*body))


def _headline(frame: pd.DataFrame) -> str:
    counts = {verdict: int((frame["verdict"] == verdict).sum()) for verdict in _STYLES}
    return (
        f"{counts['worse']} worse, {counts['better']} better, {counts['same']} the same; of "
        f"{counts['cannot tell']} it cannot be told."
    )


_HEADS: Final = ("Vector", "Measure", "Base", "New", "Change (95 % interval)", "p", "Verdict")


def _table(frame: pd.DataFrame, caption: str) -> Safe:
    return tables.rows(_HEADS, [_cells(row) for row in records(frame)], caption)


def _plain(frame: pd.DataFrame, caption: str) -> Safe:
    """The same as a table alone: a figure's data scrolls in a region of its own."""
    head = tag("tr", *(tag("th", name, scope="col") for name in _HEADS))
    body = [tag("tr", *(tag("td", cell) for cell in _cells(row))) for row in records(frame)]
    return tag("table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", *body))


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    unit, verdict = str(row["unit"]), str(row["verdict"])
    badge = tag("span", verdict, class_="badge unsure" if verdict == "cannot tell" else f"badge {verdict}")
    return (
        clip(row["name"]),
        clip(row["measure"]),
        _value(row["base"], unit),
        _value(row["new"], unit),
        _change(row),
        _p(row["p"]),
        join(badge, f" {clip(row['reason'])}" if row["reason"] else None),
    )


def _value(value: object, unit: str) -> str:
    number = float(str(value))
    if math.isnan(number):
        return numbers.UNKNOWN
    return numbers.percent(number) if unit == "%" else f"{numbers.short(number)}{numbers.THIN}{unit}"


def _change(row: dict[str, object]) -> str:
    change, low, high = (float(str(row[name])) for name in ("change_pct", "low_pct", "high_pct"))
    if math.isnan(change):
        return numbers.UNKNOWN
    interval = "" if math.isnan(low) else f" ({numbers.change(low)} to {numbers.change(high)})"
    return numbers.change(change) + interval


def _p(value: object) -> str:
    p = float(str(value))
    return "" if math.isnan(p) else "<0.001" if p < 0.001 else f"{p:.3f}"
