"""Importing a perf.data beside ``perf script`` printing the same file; and how memory grows with the file.

Usage: python -m benchmarks.importing (root)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import ROOT, Row, alternate, iretrace, spread
from iretrace.schema import EVENT_COLUMNS
from iretrace.trace import open_trace
from iretrace.trace_writer import TraceWriter

if TYPE_CHECKING:
    import resource

FAULTS = (3_000_000, 10_000_000)
"""Two sizes of file: of the small one's time a good part is the interpreter's start."""
ROUNDS = 5
EVENTS = "exceptions:*,irq:*,irq_vectors:*_entry,irq_vectors:[!i]*_exit"


def run() -> list[Row]:
    """Import and print each file in turn."""
    rows: list[Row] = []
    for faults in FAULTS:
        with tempfile.TemporaryDirectory() as directory:
            rows += _importing(Path(directory), faults)
    return rows


def _importing(directory: Path, faults: int) -> list[Row]:
    used: dict[str, list[resource.struct_rusage]] = {}
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
        str(faults),
        "0",
    ]
    subprocess.run(record, check=True, capture_output=True)

    def importing() -> float:
        return _seconds(iretrace("import", "-q", "--force", data, "-o", trace), used, "iretrace")

    def printing() -> float:
        return _seconds(["perf", "script", "-i", str(data)], used, "perf")

    def starting() -> float:
        return _seconds(iretrace("import", "--help"), used, "start")

    ours, perfs, starts = alternate(ROUNDS, importing, printing, starting)
    ratio = statistics.median(perfs) / statistics.median(ours)
    cpu = {who: [one.ru_utime + one.ru_stime for one in ones] for who, ones in used.items()}
    cpu_ratio = statistics.median(cpu["perf"]) / statistics.median(cpu["iretrace"])
    encoding = [_encoding(trace, directory / "again") for _ in range(ROUNDS)]
    n_events = open_trace(trace).n_events
    floor = statistics.median(encoding) / n_events
    peak = max(one.ru_maxrss for one in used["iretrace"]) >> 10
    size = data.stat().st_size
    how = f"{ROUNDS} alternations, whole processes, {size / 1e6:.0f} MB of perf.data, {n_events:,} events"
    return [
        Row(what="iretrace import perf.data", goal="", measured=spread(ours, " s"), how=how),
        Row(what="perf script of it, to /dev/null", goal="", measured=spread(perfs, " s"), how=how),
        Row(what="times as fast as perf script", goal="≥ 20", measured=f"{ratio:.1f}", how="ratio of the medians"),
        Row(what="CPU time of perf script by ours", goal="", measured=f"{cpu_ratio:.1f}", how="user and system"),
        Row(
            what="times as fast, were two CPUs busy all the time",
            goal="",
            measured=f"{2 * cpu_ratio:.1f}",
            how="twice the line above: import works in two threads, perf script in one",
        ),
        Row(
            what="the floor: to encode the same events as Parquet, in one thread",
            goal="",
            measured=f"{floor * 1e9:.0f} ns an event",
            how=f"CPU time; all of import takes {statistics.median(cpu['iretrace']) / n_events * 1e9:.0f} ns, "
            f"perf script {statistics.median(cpu['perf']) / n_events * 1e9:.0f} ns, "
            f"{statistics.median(cpu['perf']) / n_events / floor:.1f} times the floor",
        ),
        Row(what="iretrace import --help", goal="", measured=spread(starts, " s"), how="the start-up within it"),
        Row(what="memory of iretrace import", goal="", measured=f"{peak} MiB", how="ru_maxrss"),
        Row(
            what="bytes an event: perf.data, trace",
            goal="",
            measured=f"{size / n_events:.0f}, {trace.stat().st_size / n_events:.2f}",
            how="sizes",
        ),
    ]


def _encoding(trace: Path, target: Path) -> float:
    """CPU seconds to write a trace's events again, which are in memory, a row group at a time."""
    writer, spent = TraceWriter(target), 0.0
    for batch in open_trace(trace).batches([column.name for column in EVENT_COLUMNS]):
        begin = time.process_time()
        writer.write(batch)
        spent += time.process_time() - begin
    begin = time.process_time()
    writer.abandon()
    return spent + time.process_time() - begin


def _seconds(command: list[str], used: dict[str, list[resource.struct_rusage]], who: str) -> float:
    """Wall-clock time of a process; what else it used is noted."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    spent = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    used.setdefault(who, []).append(usage)
    return spent


if __name__ == "__main__":
    for row in run():
        print(row)
