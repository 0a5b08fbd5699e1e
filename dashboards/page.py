"""Assembles sections and figures into one HTML file that loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Final

from plotly.offline import get_plotlyjs

from iretrace import __version__
from iretrace.dashboards.html import Child, Safe, clip, join, script_json, tag, text
from iretrace.dashboards.tables import scrolling
from iretrace.dashboards.theme import CONFIG

if TYPE_CHECKING:
    import plotly.graph_objects as go

_CSP: Final = (
    "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""Scripts run only if their digest is named here, so that no string of a trace could become one. plotly.js writes
its styles into the page, which takes 'unsafe-inline', and makes images of figures as data: and blob:."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report.

    Attributes:
        id: its anchor.
        title: its heading.
        body: its HTML.
    """

    id: str
    title: str
    body: Safe


class Figures:
    """Collects the figures of a page while its sections are written.

    Attributes:
        plots: figures by the id of the element that they are drawn in.
    """

    def __init__(self) -> None:
        self.plots: dict[str, go.Figure] = {}

    def add(  # noqa: PLR0913 - a figure is all of these
        self, id_: str, title: str, caption: Child, *, plot: go.Figure, data: Safe, summary: str
    ) -> Safe:
        """A figure with its caption and, folded away, the table of its data.

        Args:
            id_: anchor; the drawing's element is called ``plot-`` and this.
            title: what it shows, a few words.
            caption: how to read it, in plain words.
            plot: the figure.
            data: an HTML table of its data.
            summary: its label for those who do not see it: what there is to see.
        """
        self.plots[f"plot-{id_}"] = plot
        return tag(
            "figure",
            tag("figcaption", tag("strong", title), caption),
            tag(
                "div",
                id=f"plot-{id_}",
                class_="plot",
                role="img",
                aria_label=summary,
                style=f"min-height:{plot.layout.height}px",
            ),
            tag("details", tag("summary", "Data of this figure"), scrolling(data, f"Data: {title}")),
            id=id_,
        )

    def to_json(self) -> str:
        """``{element: {"data": …, "layout": …}}``."""
        parts = [f"{json.dumps(name)}:{plot.to_json()}" for name, plot in self.plots.items()]
        return "{" + ",".join(parts) + "}"


def render(*, title: str, heading: str, subtitle: Child, sections: list[Section], figures: Figures) -> str:
    """The whole page."""
    scripts = {"plotly": get_plotlyjs(), "script": _asset("report.js")}
    digests = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts.values())
    return Template(_asset("report.html")).substitute(
        scripts,
        csp=_CSP.format(scripts=digests),
        css=_asset("report.css"),
        version=__version__,
        title=text(clip(title)),
        heading=text(clip(heading)),
        subtitle=text(subtitle) if subtitle is not None else "",
        contents=join(*(tag("li", tag("a", s.title, href=f"#{s.id}")) for s in sections)),
        body=join(*(tag("section", tag("h2", s.title), s.body, id=s.id) for s in sections)),
        figures=script_json(figures.to_json()),
        config=script_json(json.dumps(CONFIG)),
    )


def _asset(name: str) -> str:
    return resources.files("iretrace.dashboards").joinpath(name).read_text(encoding="utf-8")


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
