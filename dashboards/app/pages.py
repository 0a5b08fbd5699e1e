"""From an address to a page: which page, the frame around it, and what is shown where something is wrong."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from iretrace.dashboards.app.components import components
from iretrace.dashboards.app.page import Page
from iretrace.dashboards.app.state import State, address
from iretrace.dashboards.html import Safe, clip, join, tag
from iretrace.dashboards.page import Figures
from iretrace.errors import IretraceError

if TYPE_CHECKING:
    from collections.abc import Callable

    from iretrace.dashboards.app.source import Source

NAV: Final = (
    ("/", "Overview", "overview"),
    ("/trend", "Trend", "trend"),
    ("/run", "Run", "run"),
    ("/compare", "Compare", "compare"),
    ("/timeline", "Timeline", "timeline"),
    ("/policy", "Policies", "policy"),
)
"""Path, name, and module under :mod:`iretrace.dashboards.app` whose ``page`` makes it."""

_KEPT: Final = ("id", "policy")
"""Parameters that links to other pages keep."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A page as components.

    Attributes:
        children: of the element ``page``.
        again: it should be asked for again in a second.
    """

    children: list[Any]
    again: bool


def render(source: Source, path: str, search: str) -> Rendered:
    """A page. What is wrong is said on it; nothing that a store or an address holds takes it down."""
    state = State.parse(path, search)
    try:
        page = _make(path)(source, state)
        children = components(_framed(source, state, page), page.figures)
    except IretraceError as error:
        page = _problem(error)
        children = components(_framed(source, state, page), page.figures)
    except Exception:  # noqa: BLE001 - one page may fail, not the rest
        _log.exception("page %s", path)
        page = Page(
            title="Something went wrong here",
            body=tag("p", "This page could not be made; the terminal that serves it says why. The others still work."),
            figures=Figures(),
        )
        children = components(_framed(source, state, page), page.figures)
    return Rendered(children=children, again=page.again)


def _make(path: str) -> Callable[[Source, State], Page]:
    for known, _, module in NAV:
        if path == known:
            made: Callable[[Source, State], Page] = import_module(f"iretrace.dashboards.app.{module}").page
            return made
    return _unknown


def _unknown(_: Source, state: State) -> Page:
    body = tag("p", "There is no page ", tag("code", clip(state.path)), ".")
    return Page(title="No such page", body=body, figures=Figures())


def _problem(error: IretraceError) -> Page:
    # A file's name is enough for those who ask; where it lies is the operator's.
    where = error.where.rsplit("/", 1)[-1] or error.where
    lines = [tag("p", tag("strong", clip(where)), f": {clip(error.found)}")]
    if error.expected:
        lines.append(tag("p", f"Expected: {clip(error.expected)}"))
    if error.remedy:
        lines.append(tag("p", f"What to do: {clip(error.remedy)}"))
    notice = tag("div", *lines, class_="notice warn", role="alert")
    return Page(title="This cannot be shown", body=notice, figures=Figures())


def _framed(source: Source, state: State, page: Page) -> Safe:
    kept = {name: state.text(name) for name in _KEPT}
    links = [
        tag("a", name, href=address(path, **kept), aria_current="page" if path == state.path else None)
        for path, name, _ in NAV
    ]
    return join(
        tag("nav", tag("strong", "iretrace"), *links, tag("button", "Theme", id="theme"), aria_label="Pages"),
        tag("header", tag("h1", page.title), tag("p", page.subtitle or clip(source.name), class_="sub")),
        tag("main", page.body, id="main", data_title=f"{clip(page.title)} · iretrace", data_page=state.path),
    )
