"""From our own HTML to Dash components, so that the report's sections serve the dashboard too.

The HTML is what :mod:`iretrace.dashboards.html` makes: every string in it is escaped there and unescaped here, once,
and reaches the browser as text. Elements and attributes that are not listed are refused. Tables stay HTML, which
``app.js`` puts in its place: they have thousands of cells, and a component a cell takes the browser minutes.
"""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any, Final, cast

from dash import dcc, html

from iretrace.dashboards.theme import CONFIG

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from iretrace.dashboards.html import Safe
    from iretrace.dashboards.page import Figures

_VOID: Final = frozenset({"br"})

_TAGS: Final = {
    name: getattr(html, name.capitalize())
    for name in (
        *("h1", "h2", "h3", "header", "main", "nav", "section", "details", "summary", "figure", "figcaption", "div"),
        *("p", "blockquote", "pre", "code", "kbd", "q", "small", "span", "strong", "br", "ol", "ul", "li"),
        *("dl", "dt", "dd", "button", "label", "select", "option", "progress"),
    )
}

_NAMES: Final = {"class": "className", "tabindex": "tabIndex", "colspan": "colSpan", "for": "htmlFor"}
_PLAIN: Final = frozenset(
    {"id", "role", "scope", "open", "selected", "value", "max", "name", "title", "hidden", "label"}
)


def components(document: Safe, figures: Figures) -> list[Any]:
    """Components of an HTML fragment; the places that ``figures`` holds a figure for become graphs.

    Raises:
        ValueError: an element or attribute that our pages do not have.
    """
    builder = _Builder(figures.plots)
    builder.feed(document)
    builder.close()
    return builder.finish()


class _Builder(HTMLParser):
    def __init__(self, plots: dict[str, go.Figure]) -> None:
        super().__init__(convert_charrefs=True)
        self._plots = plots
        self._stack: list[tuple[str, dict[str, Any], list[Any]]] = [("", {}, [])]
        self._table: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if self._table or tag == "table":
            self._table.append(self.get_starttag_text() or "")
            return
        self._stack.append((tag, _attributes(attrs), []))
        if tag in _VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._table:
            self._table.append(f"</{tag}>")
            if tag == "table":
                attributes: dict[str, Any] = {"data-html": "".join(self._table)}
                self._stack[-1][2].append(html.Div(**attributes))
                self._table = []
            return
        name, attributes, children = self._stack.pop()
        if name != tag:
            raise ValueError(f"</{tag}> closes <{name}>")
        self._stack[-1][2].append(self._made(name, attributes, children))

    def handle_data(self, data: str) -> None:
        if self._table:
            self._table.append(escape(data, quote=False))
            return
        self._stack[-1][2].append(data)

    def finish(self) -> list[Any]:
        ((_, _, children),) = self._stack
        return children

    def _made(self, name: str, attributes: dict[str, Any], children: list[Any]) -> Any:  # noqa: ANN401 - a component
        plot = self._plots.get(attributes.get("id", ""))
        if plot is not None:
            # The graph fills the element that names it for those who do not see it.
            height = {"height": f"{plot.layout.height}px"}
            graph = dcc.Graph(figure=plot, config=cast("Any", CONFIG), responsive=True, style=height)
            return html.Div([graph], **attributes)
        if name == "a":
            href = attributes.pop("href", "")
            return html.A(children, href=href, **attributes)
        made = _TAGS.get(name)
        if made is None:
            raise ValueError(f"<{name}>")
        if name in {"option", "select"}:
            attributes["key"] = f"{attributes.get('value')}{attributes.get('selected', '')}"
        return made(**attributes) if name in _VOID else made(children, **attributes)


def _attributes(attrs: list[tuple[str, str | None]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in attrs:
        if name == "style":
            found["style"] = dict(_style(part) for part in (value or "").split(";") if part)
        elif name in _NAMES:
            found[_NAMES[name]] = value
        elif name in _PLAIN or name == "href" or name.startswith(("aria-", "data-")):
            found[name] = True if value is None else value
        else:
            raise ValueError(f"attribute {name}")
    return found


def _style(part: str) -> tuple[str, str]:
    name, _, value = part.partition(":")
    first, *rest = name.strip().split("-")
    return first + "".join(word.capitalize() for word in rest), value.strip()
