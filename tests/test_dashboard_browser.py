"""The served dashboard in a real browser: every page drawn and quiet, zooming down to single traps, links that keep.

Needs Playwright and a Chromium, as ``test_report_browser`` does.
"""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from werkzeug.serving import make_server

from benchmarks import stores
from iretrace.commands.dashboard_ import of_traces
from iretrace.dashboards.app.pages import NAV
from iretrace.dashboards.app.server import create
from iretrace.dashboards.app.source import Source
from iretrace.store import open_store
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace
from tests import demo_store
from tests.browser import DARK_INK, LIGHT_INK, Visit, until
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = ROOT / "samples" / "mixed.parquet"
PAGES = [path for path, _, _ in NAV]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A served store of twelve runs, one of them with its trace, and three members that cannot be read."""
    directory = tmp_path_factory.mktemp("served")
    names = stores.fill(directory / "store", 12)
    open_store(directory / "store").add(summarize(open_trace(SAMPLE)))
    demo_store.damage(directory / "store", names[0])
    source = Source(
        open_store(directory / "store", readonly=True), directories=[SAMPLE.parent], cache=directory / "cache"
    )
    server = make_server("127.0.0.1", 0, create(source).server, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def visit(browser: Any, address: str, **how: Any) -> Visit:
    """An opened page, drawn."""
    visited = Visit(browser, address, ready="main[data-page]", **how)
    settle(visited.page)
    return visited


def settle(page: Any) -> None:
    """Wait until every place for a figure has its drawing."""
    until(
        page,
        "!!document.querySelector('main[data-page]') && [...document.querySelectorAll('.plot')]"
        ".every(e => e.querySelector('svg.main-svg .trace, svg.main-svg .point'))",
    )


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (1280, "dark")])
def test_every_page_is_drawn_quiet_and_within_its_width(browser: Any, address: str, width: int, scheme: str) -> None:
    """Nothing logged, nothing loaded from elsewhere, nothing sticking out, figures in the theme's ink."""
    for path in PAGES:
        visited = visit(browser, address + path, width=width, scheme=scheme)
        page = visited.page
        assert visited.complaints == [], path
        here = urlsplit(address).netloc
        assert {urlsplit(url).netloc for url in visited.requests if not url.startswith(("data:", "blob:"))} == {here}
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        assert "went wrong" not in page.locator("main").inner_text()
        for plot in page.locator(".plot").all():
            ink = plot.locator(".xtick text").first.evaluate("e => getComputedStyle(e).fill")
            assert ink == (DARK_INK if scheme == "dark" else LIGHT_INK)
            assert plot.locator(".xtitle").count() == 1
            assert plot.get_attribute("aria-label")
            figure = plot.locator("xpath=ancestor::figure")
            assert figure.locator("details table").count() == 1
        page.close()


def newest(page: Any) -> str:
    """The run whose trace is there."""
    return str(
        page.evaluate(
            "[...document.querySelectorAll('select[name=id] option')].map(o => o.value).find(v => v.includes('T'))"
        )
    )


def test_zooming_reveals_single_nested_traps(browser: Any, address: str) -> None:
    """From the whole recording by dragging and by keys to single traps; their places are in the address."""
    first = visit(browser, f"{address}/timeline")
    run = newest(first.page)
    first.page.close()
    visited = visit(browser, f"{address}/timeline?id={run}")
    page = visited.page
    assert page.locator(".plot .bars .point").count() == 0
    whole = page.url
    box = page.locator(".plot .nsewdrag").first.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.52 * box["width"], box["y"] + 20, steps=5)
    page.mouse.up()
    page.wait_for_url("**span=*")
    settle(page)
    for _ in range(12):
        if page.locator(".plot .bars .point").count():
            break
        before = page.url
        page.locator("body").press("+")
        until(page, f"location.href !== {json.dumps(before)}")
        until(page, "document.querySelector('[data-at]').dataset.at === new URL(location.href).searchParams.get('at')")
        settle(page)
    assert page.locator(".plot .bars .point").count() > 0
    table = page.locator("figure table")
    assert "Traps below" in table.inner_text() or "Traps below" in table.text_content()
    caption = page.locator("figcaption").inner_text()
    assert "single traps" in caption
    deep = page.url
    # The address is all there is to it: somebody else sees the same.
    other = visit(browser, deep)
    assert other.page.locator("figcaption").inner_text() == caption
    assert other.page.locator(".plot .bars .point").count() == page.locator(".plot .bars .point").count()
    other.page.close()
    # And the way back is the browser's.
    while page.url != whole:
        page.go_back()
    until(page, "document.querySelector('figcaption strong')?.textContent.startsWith('The whole')")
    assert visited.complaints == []
    page.close()


def test_links_and_choices_restore_their_state(browser: Any, address: str) -> None:
    """A choice changes the address; the address opened anew shows the choice; a reload does too."""
    visited = visit(browser, f"{address}/trend")
    page = visited.page
    page.locator("select[name=measure]").select_option("ret_pct")
    page.wait_for_url("**measure=ret_pct*")
    until(page, "document.querySelector('.plot .ytitle')?.textContent.includes('RET')")
    page.locator("select[name=policy]").select_option("rfc2014-fixed")
    page.wait_for_url("**policy=rfc2014-fixed*")
    again = visit(browser, page.url)
    assert again.page.locator("select[name=measure]").input_value() == "ret_pct"
    assert again.page.locator("select[name=policy]").input_value() == "rfc2014-fixed"
    assert "RET" in again.page.locator(".plot .ytitle").text_content()
    again.page.reload()
    settle(again.page)
    assert again.page.locator("select[name=measure]").input_value() == "ret_pct"
    assert visited.complaints == again.complaints == []
    again.page.close()
    page.close()


def test_a_click_on_a_point_leads_to_its_run(browser: Any, address: str) -> None:
    """From the trend to the run that makes it."""
    visited = visit(browser, f"{address}/trend")
    page = visited.page
    page.evaluate("document.querySelector('.js-plotly-plot').scrollIntoView()")
    point = page.locator(".plot .scatterlayer .point").nth(3)
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hoverlayer .hovertext")
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_url("**/run?id=*")
    page.wait_for_selector("main[data-page='/run']")
    settle(page)
    assert page.locator("section#answer").count() == 1
    assert visited.complaints == []
    page.close()


def test_the_theme_turns_and_is_remembered(browser: Any, address: str) -> None:
    """By keyboard, figures too, on other pages as well."""
    visited = visit(browser, f"{address}/policy")
    page = visited.page
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    assert page.evaluate(ink) == LIGHT_INK
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    until(page, f"{ink} === '{DARK_INK}'")
    page.locator("nav a", has_text="Trend").click()
    page.wait_for_selector("main[data-page='/trend']")
    settle(page)
    assert page.evaluate(ink) == DARK_INK
    page.close()


def test_everything_is_reached_by_keyboard(browser: Any, address: str) -> None:
    """Skip link, navigation, theme, choices, buttons and tables take the focus in this order."""
    visited = visit(browser, f"{address}/timeline")
    page = visited.page
    run = newest(page)
    page.goto(f"{address}/timeline?id={run}")
    page.wait_for_selector("main[data-page]")
    settle(page)
    seen = []
    for _ in range(24):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("(e => e.id || e.name || e.dataset.key || e.tagName.toLowerCase())(document.activeElement)")
        )
    assert [name for name in seen if name in {"theme", "id", "policy", "cpus", "+", "summary"}] == [
        "theme", "id", "policy", "cpus", "+", "summary",
    ]  # fmt: skip
    page.close()


def test_a_single_trace_needs_no_store(browser: Any) -> None:
    """``iretrace dashboard TRACE`` shows its run and its timeline."""
    server = make_server("127.0.0.1", 0, create(of_traces([SAMPLE])).server, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        visited = visit(browser, f"http://127.0.0.1:{server.server_port}/timeline")
        assert "returns, counted" in visited.page.locator("figcaption").inner_text()
        assert visited.complaints == []
        visited.page.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
