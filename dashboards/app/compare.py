"""The page that compares two runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from iretrace.dashboards.app.page import Page
from iretrace.dashboards.html import tag

if TYPE_CHECKING:
    from iretrace.dashboards.app.source import Source
    from iretrace.dashboards.app.state import State


def page(_source: Source, _state: State) -> Page:
    """Two runs beside each other."""
    return Page(title="Compare", body=tag("p", "Compare runs with: iretrace compare."))
