"""What collecting costs and whether it loses anything, beside ``perf record`` of the same tracepoint.

Usage: python -m benchmarks.collect (root)
"""

from __future__ import annotations

import statistics
import subprocess
import tempfile
from pathlib import Path

from benchmarks.common import ROOT, Row, alternate, iretrace, spread, storm_ns
from iretrace.trace import open_trace

FAULTS = 300_000
ROUNDS = 9
FLOOD = 2_000_000
FLOODS = 3

BPFTRACE = (
    "tracepoint:exceptions:page_fault_user { "
    'printf("%llu %u %lx %lx %lx %u %u\\n", nsecs, cpu, args->address, args->ip, args->error_code, pid, tid); }'
)
"""What iretrace stores of a page fault, less cs, flags and sp."""


def run() -> list[Row]:
    """Storms of page faults: alone, under iretrace, perf and bpftrace; and on two CPUs at once."""
    with tempfile.TemporaryDirectory() as directory:
        storm = Path(directory) / "storm"
        subprocess.run(["gcc", "-O2", "-o", storm, ROOT / "benchmarks" / "storm.c"], check=True)
        return [*_side_by_side(Path(directory), storm), *_flood(Path(directory), storm)]


def _side_by_side(directory: Path, storm: Path) -> list[Row]:
    trace, data, text = directory / "t.parquet", directory / "perf.data", directory / "bpftrace.txt"
    faults = [str(storm), str(FAULTS), "0"]
    bytes_on_disk, probe_ns = [], []

    def alone() -> float:
        return storm_ns(faults)

    def under_iretrace() -> float:
        ns = storm_ns([*iretrace("collect", "-q", "--force", "--no-calibrate", "-o", trace, "--"), *faults])
        footer = open_trace(trace).footer
        bytes_on_disk.append(trace.stat().st_size / footer.events)
        if footer.overhead.ns_per_event is not None:
            probe_ns.append(footer.overhead.ns_per_event)
        return ns

    def under_perf() -> float:
        return storm_ns(
            ["perf", "record", "-q", "-e", "exceptions:page_fault_user", "-a", "-o", str(data), "--", *faults]
        )

    def under_bpftrace() -> float:
        return storm_ns(["bpftrace", "-q", "-B", "full", "-o", str(text), "-e", BPFTRACE, "-c", " ".join(faults)])

    base, ours, perfs, bpftraces = alternate(ROUNDS, alone, under_iretrace, under_perf, under_bpftrace)
    added, by_perf, by_bpftrace = (
        [mine - theirs for mine, theirs in zip(with_it, base, strict=True)] for with_it in (ours, perfs, bpftraces)
    )
    ratio, ratio_bpftrace = (statistics.median(added) / statistics.median(other) for other in (by_perf, by_bpftrace))
    written = len(text.read_text().splitlines())
    how = f"{ROUNDS} alternations of {FAULTS:,} faults, CPU time of the storm"
    return [
        Row(what="page fault alone", goal="", measured=spread(base, " ns"), how=how),
        Row(what="added by iretrace collect", goal="", measured=spread(added, " ns"), how=how),
        Row(what="added by perf record", goal="", measured=spread(by_perf, " ns"), how=how),
        Row(
            what="added by bpftrace",
            goal="",
            measured=spread(by_bpftrace, " ns"),
            how=f"{how}; {written:,} lines in the last file",
        ),
        Row(what="medians added, to perf record's", goal="≤ 0.6", measured=f"{ratio:.2f}", how=how),
        Row(what="medians added, to bpftrace's", goal="< 1", measured=f"{ratio_bpftrace:.2f}", how=how),
        Row(what="a probe's run, by the kernel", goal="", measured=spread(probe_ns, " ns"), how="BPF_STATS_RUN_TIME"),
        Row(what="bytes an event on disk", goal="≤ 8", measured=spread(bytes_on_disk), how="size of the trace"),
        Row(
            what="perf.data bytes an event",
            goal="",
            measured=f"{data.stat().st_size / FAULTS:.0f}",
            how="size of the last perf.data",
        ),
    ]


def _flood(directory: Path, storm: Path) -> list[Row]:
    """Both CPUs fault as fast as they can."""
    trace = directory / "flood.parquet"
    lost, events, rates, own = 0, 0, [], []
    script = " & ".join(f"{storm} {FLOOD} {cpu} > /dev/null" for cpu in (0, 1)) + "; wait"
    for _ in range(FLOODS):
        command = iretrace("collect", "-q", "--force", "--no-calibrate", "-o", trace, "--", "sh", "-c", script)
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
        footer = open_trace(trace).footer
        cycles, khz = footer.duration_cycles(), footer.clock.tsc_khz
        lost += sum(loss.count for loss in footer.losses if loss.cause in ("ring-full", "nmi-ring-busy", "unaccounted"))
        events += footer.events
        rates.append(footer.events / ((cycles or 1) / (khz or 1) / 1e3))
        if footer.overhead.collector_cpu_pct is not None:
            own.append(footer.overhead.collector_cpu_pct * 600_000 / rates[-1])
    how = f"{FLOODS} runs of two times {FLOOD:,} faults, default buffer"
    return [
        Row(what="events lost, two CPUs at full rate", goal="0", measured=f"{lost:,} of {events:,}", how=how),
        Row(what="events a second then", goal="", measured=spread(rates), how=how),
        Row(
            what="collector's CPU, per 600 000 events/s",
            goal="< 15 % of one",
            measured=spread(own, " %"),
            how=f"{how}; all its CPU time while recording, in proportion",
        ),
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
