"""Colours, patterns and the layout all figures share.

Decisions and targets use the colour-blind safe palette of Okabe & Ito (2008, https://jfly.uni-koeln.de/color/);
vectors use Paul Tol's "bright" scheme (https://sronpersonalpages.nl/~pault/), so that no vector looks like a decision.
Every colour goes with a pattern or a dash. Figures are transparent; the page's script gives them the colours of text
and grid, because those follow the reader's light or dark theme.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import plotly.graph_objects as go


class Style(NamedTuple):
    """How one thing looks wherever it appears."""

    colour: str
    pattern: str
    dash: str


DECISIONS: Final = {
    "RET": Style("#009E73", "", "solid"),
    "IRET": Style("#D55E00", "/", "dash"),
    "ERETS": Style("#0072B2", ".", "dot"),
    "ERETU": Style("#CC79A7", "x", "dashdot"),
}

TARGETS: Final = {
    "kernel": Style("#56B4E9", "", "solid"),
    "user": Style("#E69F00", "\\", "dash"),
    "unknown": Style("#999999", ".", "dot"),
}

VECTORS: Final = (
    Style("#4477AA", "", "solid"),
    Style("#EE6677", "/", "dash"),
    Style("#228833", ".", "dot"),
    Style("#CCBB44", "\\", "dashdot"),
    Style("#66CCEE", "x", "longdash"),
    Style("#AA3377", "-", "longdashdot"),
)
"""The most frequent vectors, in order."""

OTHERS: Final = Style("#999999", "+", "dot")

NOW: Final = DECISIONS["IRET"]
PROJECTED: Final = DECISIONS["RET"]

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"

CONFIG: Final[dict[str, Any]] = {
    "responsive": True,
    "displaylogo": False,
    "showSendToCloud": False,
    "modeBarButtonsToRemove": ["select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"],
}


def fill(style: Style) -> dict[str, Any]:
    """The marker of a bar: colour, and white pattern over it."""
    return {
        "color": style.colour,
        "pattern": {"shape": style.pattern, "fillmode": "overlay", "fgcolor": "#ffffff", "fgopacity": 0.6, "size": 7},
        "line": {"width": 0},
    }


def figure(*traces: Any, height: int, x: str, y: str = "", **layout: Any) -> go.Figure:  # noqa: ANN401 - plotly's
    """A figure with axis titles (units included) and the shared layout."""
    fig = go.Figure(list(traces))
    axis = {"automargin": True, "gridcolor": "#d0d0d0", "zeroline": False, "linecolor": "#808080"}
    fig.update_layout(
        template="none",
        height=height,
        autosize=True,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": FONT, "size": 13, "color": "#333333"},
        margin={"l": 8, "r": 16, "t": 36, "b": 8},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yanchor": "bottom", "traceorder": "normal"},
        hoverlabel={"font": {"family": FONT, "size": 13}, "align": "left", "namelength": -1},
        xaxis={**axis, "title": {"text": x, "standoff": 8, "font": {"size": 13}}},
        yaxis={**axis, "title": {"text": y, "standoff": 8, "font": {"size": 13}}},
    )
    fig.update_layout(**layout)
    return fig
