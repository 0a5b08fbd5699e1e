"""What ``collect --aggregate`` adds to a page fault and to an interrupt, beside the same with events.

Usage: python -m benchmarks.aggregate (root)
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, Row, alternate, iretrace, spread

FAULTS = 1_000_000
ROUNDS = 7


def run() -> list[Row]:
    """Storms of page faults: alone, counted, and with events."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        storm = directory / "storm"
        subprocess.run(["gcc", "-O2", "-o", storm, ROOT / "benchmarks" / "storm.c"], check=True)
        # The kernel times the programs in the first second only.
        script = ["sh", "-c", f"sleep 1.5; exec {storm} {FAULTS} 0"]
        collect = iretrace("collect", "-q", "--force", "--no-calibrate", "-o", directory / "t.parquet")

        def alone() -> float:
            return _ns(script)

        def counted() -> float:
            return _ns([*collect, "--aggregate", "--", *script])

        def with_events() -> float:
            return _ns([*collect, "--", *script])

        base, counts, events = alternate(ROUNDS, alone, counted, with_events)
    added, by_events = (
        [mine - theirs for mine, theirs in zip(with_it, base, strict=True)] for with_it in (counts, events)
    )
    how = f"{ROUNDS} alternations of {FAULTS:,} faults, CPU time of the storm"
    ratio = statistics.median(added) / statistics.median(by_events)
    return [
        Row(what="page fault alone", goal="", measured=spread(base, " ns"), how=how),
        Row(what="added by collect --aggregate", goal="< 50 ns", measured=spread(added, " ns"), how=how),
        Row(what="added by collect", goal="", measured=spread(by_events, " ns"), how=how),
        Row(what="medians added, to collect's", goal="", measured=f"{ratio:.2f}", how=how),
    ]


def _ns(command: list[str]) -> float:
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
