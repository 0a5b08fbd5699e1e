"""The site builds without a complaint, has every page, and each command line that a page shows is one that exists."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest
import yaml

from iretrace.cli import iretrace
from iretrace.verbs import VERBS
from tests import browser as browsers
from tests.conftest import ROOT, RunIretrace

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
OPERATORS = {"|", "||", "&&", ";", ">", ">>", "2>", "&"}


def blocks(text: str) -> Iterator[str]:
    """Fenced and indented code blocks of a page."""
    yield from re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    yield from re.findall(r"(?:^ {4}.*\n)+", text, re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Command lines of iretrace that a page shows; a help text's remarks after two spaces, and its prose, are not."""
    found = []
    for block in blocks(page.read_text(encoding="utf-8").replace("\\\n", " ")):
        for line in block.splitlines():
            shown = re.match(r"\s*(?:\$ )?(?:sudo )?(iretrace [a-z].*)", line)
            if shown and not re.search(r"[a-z]\.$", shown[1]) and not re.search(r" {3,}", shown[1].split("  ")[0]):
                found.append(re.split(r" {2,}(?![\"'])", shown[1])[0])
    return found


SHOWN = sorted({(page.name, line) for page in PAGES if page.name != "CHANGELOG.md" for line in commands(page)})


def test_pages_show_commands() -> None:
    """Enough of them are found for the next test to mean something."""
    assert len(SHOWN) > 60
    assert {line.split()[1] for _, line in SHOWN} >= {verb.name for verb in VERBS} - {"top"}


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=[f"{page}: {line}" for page, line in SHOWN])
def test_shown_command_is_one_that_exists(page: str, line: str) -> None:
    """Each verb, option and choice that a page shows is accepted; nothing is run."""
    assert page
    words: list[str] = []
    for word in shlex.split(line.replace("…", "").replace("...", ""), comments=True)[1:]:
        if word in OPERATORS:
            break
        words.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    name = words.pop(0)
    assert name in {verb.name for verb in VERBS}, f"there is no verb {name}"
    command: click.Command = importlib.import_module({verb.name: verb.module for verb in VERBS}[name]).command
    with click.Context(iretrace, info_name="iretrace") as parent:
        try:
            context = command.make_context(name, list(words), parent=parent) if words else None
        except click.BadParameter as error:
            assert "does not exist" in error.format_message()  # noqa: PT017 - a file of the reader's
            return
        if isinstance(command, click.Group) and context is not None:
            sub = command.get_command(context, words[0])
            assert sub is not None, words[0]
            sub.make_context(words[0], words[1:], parent=context)


def test_the_tutorial_runs(tmp_path: Path, run_iretrace: RunIretrace) -> None:
    """What the tutorial has one type works in that order, but for recording, for which the sample stands."""
    shutil.copy(ROOT / "samples" / "mixed.parquet", tmp_path / "run.parquet")
    typed = [line for line in commands(ROOT / "docs" / "tutorial.md") if line.split()[1] not in ("doctor", "collect")]
    assert len(typed) >= 6
    for line in typed:
        done = run_iretrace(*shlex.split(line)[1:], check=False)
        assert done.returncode == (1 if line.startswith("iretrace check") else 0), (line, done.stderr)
    assert {path.name for path in tmp_path.iterdir()} >= {"run.html", "run.pftrace"}


def build(directory: Path) -> None:
    """Build the site."""
    # Not --quiet: it hides warnings from --strict too.
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_site_builds_and_has_every_page(tmp_path: Path) -> None:
    """Strictly: no link leads nowhere, no anchor is missing, no page is left out."""
    build(tmp_path / "site")
    for page in (ROOT / "docs").glob("*.md"):
        assert (tmp_path / "site" / f"{page.stem}.html").exists()
    home = (tmp_path / "site" / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f'href="{page.stem}.html' in home, f"{page.name} is not in the navigation"


@pytest.mark.browser
def test_the_site_is_searched_from_a_disk(tmp_path: Path) -> None:
    """Without a server: words, beginnings of words, options; nothing is asked of the network, nothing complains."""
    build(tmp_path / "site")
    with browsers.playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browsers.CHROMIUM, args=browsers.ARGUMENTS)
        address = (tmp_path / "site" / "search.html").as_uri()
        visit = browsers.Visit(browser, f"{address}?q=ring-full", ready="#mkdocs-search-results h3")
        for words, found in (("recor", "iretrace collect"), ("--store", "A store of runs: iretrace runs")):
            visit.page.fill("#mkdocs-search-query", words)
            headings = "[...document.querySelectorAll('#mkdocs-search-results h3')].map(e => e.textContent)"
            browsers.until(visit.page, f"{headings}.includes({found!r})")
        visit.page.fill("#mkdocs-search-query", "xyzzy")
        browsers.until(visit.page, "document.querySelector('#mkdocs-search-results').textContent == 'No results found'")
        assert visit.complaints == []
        assert all(request.startswith(("file:", "data:")) for request in visit.requests)
        browser.close()


def test_the_navigation_names_pages_that_are_there() -> None:
    """The file mkdocs.yml names no page that is gone."""
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    for name in re.findall(r"[\w-]+\.md", str(settings["nav"])):
        assert (ROOT / "docs" / name).exists(), name
