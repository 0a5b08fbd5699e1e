"""How long ``iretrace --help`` takes beyond Python itself.

Usage: python -m benchmarks.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.common import ROOT, Row, alternate, iretrace, spread

ROUNDS = 15


def run() -> list[Row]:
    """Whole processes, in turn."""

    def timed(command: list[str]) -> float:
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        return 1e3 * (time.perf_counter() - begin)

    bare, helped, version = alternate(
        ROUNDS,
        lambda: timed([sys.executable, "-c", "pass"]),
        lambda: timed(iretrace("--help")),
        lambda: timed(iretrace("collect", "--help")),
    )
    beyond = [mine - theirs for mine, theirs in zip(helped, bare, strict=True)]
    how = f"{ROUNDS} alternations, medians"
    return [
        Row(what="python -c pass", goal="", measured=spread(bare, " ms"), how=how),
        Row(what="iretrace --help beyond it", goal="≤ 150 ms", measured=spread(beyond, " ms"), how=how),
        Row(
            what="iretrace collect --help beyond it",
            goal="",
            measured=f"{statistics.median(version) - statistics.median(bare):.3g} ms",
            how=how,
        ),
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
