"""Importing a perf.data beside ``perf script`` printing the same file; and how memory grows with the file.

Usage: python -m benchmarks.importing (root)
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common import ROOT, Row, alternate, iretrace, spread

FAULTS = 3_000_000
ROUNDS = 5
_CPU: dict[str, list[float]] = {}
"""CPU seconds of each run, by whose they are."""
EVENTS = "exceptions:*,irq:*,irq_vectors:*_entry,irq_vectors:[!i]*_exit"


def run() -> list[Row]:
    """Import and print one large file in turn."""
    with tempfile.TemporaryDirectory() as directory:
        return _importing(Path(directory))


def _importing(directory: Path) -> list[Row]:
    storm, data, trace = directory / "storm", directory / "perf.data", directory / "t.parquet"
    subprocess.run(["gcc", "-O2", "-o", storm, ROOT / "benchmarks" / "storm.c"], check=True)
    record = [
        "perf",
        "record",
        "-q",
        "-a",
        "-m",
        "16M",
        "-e",
        EVENTS,
        "-o",
        str(data),
        "--",
        str(storm),
        str(FAULTS),
        "0",
    ]
    subprocess.run(record, check=True, capture_output=True)

    def importing() -> float:
        return _seconds(iretrace("import", "-q", "--force", data, "-o", trace), "iretrace")

    def printing() -> float:
        return _seconds(["perf", "script", "-i", str(data)], "perf")

    def starting() -> float:
        return _seconds(iretrace("import", "--help"), "start")

    ours, perfs, starts = alternate(ROUNDS, importing, printing, starting)
    ratio = statistics.median(perfs) / statistics.median(ours)
    cpu_ratio = statistics.median(_CPU["perf"]) / statistics.median(_CPU["iretrace"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    size = data.stat().st_size
    how = f"{ROUNDS} alternations, whole processes, {size / 1e6:.0f} MB of perf.data, {FAULTS:,} faults in it"
    return [
        Row(what="iretrace import perf.data", goal="", measured=spread(ours, " s"), how=how),
        Row(what="perf script of it, to /dev/null", goal="", measured=spread(perfs, " s"), how=how),
        Row(what="times as fast as perf script", goal="≥ 20", measured=f"{ratio:.1f}", how="ratio of the medians"),
        Row(what="CPU time of perf script by ours", goal="", measured=f"{cpu_ratio:.1f}", how="user and system"),
        Row(what="iretrace import --help", goal="", measured=spread(starts, " s"), how="the start-up within it"),
        Row(what="largest process of these", goal="", measured=f"{peak} MiB", how="ru_maxrss"),
        Row(
            what="bytes an event: perf.data, trace",
            goal="",
            measured=f"{size / FAULTS:.0f}, {trace.stat().st_size / FAULTS:.1f}",
            how="sizes",
        ),
    ]


def _seconds(command: list[str], who: str) -> float:
    """Wall-clock time of a process; its CPU time is noted."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    _CPU.setdefault(who, []).append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return time.perf_counter() - begin


if __name__ == "__main__":
    for row in run():
        print(row)
