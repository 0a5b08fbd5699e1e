"""What mkdocs needs to be told of this repository: pages that the navigation forgot, and files outside ``docs/``.

And a search that works where the site is read from a disk, and the colours of the reader's theme.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.plugins import event_priority
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
_OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put pages that the navigation does not name under "More": every page can be found."""
    named = set(pages_of(config.nav or []))
    left = sorted({path.name for path in (ROOT / "docs").glob("*.md")} - named)
    if left:
        config.nav = [*(config.nav or []), {"More": left}]
    return config


def pages_of(nav: Any) -> list[str]:  # noqa: ANN401 - a nested list of dictionaries
    """Every page that a navigation names."""
    if isinstance(nav, str):
        return [nav]
    items = nav.values() if isinstance(nav, dict) else nav
    return [page for item in items for page in pages_of(item)]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Take files of the repository that pages link to into the site, under ``repository/``, and the style sheet."""
    files.append(File.generated(config, "site.css", content=(HERE / "site.css").read_bytes()))
    for page in (ROOT / "docs").glob("*.md"):
        for target in _OUTSIDE.findall(page.read_text(encoding="utf-8")):
            name = f"repository/{target}.txt"  # as text: a browser shows it
            if (ROOT / target).is_file() and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, content=(ROOT / target).read_bytes()))
    return files


@event_priority(-100)  # when the search has written its own
def on_post_build(config: MkDocsConfig) -> None:
    """Put our search in the place of the one that needs a server."""
    search = Path(config.site_dir) / "search"
    index = (search / "search_index.json").read_text(encoding="utf-8")
    (search / "index.js").write_text(f"window.searchIndex = {index};\n", encoding="utf-8")
    (search / "main.js").write_bytes((HERE / "site_search.js").read_bytes())
    for name in ("worker.js", "search_index.json"):
        (search / name).unlink()


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:  # noqa: ARG001 - mkdocs' signature
    """Let links out of ``docs/`` lead there."""
    return _OUTSIDE.sub(r"](repository/\1.txt", markdown)
