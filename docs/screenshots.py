"""Pictures of the report and the dashboard for the README, from the recorded sample and a made-up store.

Usage: make screenshots
"""

from __future__ import annotations

import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from werkzeug.serving import make_server

from benchmarks import stores, traces
from benchmarks.common import ROOT
from benchmarks.traces import SAMPLE
from iretrace.analysis.study import study
from iretrace.commands.dashboard_ import quiet_handler
from iretrace.dashboards.app.server import create
from iretrace.dashboards.app.source import Source
from iretrace.dashboards.report import report
from iretrace.replay.policies import RFC2014
from iretrace.store import open_store
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace
from tests import browser as browsers

if TYPE_CHECKING:
    from collections.abc import Iterator

TARGET: Final = ROOT / "docs" / "pictures"
WIDTH, HEIGHT = 1000, 600
RUNS: Final = 45
EVENTS: Final = 400_000

_QUIET = "![...document.querySelectorAll('main')].some(e => /eing looked for|being built/.test(e.textContent))"


def main() -> None:
    """Serve, look, and write the pictures."""
    TARGET.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name, browsers.playwright() as playwright:
        directory = Path(name)
        browser = playwright.chromium.launch(executable_path=browsers.CHROMIUM, args=browsers.ARGUMENTS)
        page = directory / "sample.report.html"
        page.write_bytes(report(study(open_trace(SAMPLE), RFC2014)).encode())
        _take(browser, f"{page.as_uri()}", "report", ready="html[data-drawn=yes]")
        with _served(directory) as (address, run, sample, names):
            series = urlencode({"workload": open_trace(SAMPLE).footer.tags["workload"]})
            _take(browser, f"{address}/", "overview", scheme="dark", scroll="h2")
            _take(browser, f"{address}/trend?{series}", "trend", scroll="figure")
            _take(browser, f"{address}/timeline?id={sample}", "timeline", scheme="dark", scroll="figure")
            near = f"{address}/timeline?id={run}&at=30000000&span=60000"
            _take(browser, near, "timeline-traps", scroll="figure")
            _take(browser, f"{address}/policy?id={sample}", "policies")
            _take(browser, f"{address}/compare?id={names[33]}&base={names[27]}", "compare", scheme="dark", scroll="h3")
        browser.close()


@contextmanager
def _served(directory: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    names = stores.fill(directory / "fleet", RUNS, hosts=stores.HOSTS, seed=4)
    traces.write(directory / "eight.parquet", EVENTS)
    fleet = open_store(directory / "fleet")
    run, sample = (fleet.add(summarize(open_trace(path))) for path in (directory / "eight.parquet", SAMPLE))
    store = open_store(directory / "fleet", readonly=True)
    source = Source(store, directories=[directory, SAMPLE.parent], cache=directory / "cache", name="fleet/")
    server = make_server("127.0.0.1", 0, create(source).server, threaded=True, request_handler=quiet_handler())
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", run, sample, names
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _take(  # noqa: PLR0913 - what a picture is
    browser: Any,  # noqa: ANN401 - Playwright's
    address: str,
    name: str,
    *,
    scheme: str = "light",
    ready: str = "main[data-page]",
    scroll: str = "",
) -> None:
    visit = browsers.Visit(browser, address, width=WIDTH, scheme=scheme, ready=ready)
    page = visit.page
    page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
    browsers.until(page, "[...document.querySelectorAll('.plot')].every(e => e.querySelector('svg.main-svg'))")
    browsers.until(page, _QUIET, seconds=600)
    if scroll:
        page.evaluate(f"document.querySelector('main {scroll}').scrollIntoView()")
    page.wait_for_timeout(500)
    page.screenshot(path=TARGET / f"{name}.png")
    if visit.complaints:
        raise SystemExit(f"{address}: {visit.complaints}")
    page.close()


if __name__ == "__main__":
    main()
