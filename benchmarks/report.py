"""Whether the report's memory and size stay put when the trace grows tenfold, and what it costs beside the replay.

Usage: python -m benchmarks.report [--events N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks import traces
from benchmarks.common import ROOT, Row, alternate, iretrace, spread
from benchmarks.memory import own_mib

SMALL, LARGE = 1_000_000, 10_000_000
EVENTS = 100_000_000
ROUNDS = 3


def run(events: int = EVENTS) -> list[Row]:
    """A small and a large trace in turn, whole processes; and a long one beside its replay."""
    with tempfile.TemporaryDirectory() as directory:
        return [*_grow(Path(directory)), *_beside_replay(Path(directory), events)]


def _grow(directory: Path) -> list[Row]:
    small, large, page = directory / "small.parquet", directory / "large.parquet", directory / "r.html"
    peaks: dict[Path, list[float]] = {small: [], large: []}
    sizes: dict[Path, float] = {}
    for path, n_events in ((small, SMALL), (large, LARGE)):
        traces.write(path, n_events)

    def seconds(trace: Path) -> float:
        begin = time.perf_counter()
        peaks[trace].append(_watched(iretrace("report", trace, "-o", page, "--force")))
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


def _beside_replay(directory: Path, events: int) -> list[Row]:
    """A report and a replay of the same trace in turn, whole processes."""
    trace, page = directory / "long.parquet", directory / "long.html"
    traces.write(trace, events)
    peak = 0.0

    def replay() -> float:
        begin = time.perf_counter()
        subprocess.run(iretrace("replay", trace, "--json"), check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        return time.perf_counter() - begin

    def report() -> float:
        nonlocal peak
        begin = time.perf_counter()
        peak = max(peak, _watched(iretrace("report", trace, "-o", page, "--force")))
        return time.perf_counter() - begin

    alone, written = alternate(ROUNDS, replay, report)
    ratios = [a / b for a, b in zip(written, alone, strict=True)]
    how = f"{ROUNDS} alternations, {events:,} events, whole processes"
    return [
        Row(what="replay of a long trace", goal="", measured=spread(alone, " s"), how=how),
        Row(what="report of it", goal="", measured=spread(written, " s"), how=how),
        Row(what="ratio of the two", goal="≤ 3", measured=spread(ratios), how=how),
        Row(what="peak memory", goal="< 2048 MiB", measured=f"{peak:.0f} MiB", how="anonymous"),
        Row(what="file", goal="≤ 6 MB", measured=f"{page.stat().st_size / 1e6:.2f} MB", how=how),
    ]


def _watched(command: list[str]) -> float:
    """Run a command to its end; its peak memory in MiB."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, own_mib(process.pid))
        time.sleep(0.01)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return peak


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=EVENTS, metavar="N", help="events of the long trace")
    for row in run(parser.parse_args().events):
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
