"""All benchmarks, or some; writes ``docs/benchmarks.md``.

Usage: make bench (root), or python -m benchmarks NAME... for some
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time

from benchmarks.common import ROOT, Row, machine

TARGET = ROOT / "docs" / "benchmarks.md"

SECTIONS = (
    ("truth", "Does the trace hold everything?"),
    ("untraced", "Does the kernel run a probe for everything?"),
    ("collect", "What does collecting cost?"),
    ("aggregate", "What does counting without events cost?"),
    ("drain", "What does emptying the rings cost?"),
    ("replay", "What does replaying cost?"),
    ("report", "What does a report cost?"),
    ("importing", "What does importing cost?"),
    ("dashboards", "Does the dashboard answer at once?"),
    ("store", "What does a store of runs cost?"),
    ("regress", "How often is regress wrong?"),
    ("fleet", "What do many files cost?"),
    ("startup", "What does starting cost?"),
)


HEAD = """# Benchmarks

Written by `make bench`; `python -m benchmarks NAME...` measures some sections anew and leaves the others. What is
compared in a section ran side by side in one run; absolute times are of that machine on that day, and only ratios are
worth quoting.
"""


def main() -> None:
    """Run the ``run()`` of every module named, or of all, and write their sections of the page."""
    known = [name for name, _ in SECTIONS]
    asked = sys.argv[1:] or known
    unknown = sorted(set(asked) - set(known))
    if unknown:
        sys.exit(f"no such benchmark: {', '.join(unknown)}; expected some of: {' '.join(known)}")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    when = f"Measured {time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip()}: {machine()}"
    sections = _read()
    for name, title in SECTIONS:
        if name in asked:
            print(f"== {title} ({name})", flush=True)
            sections[title] = _section(name, when)
            _write(sections)


def _section(name: str, when: str) -> str:
    rows: list[Row] = importlib.import_module(f"benchmarks.{name}").run()
    parts = [
        f"`python -m benchmarks.{name}`. {when}.",
        "",
        "| what | measured | goal or known | how |",
        "|---|---|---|---|",
    ]
    for row in rows:
        print(f"{row.what}: {row.measured}  [{row.goal}; {row.how}]", flush=True)
        parts.append(f"| {row.what} | {row.measured} | {row.goal} | {row.how} |")
    return "\n".join(parts)


def _read() -> dict[str, str]:
    """Sections of the page as it is, by title."""
    text = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
    found = (part.partition("\n") for part in text.split("\n## ")[1:])
    return {title: body.strip() for title, _, body in found}


def _write(sections: dict[str, str]) -> None:
    """The page, in the order of :data:`SECTIONS`; what was never measured is named."""
    parts = [HEAD]
    for name, title in SECTIONS:
        body = sections.get(title, f"`python -m benchmarks.{name}`. Not measured yet.")
        parts.append(f"## {title}\n\n{body}\n")
    TARGET.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
