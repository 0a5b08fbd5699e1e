"""A measure over runs as a figure: one line a series, where it changed, and the way from each point to its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import plotly.graph_objects as go

from iretrace.dashboards import numbers
from iretrace.dashboards.html import for_plotly
from iretrace.dashboards.theme import OTHERS, VECTORS, figure

if TYPE_CHECKING:
    import pandas as pd

SYMBOLS: Final = ("circle", "square", "diamond", "triangle-up", "cross", "x")
_CHANGED: Final = {"worse": ("#D55E00", "solid"), "better": ("#009E73", "dash"), "other": ("#808080", "dot")}
_ROWS: Final = 4
"""Notes of neighbouring changes stand below one another."""


def trend(frame: pd.DataFrame, changes: pd.DataFrame, *, what: str, unit: str) -> go.Figure:
    """A measure over time.

    Args:
        frame: one row a run: ``series``, ``time``, ``value``, ``href`` (where a click on the point leads) and ``told``
            (what it is, plain text).
        changes: one row a change point: ``time``, ``verdict`` (``worse``, ``better`` or ``other``) and ``text``.
        what: words for the measure.
        unit: its unit.
    """
    traces: list[Any] = []
    for index, (name, rows) in enumerate(frame.groupby("series", sort=False)):
        style = VECTORS[index] if index < len(VECTORS) else OTHERS
        traces.append(
            go.Scatter(
                name=for_plotly(name),
                x=rows["time"],
                y=rows["value"],
                mode="lines+markers",
                line={"width": 1.5, "color": style.colour, "dash": style.dash},
                marker={"size": 8, "symbol": SYMBOLS[index % len(SYMBOLS)], "color": style.colour},
                customdata=rows["href"],
                hovertext=[for_plotly(text) for text in rows["told"]],
                hovertemplate="%{hovertext}<br>%{y:,.4~g} " + for_plotly(unit) + "<extra></extra>",
                showlegend=index < len(VECTORS) + 1,
            )
        )
    shapes, notes = [], []
    for index, row in enumerate(changes.itertuples()):
        colour, dash = _CHANGED[str(row.verdict)]
        shapes.append(
            {"type": "line", "x0": row.time, "x1": row.time, "yref": "paper", "y0": 0, "y1": 1}
            | {"line": {"color": colour, "width": 2, "dash": dash}}
        )
        notes.append(
            {
                "x": row.time,
                "yref": "paper",
                "y": 1 - 0.06 * (index % _ROWS),
                "yanchor": "top",
                "xanchor": "left",
                "showarrow": False,
            }
            | {"text": for_plotly(row.text), "xshift": 4, "align": "left"}
        )
    return figure(
        *traces,
        height=420,
        x="time of recording (UTC)",
        y=f"{what} ({unit})" if unit else what,
        hovermode="closest",
        yaxis_exponentformat="SI",
        shapes=shapes,
        annotations=notes,
    )


def value_text(value: float, unit: str) -> str:
    """A value with its unit."""
    if unit == "%":
        return numbers.percent(value)
    return f"{numbers.short(value)}{numbers.THIN}{unit}" if unit else numbers.short(value)
