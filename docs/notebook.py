"""Runs the Python blocks of a page, one after the other in one namespace, and writes below each what it printed.

Usage: python docs/notebook.py docs/api.md, from the top of the repository (tests/test_api_page.py holds the page and
the code together)
"""

from __future__ import annotations

import io
import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n.*?^```\n)?", re.MULTILINE | re.DOTALL)


def run(page: str) -> str:
    """The page, with what its blocks print now."""
    namespace: dict[str, Any] = {"__name__": "notebook"}

    def again(match: re.Match[str]) -> str:
        code, printed = match["code"], io.StringIO()
        with redirect_stdout(printed):
            exec(compile(code, "<page>", "exec"), namespace)  # noqa: S102 - the repository's own page
        lines = [line.rstrip() for line in printed.getvalue().splitlines()]
        output = "\n```text\n" + "".join(f"{line}\n" for line in lines) + "```\n" if lines else ""
        return f"```python\n{code}```\n{output}"

    return _BLOCK.sub(again, page)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        path = Path(name)
        path.write_text(run(path.read_text(encoding="utf-8")), encoding="utf-8")
