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
    from iretrace.dashboards.theme import Style

MAX_BARS: Final = 12
"""Vectors that get a bar of their own; the table under the figure has all."""


def decisions(frame: pd.DataFrame) -> go.Figure:
    """RET and IRET by vector, as shares of the vector's returns.

    Args:
        frame: :func:`iretrace.analysis.frames.by_vector`.
    """
    return _shares(frame, DECISIONS)


def targets(frame: pd.DataFrame) -> go.Figure:
    """Where returns go by vector, as shares of the vector's returns.

    Args:
        frame: :func:`iretrace.analysis.frames.by_vector`.
    """
    return _shares(frame, TARGETS)


def _shares(frame: pd.DataFrame, styles: dict[str, Style]) -> go.Figure:
    shown = fold(frame, MAX_BARS)
    labels = [_label(name, n) for name, n in zip(shown["name"], shown["returns"], strict=True)]
    traces = []
    for column, style in styles.items():
        if not shown[column].any():
            continue
        share_pct = 100 * shown[column] / shown["returns"]
        traces.append(
            go.Bar(
                name=column,
                orientation="h",
                y=labels,
                x=share_pct,
                marker=fill(style),
                customdata=[numbers.count(n) for n in shown[column]],
                hovertemplate=f"{column}: %{{customdata}} returns (%{{x:.3~r}} %)<extra></extra>",
            )
        )
    return _bars(*traces, rows=len(shown), x="share of the vector's returns (%)", xaxis_range=[0, 100])


def rules(frame: pd.DataFrame) -> go.Figure:
    """Returns by rule and decision.

    Args:
        frame: :func:`iretrace.analysis.frames.by_rule`.
    """
    labels = [f"{for_plotly(rule)}  " for rule in frame["rule"]]
    traces = []
    for column, style in DECISIONS.items():
        if not frame[column].any():
            continue
        named = [f" {numbers.short(n)} {column}" if n else "" for n in frame[column]]
        traces.append(
            go.Bar(
                name=column,
                orientation="h",
                y=labels,
                x=frame[column],
                marker=fill(style),
                hovertemplate=f"%{{y}}: %{{x:,}} returns by {column}<extra></extra>",
            )
        )
        traces.append(_text_at(frame[column], labels, named))
    return _bars(*traces, rows=len(frame), x="returns", barmode="group" if _mixed(frame) else "stack")


def _mixed(frame: pd.DataFrame) -> bool:
    """Whether a rule gave more than one decision."""
    return bool((frame[list(DECISIONS)] > 0).sum(axis=1).gt(1).any())


def _text_at(x: pd.Series[Any], y: list[str], text: list[str]) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        text=text,
        mode="text",
        textposition="middle right",
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )


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
                line={"width": 1, "color": style.colour, "shape": "hvh"},
                fillcolor=style.colour,
                fillpattern={"shape": style.pattern, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.5},
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
    unit = "TSC cycles, logarithmic" if tsc_khz is None else "seconds, logarithmic"
    return figure(
        *traces,
        height=380,
        x=f"{what} ({unit})",
        y="share of the vector's traps (%)",
        xaxis_type="log",
        xaxis_exponentformat="SI",
        xaxis_ticksuffix="" if tsc_khz is None else "s",
        xaxis_minexponent=0,
        xaxis_dtick=1,
        yaxis_range=[0, 101],
    )


def depth(frame: pd.DataFrame) -> go.Figure:
    """How many traps lay below on the stack.

    Args:
        frame: :func:`iretrace.analysis.frames.depths`.
    """
    total = int(frame["returns"].sum())
    labels = [f"{d} below  " if d else "none below  " for d in frame["depth"]]
    shown = [f" {numbers.short(n)} ({numbers.share(n, total)})" if n else " 0" for n in frame["returns"]]
    counts = frame["returns"].where(frame["returns"] > 0)
    bars = go.Bar(
        orientation="h",
        y=labels,
        x=counts,
        marker=fill(VECTORS[0]),
        showlegend=False,
        hovertemplate="%{y}: %{x:,} traps<extra></extra>",
    )
    top = np.log10(max(total, 10))
    return _bars(
        bars,
        _text_at(counts.fillna(1), labels, shown),
        rows=len(frame),
        x="traps (logarithmic)",
        xaxis_type="log",
        xaxis_range=[-0.3, top * 1.3 + 0.3],
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
    labels = [f"{for_plotly(name)}  " for name in shown["name"]]
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
        hovertemplate="%{y}: %{x:,.3~s} cycles per second<extra></extra>",
    )
    return _bars(
        bars, rows=len(shown), x="projected saving (TSC cycles per second of recording)", xaxis_exponentformat="SI"
    )


def before_after(frame: pd.DataFrame, tsc_khz: float | None) -> go.Figure:
    """Median latency of each vector now and as projected.

    Args:
        frame: :func:`iretrace.analysis.savings.medians`, columns ``name``, ``now_cycles``, ``projected_cycles``.
        tsc_khz: TSC frequency; ``None``: the axis is in TSC cycles.
    """
    shown = frame.head(MAX_BARS)
    labels = [f"{for_plotly(name)}  " for name in shown["name"]]
    scale, unit = (1.0, "TSC cycles") if tsc_khz is None else (1e3 / tsc_khz, "µs")
    traces = [
        go.Bar(
            name=name,
            orientation="h",
            y=labels,
            x=shown[column] * scale,
            marker=fill(style),
            customdata=[time_text(c, tsc_khz) for c in shown[column]],
            hovertemplate=f"%{{y}} {name}: %{{customdata}}<extra></extra>",
        )
        for name, column, style in (
            ("now, all IRET", "now_cycles", NOW),
            ("projected", "projected_cycles", PROJECTED),
        )
    ]
    return _bars(*traces, rows=2 * len(shown), x=f"median time from entry to exit ({unit})", barmode="group")


def fold(frame: pd.DataFrame, limit: int) -> pd.DataFrame:
    """The first rows, and the rest summed as ``others``."""
    if len(frame) <= limit + 1:
        return frame
    rest = frame.iloc[limit:].sum(numeric_only=True).to_frame().T.astype({"vector": "int64", "returns": "int64"})
    rest["name"] = f"{len(frame) - limit} others"
    return pd.concat([frame.iloc[:limit], rest], ignore_index=True)


def _bars(*traces: go.Bar | go.Scatter, rows: int, x: str, **layout: Any) -> go.Figure:  # noqa: ANN401
    """Horizontal bars, first row on top."""
    return figure(
        *traces,
        height=120 + 34 * max(rows, 1),
        x=x,
        **{"barmode": "stack", "bargap": 0.3, "yaxis_autorange": "reversed", "yaxis_type": "category", **layout},
    )


def _label(name: str, n: int) -> str:
    return f"{for_plotly(name)} · {numbers.short(n)}  "


def time_text(cycles: float, tsc_khz: float | None) -> str:
    """Cycles as time, or as cycles where the frequency is not known."""
    return numbers.cycles(cycles) if tsc_khz is None else numbers.duration_ns(cycles * 1e6 / tsc_khz)
