"""What collecting costs and whether it loses anything, beside ``perf record`` of the same tracepoint.

Usage: python -m benchmarks.collect (root)
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, Row, alternate, iretrace, spread
from iretrace.trace import open_trace

FAULTS = 1_000_000
ROUNDS = 9


def run() -> list[Row]:
    """Storm of page faults on one CPU: alone, under iretrace, under perf."""
    with tempfile.TemporaryDirectory() as directory:
        return _storm(Path(directory))


def _storm(directory: Path) -> list[Row]:
    storm = directory / "storm"
    subprocess.run(["gcc", "-O2", "-o", storm, ROOT / "benchmarks" / "storm.c"], check=True)
    trace, data = directory / "t.parquet", directory / "perf.data"
    faults = [str(storm), str(FAULTS), "0"]
    lost, events, bytes_on_disk, probe_ns = [], [], [], []

    def alone() -> float:
        return _ns(faults)

    def under_iretrace() -> float:
        ns = _ns([*iretrace("collect", "-q", "--force", "--no-calibrate", "-o", trace, "--"), *faults])
        footer = open_trace(trace).footer
        lost.append(footer.lost_events())
        events.append(footer.events)
        bytes_on_disk.append(trace.stat().st_size / footer.events)
        if footer.overhead.ns_per_event is not None:
            probe_ns.append(footer.overhead.ns_per_event)
        return ns

    def under_perf() -> float:
        return _ns(["perf", "record", "-q", "-e", "exceptions:page_fault_user", "-a", "-o", str(data), "--", *faults])

    base, ours, perfs = alternate(ROUNDS, alone, under_iretrace, under_perf)
    added = [mine - theirs for mine, theirs in zip(ours, base, strict=True)]
    added_by_perf = [mine - theirs for mine, theirs in zip(perfs, base, strict=True)]
    ratio = statistics.median(added) / statistics.median(added_by_perf)
    how = f"{ROUNDS} alternations of {FAULTS:,} faults"
    return [
        Row(what="page fault alone", goal="", measured=spread(base, " ns"), how=how),
        Row(what="added by iretrace collect", goal="", measured=spread(added, " ns"), how=how),
        Row(what="added by perf record", goal="", measured=spread(added_by_perf, " ns"), how=how),
        Row(what="ratio of the medians added", goal="≤ 0.7", measured=f"{ratio:.2f}", how=how),
        Row(
            what="probe's run time, by the kernel", goal="", measured=spread(probe_ns, " ns"), how="BPF_STATS_RUN_TIME"
        ),
        Row(
            what="events lost at full rate",
            goal="0",
            measured=f"{sum(lost):,} of {sum(events):,}",
            how="default buffer, all runs",
        ),
        Row(what="bytes an event on disk", goal="≤ 8", measured=spread(bytes_on_disk), how="size of the trace"),
        Row(
            what="perf.data bytes an event",
            goal="",
            measured=f"{data.stat().st_size / FAULTS:.0f}",
            how="size of the last perf.data",
        ),
    ]


def _ns(command: list[str]) -> float:
    """Run a storm; nanoseconds a fault, as it prints them."""
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
