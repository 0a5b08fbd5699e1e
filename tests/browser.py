"""A Chromium for tests (``IRETRACE_CHROMIUM`` or one on PATH), and visits that keep what a page complained of."""

from __future__ import annotations

import os
import shutil
import time
from typing import Any

import pytest

CHROMIUM = os.environ.get("IRETRACE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-background-networking", "--disable-quic", "--no-first-run"]
REQUIRED = os.environ.get("IRETRACE_BROWSER_TESTS") == "1"
DARK_INK, LIGHT_INK = "rgb(228, 231, 234)", "rgb(28, 33, 38)"


def playwright() -> Any:
    """Playwright's entry; skips where it or a Chromium is missing, fails where the tests are required."""
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415
    except ImportError:
        if REQUIRED:
            raise
        pytest.skip("Playwright is not installed")
    if CHROMIUM is None:
        if REQUIRED:
            pytest.fail("no Chromium on PATH")
        pytest.skip("no Chromium on PATH; name one in IRETRACE_CHROMIUM")
    return sync_playwright()


class Visit:
    """An opened page and all that it complained of.

    Attributes:
        complaints: console messages, errors, dialogs and failed requests.
        requests: addresses asked for.
    """

    def __init__(self, browser: Any, address: str, *, width: int = 1280, scheme: str = "light", ready: str) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("response", lambda r: self.complaints.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        self.page.goto(address)
        self.page.wait_for_selector(ready, timeout=60_000)


def until(page: Any, expression: str, *, seconds: float = 60.0) -> None:
    """Wait until an expression holds. Playwright's own way evaluates it in the page, which our pages forbid."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        if time.monotonic() > end:
            pytest.fail(f"never: {expression}")
        page.wait_for_timeout(30)
