"""The tables of ``docs/emulator.md``: ``python -m vmtest.table DIR...`` puts what recordings show into the page.

Examples:
  python -m vmtest.recording /tmp/a
  python -m vmtest.recording /tmp/b --kernel linux-image-6.12-amd64
  python -m vmtest.table /tmp/a /tmp/b
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Final

from iretrace.vectors import vector_name
from vmtest import ROOT
from vmtest.compare import compare, failures

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vmtest.report import Comparison, Difference

PAGE: Final = ROOT / "docs" / "emulator.md"
BEGIN: Final = "<!-- made by python -m vmtest.table -->\n"
END: Final = "<!-- end -->\n"


def tables(found: Sequence[Comparison]) -> str:
    """Markdown: traps by vector, what was matched, causes; one column group a kernel."""
    head = "".join(f" {one.kernel}, emulator | iretrace |" for one in found)
    lines = [f"| trap |{head}", "|---|" + "---:|---:|" * len(found)]
    for vector in sorted({vector for one in found for vector in (*one.counts, *one.hidden)}):
        cells = ""
        for one in found:
            there, here = one.counts.get(vector, (one.hidden.get(vector, 0), 0))
            cells += f" {there:,} | {'hidden' if vector in one.hidden else format(here, ',')} |"
        lines.append(f"| {vector_name(vector)} ({vector:#x}) |{cells}")
    lines += ["", "| |" + "".join(f" {one.kernel} |" for one in found), "|---|" + "---:|" * len(found)]
    rows: dict[str, Callable[[Comparison], str]] = {
        "window": lambda one: f"{one.seconds:.1f} s, {one.cpus} CPUs",
        "traps matched in order, exact in (vector, ip, sp)": lambda one: (
            f"{one.entries.in_order:,} of {one.entries.total:,}"
        ),
        "of the others, by cause": lambda one: _causes(one.entries.differences),
        "IRETs to user mode matched": lambda one: f"{one.to_user.matched:,} of {one.to_user.total:,}",
        "of the others, by cause ": lambda one: _causes(d for d in one.to_user.differences if d.what != "order"),
        "IRETs to the kernel matched": lambda one: f"{one.to_kernel.matched:,} of {one.to_kernel.total:,}",
        "of the others, by cause  ": lambda one: _causes(d for d in one.to_kernel.differences if d.what != "order"),
        "RETs of `rfc2014` with an IRET to the kernel": lambda one: (
            f"{one.ret_predictions[1]:,} of {one.ret_predictions[0]:,}"
        ),
        "returns judged under each policy, wrongly": _judged,
        "frames that differ in CS, flags or error code": lambda one: (
            f"{sum(other for _, other in one.frames.values())}"
        ),
        "TSC zero, out of order": lambda one: f"{one.zero_tsc}, {one.out_of_order}",
    }
    lines += [f"| {name.strip()} |" + "".join(f" {cell(one)} |" for one in found) for name, cell in rows.items()]
    return "\n".join(lines) + "\n"


def _causes(differences: Iterable[Difference]) -> str:
    counted = Counter(one.cause or "unexplained" for one in differences)
    return ", ".join(f"{count} {cause}" for cause, count in sorted(counted.items())) or "none"


def _judged(found: Comparison) -> str:
    judged = found.decisions.get("rfc2014", {}).values()
    return f"{sum(total for total, _ in judged):,}, {len(found.wrong_decisions)}"


def main(directories: list[str]) -> int:
    """Write the tables into the page."""
    found = [compare(Path(directory)) for directory in directories]
    for one in found:
        for line in failures(one):
            sys.stderr.write(f"FAILED: {one.kernel}: {line}\n")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}{tables(found)}{END}{after}", encoding="utf-8")
    return 1 if any(failures(one) for one in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
