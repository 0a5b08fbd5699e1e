"""docs/api.md is a notebook: its blocks run, and print what stands below them."""

from __future__ import annotations

import runpy

import pandas as pd
import pytest

from tests.conftest import ROOT

OPTIONS = ("display.width", "display.max_columns", "display.max_colwidth")


@pytest.mark.slow
def test_the_page_prints_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of the page, in one namespace, on the sample."""
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    run = runpy.run_path(str(ROOT / "docs" / "notebook.py"))["run"]
    with pd.option_context(*(item for option in OPTIONS for item in (option, pd.get_option(option)))):
        assert run(page) == page, "run: python docs/notebook.py docs/api.md"


def test_a_page_is_written_anew() -> None:
    """What is printed goes below its block, in place of what stood there; silent blocks get nothing."""
    run = runpy.run_path(str(ROOT / "docs" / "notebook.py"))["run"]
    page = "a\n\n```python\nx = 1\n```\n\nb\n\n```python\nprint(x + 1)\n```\n\n```text\nold\n```\n\nc\n"
    assert run(page) == page.replace("old", "2")
    assert run("```python\nprint(3)\n```\n") == "```python\nprint(3)\n```\n\n```text\n3\n```\n"
