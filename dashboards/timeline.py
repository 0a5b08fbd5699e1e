"""The trap timeline as a figure: counts by CPU far out, single nested traps near in, in the decisions' colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import plotly.graph_objects as go

from iretrace.dashboards import numbers
from iretrace.dashboards.figures import time_text
from iretrace.dashboards.html import for_plotly
from iretrace.dashboards.theme import DECISIONS, figure, fill

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from iretrace.analysis.timeline import View

_LANE: Final = 0.86
"""Part of a CPU's lane that is drawn on."""

_LANE_PX: Final = 46
_FEW_LANES_PX: Final = 96
_FEW: Final = 4
_MIN_DEPTHS: Final = 2
_UNITS: Final = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


def timeline(view: View, tsc_khz: float | None, *, origin: int) -> go.Figure:
    """A stretch of a trace, one lane a CPU.

    Args:
        view: :meth:`iretrace.analysis.timeline.Timeline.view`.
        tsc_khz: TSC frequency; ``None``: the axis is in TSC cycles.
        origin: TSC at which the recording began; the axis says how long after it the stretch begins.
    """
    scale, unit = axis_unit(view.stop - view.start, tsc_khz)
    drawn = _traps(view, scale, tsc_khz) if view.kind == "traps" else _counts(view, scale, tsc_khz)
    lanes = np.arange(len(view.cpus))
    after = time_text(view.start - origin, tsc_khz) if view.start > origin else "the recording began"
    return figure(
        *drawn,
        height=130 + (_FEW_LANES_PX if len(view.cpus) <= _FEW else _LANE_PX) * len(view.cpus),
        x=f"time after {precise(view.start - origin, tsc_khz)} of the recording ({unit})"
        if view.start > origin
        else f"time after {after} ({unit})",
        barmode="overlay",
        dragmode="zoom",
        hovermode="closest" if view.kind == "traps" else "x unified",
        xaxis_range=[0, (view.stop - view.start) * scale],
        xaxis_exponentformat="none",
        xaxis_separatethousands=True,
        xaxis_hoverformat=".4~g",
        yaxis_range=[len(view.cpus) - 0.06, -0.14],
        yaxis_fixedrange=True,
        yaxis_tickvals=lanes + _LANE / 2,
        yaxis_ticktext=[f"CPU {cpu}" for cpu in view.cpus],
        yaxis_showgrid=False,
        shapes=[_baseline(lane + _LANE) for lane in lanes],
    )


def axis_unit(span_cycles: int, tsc_khz: float | None) -> tuple[float, str]:
    """Factor from TSC cycles to the unit that suits an axis of this length, and the unit's name."""
    if tsc_khz is None:
        return 1.0, "TSC cycles"
    seconds = span_cycles / (tsc_khz * 1e3)
    size, name = next(((size, name) for size, name in _UNITS if seconds >= size), _UNITS[-1])
    return 1 / (tsc_khz * 1e3) / size, name


def precise(cycles: int, tsc_khz: float | None) -> str:
    """A point in time to the nanosecond, or to the cycle."""
    if tsc_khz is None:
        return numbers.cycles(cycles)
    digits = f"{cycles / (tsc_khz * 1e3):.9f}".rstrip("0").rstrip(".")
    whole, _, part = digits.partition(".")
    groups = numbers.THIN.join(part[i : i + 3] for i in range(0, len(part), 3))
    return f"{int(whole):,}".replace(",", numbers.THIN) + (f".{groups}" if groups else "") + f"{numbers.THIN}s"


def _baseline(y: float) -> dict[str, Any]:
    line = {"color": "#808080", "width": 1}
    return {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "layer": "below", "line": line}


def _traps(view: View, scale: float, tsc_khz: float | None) -> list[Any]:
    """A bar a trap, nested ones on those they interrupted; where no exit was seen, a mark at the entry."""
    frame = view.frame
    height = _LANE / max(_MIN_DEPTHS, int(frame["depth"].max()) + 1 if len(frame) else 0)
    lane = np.searchsorted(np.array(view.cpus), frame["cpu"])
    middle = lane + _LANE - (frame["depth"].to_numpy() + 0.5) * height
    stop = float(view.stop - view.start)
    begin = frame["entry_tsc"].clip(-0.01 * stop, 1.01 * stop).to_numpy()
    end = frame["end_tsc"].clip(-0.01 * stop, 1.01 * stop).to_numpy()
    hover = [_told(row, tsc_khz) for row in frame.itertuples()]
    traces: list[Any] = []
    for name, style in DECISIONS.items():
        here = (frame["decision"] == name).to_numpy()
        wide = here & (end > begin)
        if wide.any():
            traces.append(
                go.Bar(
                    name=name,
                    legendgroup=name,
                    orientation="h",
                    base=begin[wide] * scale,
                    x=(end - begin)[wide] * scale,
                    y=middle[wide],
                    width=height * 0.9,
                    marker={**fill(style), "line": {"width": 1, "color": style.colour}},
                    text=[
                        for_plotly(text) if part > _LETTER * (len(text) + 1) else ""
                        for text, part in zip(frame["name"][wide], (end - begin)[wide] / stop, strict=True)
                    ],
                    textposition="inside",
                    insidetextanchor="middle",
                    textangle=0,
                    textfont={"color": "#ffffff", "size": 12},
                    hovertext=[text for text, shown in zip(hover, wide, strict=True) if shown],
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )
        points = here & ~wide
        if points.any():
            traces.append(
                go.Scatter(
                    name=f"{name}, no exit seen",
                    mode="markers",
                    x=begin[points] * scale,
                    y=middle[points],
                    marker={
                        "symbol": _SYMBOLS[name],
                        "size": 9,
                        "color": style.colour,
                        "line": {"width": 1, "color": style.colour},
                    },
                    hovertext=[text for text, shown in zip(hover, points, strict=True) if shown],
                    hovertemplate="%{hovertext}<extra></extra>",
                )
            )
    return traces


_LETTER: Final = 0.009
"""Part of the axis that a letter takes."""

_SYMBOLS: Final = {"RET": "circle", "IRET": "diamond-open", "ERETS": "square", "ERETU": "square-open"}


def _told(row: Any, tsc_khz: float | None) -> str:  # noqa: ANN401 - a named tuple of the frame
    lines = [f"<b>{for_plotly(row.name)}</b> on CPU {row.cpu}, returns by {row.decision} to {row.target}"]
    lines.append(f"rule {for_plotly(row.rule)}" + (f"; hazards: {row.hazards}" if row.hazards else ""))
    if np.isnan(row.duration_cycles):
        lines.append(f"no duration: {row.end.replace('_', ' ')}")
    else:
        took = f"{time_text(row.duration_cycles, tsc_khz)} ({numbers.count(row.duration_cycles)} cycles)"
        alone = row.self_cycles
        inner = "" if np.isnan(alone) or alone == row.duration_cycles else f", {time_text(alone, tsc_khz)} of its own"
        lines.append(took + inner)
    lines.append(f"pid {row.pid}" + (f", {row.depth} below on the stack" if row.depth else ""))
    return "<br>".join(lines)


def _counts(view: View, scale: float, tsc_khz: float | None) -> list[Any]:
    """Stacked areas of returns a second, all lanes on one scale."""
    frame, n = view.frame, len(view.cpus)
    counts = {name: frame[name].to_numpy().reshape(n, -1) for name in DECISIONS}
    total = np.sum(list(counts.values()), axis=0)
    bins = total.shape[1]
    edges = np.linspace(0, (view.stop - view.start) * scale, bins + 1)
    top = max(float(total.max()), 1e-12)
    below = np.zeros_like(total)
    traces: list[Any] = []
    for name, style in DECISIONS.items():
        if counts[name].any():
            above = below + counts[name]
            x, y = _outlines(edges, below / top, above / top)
            traces.append(
                go.Scatter(
                    name=name,
                    x=x,
                    y=y,
                    mode="lines",
                    fill="toself",
                    line={"width": 0.5, "color": style.colour},
                    fillcolor=style.colour,
                    fillpattern={
                        "shape": style.pattern,
                        "fillmode": "overlay",
                        "fgcolor": "#ffffff",
                        "fgopacity": 0.6,
                        "size": 6,
                    },
                    hoverinfo="skip",
                )
            )
            below = above
    seconds = 0.0 if tsc_khz is None else (view.stop - view.start) / bins / (tsc_khz * 1e3)
    middle = (edges[1:] + edges[:-1]) / 2
    for lane, cpu in enumerate(view.cpus):
        made = [name for name in DECISIONS if counts[name][lane].any()]
        told = [
            ", ".join(
                f"{_rate(counts[name][lane, b], seconds)} {name}" for name in made if counts[name][lane, b] >= 0.5
            )
            or "none"
            for b in range(bins)
        ]
        traces.append(
            go.Scatter(
                name=f"CPU {cpu}",
                x=middle,
                y=np.full(bins, lane + _LANE),
                mode="lines",
                line={"width": 0},
                showlegend=False,
                hovertext=told,
                hovertemplate="%{hovertext}",
            )
        )
    return traces


def _rate(count: float, seconds: float) -> str:
    return f"{numbers.short(count / seconds)}/s" if seconds else numbers.short(count)


def _outlines(
    edges: NDArray[np.float64], low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Outlines of the lanes' steps between two heights (0 to 1), one after another with gaps between."""
    x = np.repeat(edges, 2)[1:-1]
    xs: list[NDArray[np.float64]] = []
    ys: list[NDArray[np.float64]] = []
    gap = np.array([np.nan])
    for lane in range(len(low)):
        base = lane + _LANE
        forth, back = (base - _LANE * np.repeat(height[lane], 2) for height in (high, low))
        xs += [x, x[::-1], x[:1], gap]
        ys += [forth, back[::-1], forth[:1], gap]
    return np.concatenate(xs).astype(np.float32), np.concatenate(ys).astype(np.float32)


def full_height(view: View, tsc_khz: float | None) -> str:
    """What a full lane stands for, where returns are counted."""
    if view.kind != "counts" or view.frame.empty:
        return ""
    frame: pd.DataFrame = view.frame
    most = float(frame[list(DECISIONS)].sum(axis=1).max())
    if tsc_khz is None:
        return f"{numbers.short(most)} returns in a bin"
    return f"{numbers.short(most / (float(frame['width'].iloc[0]) / (tsc_khz * 1e3)))} returns a second"
