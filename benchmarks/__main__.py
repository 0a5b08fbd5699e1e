"""All benchmarks in one run; writes ``docs/benchmarks.md``.

Usage: make bench (root)
"""

from __future__ import annotations

import importlib
import subprocess
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
    ("dashboards", "Does the dashboard answer at once?"),
    ("store", "What does a store of runs cost?"),
    ("regress", "How often is regress wrong?"),
    ("fleet", "What do many files cost?"),
    ("startup", "What does starting cost?"),
)


def main() -> None:
    """Run every module's ``run()`` and write the page."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    parts = [
        "# Benchmarks",
        "",
        "Written by `make bench`. Everything that is compared ran side by side in one run; absolute times are of this",
        "machine on this day, and only ratios are worth quoting.",
        "",
        f"- Machine: {machine()}",
        f"- Date: {time.strftime('%Y-%m-%d')}, commit {commit.stdout.strip()}",
        "",
    ]
    for name, title in SECTIONS:
        print(f"== {title} ({name})", flush=True)
        rows: list[Row] = importlib.import_module(f"benchmarks.{name}").run()
        parts += [f"## {title}", "", f"`python -m benchmarks.{name}`", ""]
        parts += ["| what | measured | goal or known | how |", "|---|---|---|---|"]
        for row in rows:
            print(f"{row.what}: {row.measured}  [{row.goal}; {row.how}]", flush=True)
            parts.append(f"| {row.what} | {row.measured} | {row.goal} | {row.how} |")
        parts.append("")
    TARGET.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
