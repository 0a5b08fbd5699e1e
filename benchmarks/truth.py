"""Whether the trace holds every trap of a known workload: faults of a program, rows of /proc/interrupts.

Usage: python -m benchmarks.truth (root)
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, Row, iretrace
from iretrace.trace import open_trace
from tests.live import bounds, own_faults, read_events

PAGES = 100_003
SECONDS = 5

WINDOW = """
import json, subprocess, sys
from iretrace import _native
from tests.live import interrupts
def snapshot():
    before = _native.rdtsc(); rows = interrupts(); return before, rows, _native.rdtsc()
first = snapshot()
load = subprocess.Popen([sys.argv[1], sys.argv[3]])
faults = subprocess.run([sys.argv[2], sys.argv[4]], capture_output=True, text=True, check=True).stdout
load.wait()
print(json.dumps([faults, first, snapshot()]))
"""


def run() -> list[Row]:
    """Page faults and interrupts at once, in one window."""
    with tempfile.TemporaryDirectory() as directory:
        return _window(Path(directory))


def _window(directory: Path) -> list[Row]:
    programs = []
    for name in ("ipis", "faults"):
        programs.append(str(directory / name))
        source = ROOT / "tests" / "workloads" / f"{name}.c"
        subprocess.run(["gcc", "-O2", "-o", programs[-1], source], check=True)
    trace = directory / "t.parquet"
    child = [sys.executable, "-c", WINDOW, *programs, str(SECONDS), str(PAGES)]
    done = subprocess.run(
        [*iretrace("collect", "-q", "--no-calibrate", "-o", trace, "--"), *child],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    faults, (begin_0, begin, begin_1), (end_0, end, end_1) = json.loads(done.stdout)
    events = read_events(trace)
    own, counted = own_faults(events, faults)
    footer = open_trace(trace).footer
    how = "by the kernel's own count"
    rows = [Row(what="page faults of the program", goal=f"{counted:,}", measured=f"{len(own):,}", how=how)]
    for name, vectors in {"LOC": [0xEC], "RES": [0xFD], "CAL": [0xFB, 0xFC]}.items():
        known, least, most = 0, 0, 0
        for cpu, (before, after) in enumerate(zip(begin[name], end[name], strict=True)):
            mine = events[(events.cpu == cpu) & events.vector.isin(vectors)]
            low, high = bounds(mine, (begin_0, begin_1), (end_0, end_1))
            known, least, most = known + after - before, least + low, most + high
        rows.append(
            Row(
                what=f"/proc/interrupts {name}",
                goal=f"{known:,}",
                measured=f"{least:,}" if least == most else f"{least:,} to {most:,}",
                how="in the trace, at least and at most, by the edges of the two readings",
            )
        )
    rows.append(Row(what="losses", goal="0", measured=str(sum(loss.count for loss in footer.losses)), how="all causes"))
    return rows


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [known: {row.goal}; {row.how}]")
