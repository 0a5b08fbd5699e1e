"""Whether the report's memory and size stay put when the trace grows tenfold, and what it costs an event.

Usage: python -m benchmarks.report
"""

from __future__ import annotations

import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import traces
from benchmarks.common import ROOT, Row, alternate, iretrace, spread

SMALL, LARGE = 1_000_000, 10_000_000
ROUNDS = 3


def run() -> list[Row]:
    """A small and a large trace in turn, whole processes."""
    with tempfile.TemporaryDirectory() as directory:
        return _grow(Path(directory))


def _grow(directory: Path) -> list[Row]:
    small, large, page = directory / "small.parquet", directory / "large.parquet", directory / "r.html"
    peaks: dict[Path, list[float]] = {small: [], large: []}
    sizes: dict[Path, float] = {}
    for path, n_events in ((small, SMALL), (large, LARGE)):
        traces.write(path, n_events)

    def seconds(trace: Path) -> float:
        begin = time.perf_counter()
        process = subprocess.Popen(
            iretrace("report", trace, "-o", page, "--force"), cwd=ROOT, stdout=subprocess.DEVNULL
        )
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, _own_mib(process.pid))
            time.sleep(0.01)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, "iretrace report")
        peaks[trace].append(peak)
        sizes[trace] = page.stat().st_size / 1e6
        return time.perf_counter() - begin

    short, long = alternate(ROUNDS, lambda: seconds(small), lambda: seconds(large))
    per_event = (statistics.median(long) - statistics.median(short)) / (LARGE - SMALL) * 1e9
    growth = statistics.median(peaks[large]) / statistics.median(peaks[small])
    how = f"{ROUNDS} alternations, {SMALL:,} and {LARGE:,} events"
    return [
        Row(what="report of the small trace", goal="", measured=spread(short, " s"), how=how),
        Row(what="report of the large trace", goal="", measured=spread(long, " s"), how=how),
        Row(what="each further event", goal="", measured=f"{per_event:.0f} ns", how=how),
        Row(what="peak memory, small", goal="", measured=spread(peaks[small], " MiB"), how=how),
        Row(what="peak memory, large", goal="", measured=spread(peaks[large], " MiB"), how=how),
        Row(what="ratio of peak memory, ten times the events", goal="≤ 1.25", measured=f"{growth:.2f}", how=how),
        Row(what="file, small", goal="≤ 6 MB", measured=f"{sizes[small]:.2f} MB", how=how),
        Row(what="file, large", goal="≤ 6 MB", measured=f"{sizes[large]:.2f} MB", how=how),
    ]


def _own_mib(pid: int) -> float:
    """Memory of a process without the pages of the mapped trace, which the kernel can take back at any time."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it ended meanwhile
        return 0.0
    found = re.search(r"RssAnon:\s+(\d+)", status)
    return int(found[1]) / 1024 if found else 0.0


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
