"""The server: what it answers, to whom, and with which headers. Read-only, nothing from other hosts."""

from __future__ import annotations

from importlib import resources
from string import Template
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import dash
import flask
from dash import Input, Output, dcc, html

from iretrace import __version__
from iretrace.dashboards.app.pages import Rendered, render

if TYPE_CHECKING:
    from iretrace.dashboards.app.source import Source

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_UPDATE: Final = "/_dash-update-component"
_PATHS: Final = ("/_dash-component-suites/", "/assets/")
_GET: Final = frozenset({"/_dash-layout", "/_dash-dependencies", "/_favicon.ico", "/_reload-hash"})
PAGES: Final = ("/", "/trend", "/run", "/compare", "/timeline", "/policy")
MAX_BODY: Final = 1 << 20

_CSP: Final = (
    "default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create(source: Source, *, hosts: frozenset[str] = LOOPBACK) -> dash.Dash:
    """The application.

    Args:
        source: the runs and traces it shows.
        hosts: names under which it may be asked (a page of another host that points its name here is refused);
            ``*`` among them: any.
    """
    app = dash.Dash(
        "iretrace.dashboards.app",
        title="iretrace",
        update_title="",
        serve_locally=True,
        compress=False,
        add_log_handler=False,
        assets_folder=str(resources.files("iretrace.dashboards.app").joinpath("assets")),
        meta_tags=[
            {"name": "viewport", "content": "width=device-width, initial-scale=1"},
            {"name": "color-scheme", "content": "light dark"},
        ],
        index_string=Template(_text("app.html")).substitute(
            css=_text("report.css", of="dashboards") + _text("app.css")
        ),
    )
    app.layout = _layout

    @app.callback(
        Output("page", "children"),
        Output("again", "max_intervals"),
        Input("url", "pathname"),
        Input("url", "search"),
        Input("again", "n_intervals"),
    )
    def show(path: str | None, search: str | None, ticks: int | None) -> tuple[list[Any], int]:
        rendered: Rendered = render(source, path or "/", search or "")
        # One tick more, after this answer: a slow server would be asked again before it has answered, for ever.
        return rendered.children, (ticks or 0) + rendered.again

    digests = " ".join(app.csp_hashes())
    _guard(app.server, hosts, _CSP.format(scripts=digests))
    return app


def _layout() -> html.Div:
    return html.Div(
        [
            dcc.Location(id="url", refresh="callback-nav"),
            dcc.Interval(id="again", interval=1000, max_intervals=0),
            html.A("Skip to the page", href="#main", className="skip"),
            html.Div(id="page", className="page app"),
            html.Footer(
                html.P(f"iretrace {__version__}. Everything on this page comes from this machine; it loads nothing."),
            ),
        ]
    )


def _guard(server: flask.Flask, hosts: frozenset[str], policy: str) -> None:
    server.config["MAX_CONTENT_LENGTH"] = MAX_BODY

    @server.before_request
    def only_ours() -> flask.Response | None:
        request = flask.request
        if "*" not in hosts and _host(request.host) not in hosts:
            return _refuse(421, "This dashboard is not asked under that name; see: iretrace dashboard --help")
        return _posted(request) if request.path == _UPDATE else _got(request)

    @server.after_request
    def headers(response: flask.Response) -> flask.Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        return response


def _posted(request: flask.Request) -> flask.Response | None:
    if request.method != "POST":
        return _refuse(405, "only callbacks are posted")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        return _refuse(403, "asked by a page of another host")
    return None


def _got(request: flask.Request) -> flask.Response | None:
    if request.method not in {"GET", "HEAD"}:
        return _refuse(405, "this dashboard only shows")
    plain = "//" not in request.path and ".." not in request.path
    if request.path in PAGES or request.path in _GET or (plain and request.path.startswith(_PATHS)):
        return None
    return _refuse(404, "there is no such page")


def _host(header: str) -> str:
    name = urlsplit(f"//{header}").hostname
    return name or ""


def _refuse(status: int, why: str) -> flask.Response:
    return flask.Response(why + "\n", status, content_type="text/plain; charset=utf-8")


def _text(name: str, *, of: str = "dashboards.app") -> str:
    return resources.files(f"iretrace.{of}").joinpath(name).read_text(encoding="utf-8")
