"""The dashboard without a browser: what each address gives, and what the server refuses."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import stores
from iretrace.dashboards.app.components import components
from iretrace.dashboards.app.pages import NAV, render
from iretrace.dashboards.app.server import create
from iretrace.dashboards.app.source import Source
from iretrace.dashboards.app.state import State
from iretrace.dashboards.html import Safe, join, tag
from iretrace.dashboards.page import Figures
from iretrace.store import open_store
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace
from tests import demo_store
from tests.sample_trace import write_sample

if TYPE_CHECKING:
    from pathlib import Path

    from iretrace.store import Store

EVIL = "</script><img src=x onerror=alert(1)>"
PAGES = [path for path, _, _ in NAV]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a trace, a store of ten runs, and three members that cannot be read."""
    directory = tmp_path_factory.mktemp("dashboard")
    trace = write_sample(directory / "sample.parquet", tags={"x": EVIL, "workload": EVIL})
    names = stores.fill(directory / "store", 10, trace=trace)
    open_store(directory / "store").add(summarize(open_trace(trace)))
    demo_store.damage(directory / "store", names[0])
    return directory


@pytest.fixture(scope="module")
def source(place: Path) -> Source:
    """The store and the directory of its trace."""
    return Source(open_store(place / "store", readonly=True), directories=[place], cache=place / "cache")


@pytest.fixture
def client(source: Source) -> Any:
    """A client of the served application."""
    return create(source).server.test_client()


def shown(source: Source, address: str) -> str:
    """A page as the JSON that a browser gets."""
    path, _, search = address.partition("?")
    children = render(source, path, search).children
    return json.dumps([child.to_plotly_json() for child in children], default=_plain, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_plotly_json"):
        return value.to_plotly_json()
    return value.tolist() if hasattr(value, "tolist") else str(value)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_made(source: Source, path: str) -> None:
    """Of the newest run, without a parameter, and with its axis titles and tables."""
    text = shown(source, path)
    assert "Something went wrong" not in text
    assert "This cannot be shown" not in text


def test_unreadable_members_are_named_and_the_rest_is_shown(source: Source) -> None:
    """A truncated file, a file of a newer schema and one of zero bytes, on the overview."""
    text = shown(source, "/")
    for name, reason in {
        "truncated.parquet": "truncated",
        "empty.parquet": "zero bytes",
        "newer.parquet": "schema 9",
    }.items():
        assert name in text
        assert reason in text
    assert "3\u202fruns cannot be read" in text
    assert "truncated" in shown(source, "/run?id=truncated")


@pytest.mark.slow
def test_a_run_that_breaks_while_it_is_served(place: Path, tmp_path: Path) -> None:
    """What was read before and is damaged since is said to be so; other pages go on."""
    names = stores.fill(tmp_path / "store", 3, trace=place / "sample.parquet")
    source = Source(open_store(tmp_path / "store", readonly=True))
    assert names[1] in shown(source, "/")
    (tmp_path / "store" / "runs" / f"{names[1]}.parquet").write_bytes(b"PAR1 gone")
    for path in ("/run", "/policy", "/timeline", "/compare"):
        assert "went wrong" not in shown(source, f"{path}?id={names[1]}")
    assert "cannot be" in shown(source, f"/run?id={names[1]}")
    assert names[2] in shown(source, f"/run?id={names[2]}")


@pytest.mark.parametrize("path", PAGES)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.dictionaries(
        st.sampled_from(["id", "policy", "at", "span", "cpus", "measure", "vector", "host", "workload", "base", "new"]),
        st.one_of(st.text(max_size=30), st.integers().map(str), st.sampled_from(["rfc2014", "-1", "../../etc/passwd"])),
    )
)
@pytest.mark.slow
def test_no_address_takes_a_page_down(source: Source, path: str, values: dict[str, str]) -> None:
    """Whatever its parameters say, there is a page, or a sentence on one."""
    from urllib.parse import urlencode  # noqa: PLC0415

    text = shown(source, f"{path}?{urlencode(values)}")
    assert "went wrong" not in text


@pytest.mark.parametrize(
    "name",
    ["../../../etc/passwd", "..%2f..%2fsample", "/etc/passwd", "store/runs/x", "sample.parquet", "file:///etc/passwd"],
)
def test_no_path_can_be_asked_for(source: Source, name: str) -> None:
    """Names that no run has are no runs, whatever lies there."""
    for path in ("/run", "/timeline", "/policy"):
        assert "there is no such run" in shown(source, f"{path}?id={name}")


def test_a_trace_is_found_only_where_the_operator_said(place: Path, tmp_path: Path) -> None:
    """By name and digest below the named directories; a file of that name with another recording is not it."""
    store: Store = open_store(place / "store", readonly=True)
    run = next(name for name in store.ids() if "T" in name)
    assert Source(store).trace(run) is None
    assert Source(store, directories=[tmp_path]).trace(run) is None
    write_sample(tmp_path / "sample.parquet", tags={"another": "recording"})
    assert Source(store, directories=[tmp_path]).trace(run) is None
    assert Source(store, directories=[place]).trace(run) == place / "sample.parquet"


def test_strings_of_a_trace_stay_text(source: Source) -> None:
    """Tags and hosts cannot become elements: no component but our own, and tables are escaped."""
    text = shown(source, "/") + shown(source, "/run") + shown(source, "/trend")
    assert "onerror" in text
    for html in re.findall(r'"data-html": "((?:[^"\\]|\\.)*)"', text):
        assert "<img" not in html
    assert '"type": "Img"' not in text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 200),
        ("GET", "/run", 200),
        ("GET", "/_dash-layout", 200),
        ("GET", "/assets/app.js", 200),
        ("GET", "/assets/../app.html", 404),
        ("GET", "/assets/%2e%2e/server.py", 404),
        ("GET", "/assets//etc/passwd", 404),
        ("GET", "/_dash-component-suites/dash/../../../../etc/passwd", 404),
        ("GET", "/etc/passwd", 404),
        ("GET", "/runs/x.parquet", 404),
        ("GET", "/_dash-update-component", 405),
        ("POST", "/", 405),
        ("PUT", "/run", 405),
        ("DELETE", "/run", 405),
        ("OPTIONS", "/run", 405),
        ("POST", "/_alive_x", 405),
    ],
)
def test_only_pages_and_callbacks_are_answered(client: Any, method: str, path: str, status: int) -> None:
    """Everything else is refused, and nothing is served from outside of the package."""
    answer = client.open(path, method=method, headers={"Host": "localhost:8050"})
    text = answer.get_data(as_text=True)
    answer.close()
    assert answer.status_code == status
    assert "root:" not in text


@pytest.mark.parametrize(
    ("host", "fine"),
    [
        ("localhost:8050", True),
        ("127.0.0.1:8050", True),
        ("[::1]:8050", True),
        ("evil.example:8050", False),
        ("", False),
    ],
)
def test_other_names_are_refused(client: Any, host: str, fine: bool) -> None:  # noqa: FBT001 - a parameter
    """A page elsewhere that points its name at this machine gets nothing (DNS rebinding)."""
    answer = client.get("/", headers={"Host": host})
    assert (answer.status_code == 200) == fine


def test_callbacks_of_other_pages_are_refused(client: Any) -> None:
    """A form or script of another origin is not answered."""
    for origin, status in (("http://evil.example", 403), ("http://localhost:9999", 403)):
        answer = client.post("/_dash-update-component", json={}, headers={"Host": "localhost:8050", "Origin": origin})
        assert answer.status_code == status


def test_headers_forbid_what_is_not_ours(client: Any) -> None:
    """Scripts from here alone, no frames, no other host."""
    answer = client.get("/", headers={"Host": "localhost"})
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-eval" not in policy
    assert "http:" not in policy
    assert not re.search(r"""(?:src|href)=["']?https?://""", answer.get_data(as_text=True))


def test_an_address_is_read_with_care() -> None:
    """Numbers are numbers, lists are bounded, the last of repeated ones counts."""
    state = State.parse("/timeline", "?at=-5&span=1e9&cpus=0-3,8,x,70000-,9-7&id=a&id=b")
    assert state.number("at") == -5
    assert state.number("span") is None
    assert state.numbers("cpus") == (0, 1, 2, 3, 8)
    assert state.text("id") == "b"
    assert State.parse("/", "?" + "a=1&" * 9999).values == {}
    assert state.link(at=7, span=None) == "/timeline?at=7&cpus=0-3%2C8%2Cx%2C70000-%2C9-7&id=b"


def test_html_becomes_components_and_stays_escaped() -> None:
    """Text is text, tables stay as they were written, and what is not ours is refused."""
    document = join(tag("p", EVIL, class_="x"), tag("table", tag("tr", tag("td", EVIL))))
    paragraph, table = components(document, Figures())
    assert paragraph.children == [EVIL]
    assert paragraph.className == "x"
    assert "<img" not in table.to_plotly_json()["props"]["data-html"]
    for bad in ("<script>x</script>", "<p onclick='x'>y</p>", "<iframe></iframe>", "<p><div></p></div>"):
        with pytest.raises(ValueError, match=r"<|attribute"):
            components(Safe(bad), Figures())
