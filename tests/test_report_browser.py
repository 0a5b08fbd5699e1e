"""The report in a real browser, from file://: drawn, quiet, in both themes, at both widths.

Needs Playwright and a Chromium (``IRETRACE_CHROMIUM`` or one on PATH); skipped without, and a failure instead where
``IRETRACE_BROWSER_TESTS=1``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from iretrace.analysis.study import study
from iretrace.dashboards.report import report
from iretrace.replay.policies import by_name
from iretrace.trace import open_trace
from tests import browser as browsers
from tests.browser import DARK_INK, LIGHT_INK
from tests.sample_trace import write_sample

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's report, on disk; its host has a hostile name."""
    directory = tmp_path_factory.mktemp("browser")
    trace = open_trace(write_sample(directory / "sample.parquet", tags={"x": "</script><script>alert(1)</script>"}))
    path = directory / "sample.report.html"
    path.write_bytes(report(study(trace, by_name("rfc2014"))).encode())
    return path


def visit_report(browser: Any, file: Path, *, width: int, scheme: str) -> browsers.Visit:
    """An opened report."""
    return browsers.Visit(browser, file.as_uri(), width=width, scheme=scheme, ready="html[data-drawn=yes]")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_drawn_quiet_and_within_its_width(browser: Any, file: Path, width: int, scheme: str) -> None:
    """Every figure has its drawing in the theme's ink, nothing is loaded or logged, nothing sticks out."""
    visit = visit_report(browser, file, width=width, scheme=scheme)
    page = visit.page
    assert visit.complaints == []
    assert [url for url in visit.requests if not url.startswith(("data:", "blob:"))] == [file.as_uri()]
    plots = page.locator(".plot")
    assert plots.count() == 9
    for index in range(plots.count()):
        plot = plots.nth(index)
        drawing = plot.locator("svg.main-svg").first.bounding_box()
        assert drawing is not None
        assert 300 < drawing["width"] <= width
        assert plot.locator(".trace, .point").count() > 0
        ink = plot.locator(".xtick text").first.evaluate("e => getComputedStyle(e).fill")
        assert ink == (DARK_INK if scheme == "dark" else LIGHT_INK)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_the_theme_button_turns_page_and_figures(browser: Any, file: Path) -> None:
    """From light to dark and back, by keyboard, and it is remembered."""
    visit = visit_report(browser, file, width=1280, scheme="light")
    page = visit.page
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    assert page.evaluate(ink) == LIGHT_INK
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    page.wait_for_function(f"{ink} === '{DARK_INK}'")
    assert page.evaluate("getComputedStyle(document.body).color") == DARK_INK
    assert page.locator("#theme").inner_text() == "Light theme"
    page.reload()
    page.wait_for_selector("html[data-drawn=yes]")
    assert page.evaluate(ink) == DARK_INK
    page.locator("#theme").click()
    page.wait_for_function(f"{ink} === '{LIGHT_INK}'")
    assert visit.complaints == []
    page.close()


def test_printed_in_dark_ink(browser: Any, file: Path) -> None:
    """Whatever the reader's theme: paper is light. Afterwards the page is as it was."""
    page = visit_report(browser, file, width=1280, scheme="dark").page
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    page.evaluate("""() => {
        const ink = () => getComputedStyle(document.querySelector('.plot .xtick text')).fill;
        window.addEventListener('beforeprint', () => { window.printed = ink(); });
    }""")
    page.pdf()
    assert page.evaluate("window.printed") == LIGHT_INK
    page.wait_for_function(f"{ink} === '{DARK_INK}'")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).color") == LIGHT_INK
    page.close()


def test_data_tables_open_by_keyboard(browser: Any, file: Path) -> None:
    """The summary under a figure takes the focus and opens its table, which takes it too."""
    visit = visit_report(browser, file, width=400, scheme="light")
    page = visit.page
    summary = page.locator("#decisions summary")
    summary.focus()
    page.keyboard.press("Enter")
    table = page.locator("#decisions table")
    assert table.is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Data: How each trap would return"
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.close()


def test_contents_fold_away_on_a_phone(browser: Any, file: Path) -> None:
    """Folded at first, and again after a jump; open beside the text where there is room."""
    phone = visit_report(browser, file, width=400, scheme="light").page
    assert phone.locator("nav details").get_attribute("open") is None
    phone.locator("nav summary").click()
    phone.locator("nav a", has_text="Hazards").click()
    assert phone.locator("nav details").get_attribute("open") is None
    assert phone.url.endswith("#hazards")
    phone.close()
    desk = visit_report(browser, file, width=1280, scheme="light").page
    assert desk.locator("nav a", has_text="Hazards").is_visible()
    desk.close()
