"""The documentation says what the code does: generated pages are current, links lead somewhere, names appear."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from iretrace.verbs import VERBS
from tests.conftest import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def test_the_reference_is_current() -> None:
    """docs/reference.md is what docs/generate.py makes of the code as it is."""
    # In a process of its own: click keeps a command's help option as it was first asked for.
    program = "import runpy; print(runpy.run_path('docs/generate.py')['reference'](), end='')"
    made = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=True
    ).stdout
    assert (ROOT / "docs" / "reference.md").read_text() == made, "run: python docs/generate.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page points to a file of the repository."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_verb_is_in_the_readme() -> None:
    """A newcomer finds each verb named in the README."""
    text = (ROOT / "README.md").read_text()
    for verb in VERBS:
        assert f"iretrace {verb.name}" in text, verb.name
