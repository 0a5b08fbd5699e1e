"""Frame in, plotly figure out. Strings that can come from a trace or a policy are escaped for plotly's labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from iretrace.dashboards import numbers
from iretrace.dashboards.html import for_plotly
from iretrace.dashboards.theme import DECISIONS, NOW, OTHERS, PROJECTED, TARGETS, VECTORS, figure, fill

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from iretrace.dashboards.theme import Style

_FEW: Final = 5
_MANY_DECADES: Final = 2.5

MAX_BARS: Final = 12
"""Vectors that get a bar of their own; the table under the figure has all."""


def decisions(frame: pd.DataFrame, *, what: str = "the vector's returns") -> go.Figure:
    """RET and IRET by vector, as shares of the vector's returns.

    Args:
        frame: :func:`iretrace.analysis.frames.by_vector`, or another with its columns ``name``, ``returns`` and
            decisions.
        what: words for what a bar is a share of, for the axis.
    """
    shown = fold(frame, MAX_BARS)
    fred = shown["ERETS"].any() and not shown["RET"].any()
    named = [
        "ERETS" if fred or (erets and not ret) else "RET"
        for erets, ret in zip(shown["ERETS"], shown["RET"], strict=True)
    ]
    return _shares(shown, DECISIONS, named, what)


def targets(frame: pd.DataFrame) -> go.Figure:
    """Where returns go by vector, as shares of the vector's returns.

    Args:
        frame: :func:`iretrace.analysis.frames.by_vector`.
    """
    shown = fold(frame, MAX_BARS)
    return _shares(shown, TARGETS, ["kernel"] * len(shown), "the vector's returns")


def _shares(shown: pd.DataFrame, styles: dict[str, Style], named: list[str], what: str) -> go.Figure:
    """Bars of shares; each one's label gives the share of the column that is named for it."""
    labels = [
        f"{_bold(row['name'])} · {numbers.short(row['returns'])}{numbers.THIN}"
        f"{'return' if row['returns'] == 1 else 'returns'}, "
        f"{numbers.share(row[column], row['returns'])} {column}"
        for row, column in zip(shown.to_dict("records"), named, strict=True)
    ]
    bars = [
        go.Bar(
            name=column,
            orientation="h",
            y=labels,
            x=100 * shown[column] / shown["returns"],
            marker=fill(style),
            customdata=[numbers.count(n) for n in shown[column]],
            hovertemplate=f"{column}: %{{customdata}} returns (%{{x:.3~r}} %)<extra></extra>",
        )
        for column, style in styles.items()
        if shown[column].any()
    ]
    return _bars(*bars, rows=len(shown), x=f"share of {what} (%)", xaxis_range=[0, 100])


def rules(frame: pd.DataFrame) -> go.Figure:
    """Returns by rule and decision.

    Args:
        frame: :func:`iretrace.analysis.frames.by_rule`.
    """
    made = [column for column in DECISIONS if frame[column].any()]
    labels = []
    for index, rule in enumerate(frame["rule"]):
        held = [(column, int(frame[column].iloc[index])) for column in made]
        listed = ", ".join(f"{numbers.count(n)} by {column}" for column, n in held if n)
        labels.append(f"{_bold(rule)} · {listed or 'no return'}")
    bars = [
        go.Bar(
            name=column,
            orientation="h",
            y=labels,
            x=frame[column],
            marker=fill(DECISIONS[column]),
            hovertemplate=f"%{{x:,}} returns by {column}<extra></extra>",
        )
        for column in made
    ]
    few = frame[made].to_numpy().max(initial=0) < _FEW  # an axis of its own would have halves
    return _bars(*bars, rows=len(frame), x="returns", **({"xaxis_dtick": 1} if few else {}))


def rates(frame: pd.DataFrame) -> go.Figure:
    """Traps per second over time, stacked by vector.

    Args:
        frame: :func:`iretrace.analysis.frames.rates`.
    """
    traces = []
    for name, style, rows in _series(frame):
        traces.append(
            go.Scatter(
                name=for_plotly(name),
                x=rows["start_s"] + rows["width_s"] / 2,
                y=rows["per_s"],
                stackgroup="all",
                mode="lines",
                line={"width": 0, "color": style.colour, "shape": "hvh"},
                fillcolor=style.colour,
                fillpattern={
                    "shape": style.pattern,
                    "fillmode": "overlay",
                    "fgcolor": "#ffffff",
                    "fgopacity": 0.5,
                    "size": 5,
                },
                hovertemplate="%{y:,.3~s}/s",
            )
        )
    return figure(
        *traces,
        height=380,
        x="time since recording began (s)",
        y="traps per second",
        hovermode="x unified",
        xaxis_hoverformat=".4~g",
        yaxis_rangemode="tozero",
        yaxis_exponentformat="SI",
    )


def _series(frame: pd.DataFrame) -> list[tuple[str, Style, pd.DataFrame]]:
    """The most frequent vectors each, the rest summed."""
    order = list(dict.fromkeys(frame["vector"]))
    chosen = order[: len(VECTORS)] if len(order) > len(VECTORS) + 1 else order
    series = []
    for index, vector in enumerate(chosen):
        rows = frame[frame["vector"] == vector]
        series.append((str(rows["name"].iloc[0]), VECTORS[index] if index < len(VECTORS) else OTHERS, rows))
    rest = frame[~frame["vector"].isin(chosen)]
    if len(rest):
        summed = rest.groupby("start_s", as_index=False).agg({"width_s": "first", "traps": "sum", "per_s": "sum"})
        series.append(("others", OTHERS, summed))
    return series


def distribution(frame: pd.DataFrame, tsc_khz: float | None, *, what: str) -> go.Figure:
    """Cumulative distributions of a duration by vector, on a logarithmic axis.

    Args:
        frame: :func:`iretrace.analysis.frames.distribution`.
        tsc_khz: TSC frequency; ``None``: the axis is in TSC cycles.
        what: words for the duration, for the axis.
    """
    scale = 1.0 if tsc_khz is None else 1 / (tsc_khz * 1e3)
    traces = []
    for index, vector in enumerate(list(dict.fromkeys(frame["vector"]))[: len(VECTORS)]):
        rows = frame[frame["vector"] == vector]
        style = VECTORS[index]
        cycles = np.maximum(rows["cycles"].to_numpy(), 1)
        # The curve begins at 0 %, at the group of buckets below the first that holds something.
        x = np.concatenate([[cycles[0] / 2**0.125], cycles])
        y = np.concatenate([[0.0], rows["share_pct"]])
        shown = [time_text(c, tsc_khz) for c in x]
        traces.append(
            go.Scatter(
                name=for_plotly(rows["name"].iloc[0]),
                x=x * scale,
                y=y,
                mode="lines",
                line={"width": 2.5, "color": style.colour, "dash": style.dash},
                customdata=shown,
                hovertemplate="%{y:.2f} % within %{customdata}",
            )
        )
    unit = "TSC cycles, logarithmic" if tsc_khz is None else "s, logarithmic"
    return figure(
        *traces,
        height=380,
        x=f"{what} ({unit})",
        y="share of the vector's traps (%)",
        xaxis_type="log",
        **_time_ticks([float(x) for trace in traces for x in (trace.x[0], trace.x[-1])], scale, tsc_khz),
        yaxis_range=[0, 101],
    )


def _time_ticks(ends: Sequence[float], scale: float, tsc_khz: float | None) -> dict[str, Any]:
    """Ticks of a logarithmic axis of durations: powers of ten, and where there are few of those 2 and 5 as well."""
    if not ends:
        return {}
    low, high = np.log10(min(ends)), np.log10(max(ends))
    steps = (1,) if high - low > _MANY_DECADES else (1, 2, 5)
    at = [step * 10.0**exponent for exponent in range(int(np.floor(low)), int(np.ceil(high)) + 1) for step in steps]
    shown = [value for value in at if low - 0.01 <= np.log10(value) <= high + 0.01]
    return {"xaxis_tickvals": shown, "xaxis_ticktext": [time_text(value / scale, tsc_khz) for value in shown]}


def depth(frame: pd.DataFrame) -> go.Figure:
    """How many traps lay below on the stack.

    Args:
        frame: :func:`iretrace.analysis.frames.depths`.
    """
    total = int(frame["returns"].sum())
    labels = [
        f"{_bold(f'{d} below' if d else 'none below')} · {numbers.plural(n, 'trap')} ({numbers.share(n, total)})"
        for d, n in zip(frame["depth"], frame["returns"], strict=True)
    ]
    bars = go.Bar(
        orientation="h",
        y=labels,
        x=frame["returns"].where(frame["returns"] > 0),
        marker=fill(VECTORS[0]),
        showlegend=False,
        hovertemplate="%{x:,} traps<extra></extra>",
    )
    top = np.log10(max(total, 10))
    return _bars(
        bars,
        rows=len(frame),
        x="traps (logarithmic)",
        xaxis_type="log",
        xaxis_range=[-0.3, top + 0.1],
        xaxis_dtick=1,
        xaxis_exponentformat="SI",
    )


def savings(frame: pd.DataFrame) -> go.Figure:
    """Projected saving by vector, with its interval.

    Args:
        frame: :func:`iretrace.analysis.savings.by_vector`, columns ``name``, ``saved_per_s``, ``low_per_s`` and
            ``high_per_s`` (TSC cycles per second of recording).
    """
    shown = frame[frame["saved_per_s"] != 0].head(MAX_BARS)
    labels = [
        f"{_bold(name)} · {numbers.cycles(n)} a second"
        for name, n in zip(shown["name"], shown["saved_per_s"], strict=True)
    ]
    bars = go.Bar(
        orientation="h",
        y=labels,
        x=shown["saved_per_s"],
        marker=fill(PROJECTED),
        showlegend=False,
        error_x={
            "type": "data",
            "symmetric": False,
            "array": (shown["high_per_s"] - shown["saved_per_s"]).clip(lower=0),
            "arrayminus": (shown["saved_per_s"] - shown["low_per_s"]).clip(lower=0),
            "color": "#808080",
            "thickness": 2,
        },
        hovertemplate="%{x:,.3~s} cycles per second<extra></extra>",
    )
    return _bars(bars, rows=len(shown), x="projected saving (TSC cycles a second)", xaxis_exponentformat="SI")


def before_after(frame: pd.DataFrame, tsc_khz: float | None) -> go.Figure:
    """Median latency of each vector now and as projected.

    Args:
        frame: :func:`iretrace.analysis.savings.medians`, columns ``name``, ``now_cycles``, ``projected_cycles``.
        tsc_khz: TSC frequency; ``None``: the axis is in TSC cycles.
    """
    shown = frame.head(MAX_BARS)
    columns = (shown[name] for name in ("name", "now_cycles", "projected_cycles", "change_pct"))
    labels = [
        f"{_bold(name)} · {time_text(now, tsc_khz)} → {time_text(after, tsc_khz)} ({numbers.change(pct)})"
        for name, now, after, pct in zip(*columns, strict=True)
    ]
    scale, unit = (1.0, "TSC cycles") if tsc_khz is None else (1e3 / tsc_khz, "µs")
    traces = [
        go.Bar(
            name=name,
            orientation="h",
            y=labels,
            x=shown[column] * scale,
            marker=fill(style),
            customdata=[time_text(c, tsc_khz) for c in shown[column]],
            hovertemplate=f"{name}: %{{customdata}}<extra></extra>",
        )
        for name, column, style in (
            ("now, all IRET", "now_cycles", NOW),
            ("projected", "projected_cycles", PROJECTED),
        )
    ]
    return _bars(*traces, rows=len(shown), x=f"median time from entry to exit ({unit})", barmode="group")


def fold(frame: pd.DataFrame, limit: int) -> pd.DataFrame:
    """The first rows, and the rest summed as ``others``."""
    if len(frame) <= limit + 1:
        return frame
    rest = frame.iloc[limit:].sum(numeric_only=True).to_frame().T.astype({"vector": "int64", "returns": "int64"})
    rest["name"] = f"{len(frame) - limit} others"
    return pd.concat([frame.iloc[:limit], rest], ignore_index=True)


def _bars(*bars: go.Bar, rows: int, x: str, **layout: Any) -> go.Figure:  # noqa: ANN401
    """Horizontal bars, the first row on top, each under its label: labels beside them leave no room on a phone."""
    labels = above(dict.fromkeys(label for bar in bars for label in bar.y), _LABEL_PX)
    return figure(
        *bars,
        height=100 + _ROW_PX * max(rows, 1),
        x=x,
        **{
            "annotations": labels,
            "barmode": "stack",
            "bargap": 0.6,
            "xaxis_rangemode": "tozero",
            "yaxis_autorange": "reversed",
            "yaxis_type": "category",
            "yaxis_showticklabels": False,
            "yaxis_showgrid": False,
            "yaxis_ticks": "",
            **layout,
        },
    )


def above(labels: Iterable[str], shift_px: int) -> list[dict[str, Any]]:
    """Rows' labels over their rows, from the left."""
    return [
        {"text": label, "x": 0, "xref": "x domain", "xanchor": "left", "y": label, "yshift": shift_px}
        | {"showarrow": False, "align": "left", "borderpad": 0, "font": {"size": 12}}
        for label in labels
    ]


_ROW_PX: Final = 48
_LABEL_PX: Final = 18


def _bold(name: str) -> str:
    return f"<b>{for_plotly(name)}</b>"


def time_text(cycles: float, tsc_khz: float | None) -> str:
    """Cycles as time, or as cycles where the frequency is not known."""
    return numbers.cycles(cycles) if tsc_khz is None else numbers.duration_ns(cycles * 1e6 / tsc_khz)
