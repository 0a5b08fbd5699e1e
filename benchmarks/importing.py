"""Importing a perf.data beside ``perf script`` printing the same file; and how memory grows with the file.

Usage: python -m benchmarks.importing (root)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from benchmarks.common import ROOT, Row, alternate, iretrace, spread
from iretrace.parquet.writer import ParquetWriter
from iretrace.schema import EVENT_COLUMNS, EVENT_SCHEMA, ROW_GROUP_EVENTS
from iretrace.trace import open_trace

if TYPE_CHECKING:
    import resource
    from collections.abc import Callable

    import pyarrow as pa

FAULTS = (3_000_000, 10_000_000, 30_000_000)
"""Three sizes of file: of the small one's time a good part is the interpreter's start."""
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
    storm, data, small, trace = (directory / name for name in ("storm", "perf.data", "small.data", "t.parquet"))
    subprocess.run(["gcc", "-O2", "-o", storm, ROOT / "benchmarks" / "storm.c"], check=True)
    _record(data, str(storm), str(faults), "0")
    _record(small, "true")

    def importing() -> float:
        return _seconds(iretrace("import", "-q", "--force", data, "-o", trace), used, "iretrace")

    def printing() -> float:
        return _seconds(["perf", "script", "-i", str(data)], used, "perf")

    def starting() -> float:
        return _seconds(iretrace("import", "-q", "--force", small, "-o", directory / "small"), used, "start")

    ours, perfs, starts = alternate(ROUNDS, importing, printing, starting)
    ratio = statistics.median(perfs) / statistics.median(ours)
    cpu = {who: [one.ru_utime + one.ru_stime for one in ones] for who, ones in used.items()}
    cpu_ratio = statistics.median(cpu["perf"]) / statistics.median(cpu["iretrace"])
    ours_encoding, arrows_encoding = alternate(
        ROUNDS, lambda: _encoding(trace, directory / "again"), lambda: _arrows(trace, directory / "again")
    )
    n_events = open_trace(trace).n_events
    peak = _peak_mib(iretrace("import", "-q", "--force", data, "-o", trace))
    size = data.stat().st_size
    how = f"{ROUNDS} alternations, whole processes, {size / 1e6:.0f} MB of perf.data, {n_events:,} events"
    return [
        Row(what="iretrace import perf.data", goal="", measured=spread(ours, " s"), how=how),
        Row(what="perf script of it, to /dev/null", goal="", measured=spread(perfs, " s"), how=how),
        Row(what="times as fast as perf script", goal="≥ 20", measured=f"{ratio:.1f}", how="ratio of the medians"),
        Row(what="CPU time of perf script by ours", goal="", measured=f"{cpu_ratio:.1f}", how="user and system"),
        Row(
            what="to encode the same events as Parquet",
            goal="",
            measured=_each(ours_encoding, n_events) + " an event",
            how=f"CPU time, one thread; Arrow's writer takes {_each(arrows_encoding, n_events)}",
        ),
        Row(
            what="CPU time an event: iretrace import, perf script",
            goal="",
            measured=f"{_each(cpu['iretrace'], n_events)}, {_each(cpu['perf'], n_events)}",
            how="user and system",
        ),
        Row(
            what="iretrace import of what perf recorded of true",
            goal="",
            measured=spread(starts, " s"),
            how="the interpreter's start and imports: what is in the first line whatever the file",
        ),
        Row(what="memory of iretrace import", goal="", measured=f"{peak} MiB", how="largest resident set"),
        Row(
            what="bytes an event: perf.data, trace",
            goal="",
            measured=f"{size / n_events:.0f}, {trace.stat().st_size / n_events:.2f}",
            how="sizes",
        ),
    ]


def _peak_mib(command: list[str]) -> int:
    """Largest resident set of a process. A small parent starts it: until exec a child has its parent's memory."""
    parent = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
    parent += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = [sys.executable, "-S", "-c", parent, *command]
    return int(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout) >> 10


def _record(data: Path, *command: str) -> None:
    perf = ["perf", "record", "-q", "-a", "-m", "16M", "-e", EVENTS, "-o", str(data), "--", *command]
    subprocess.run(perf, check=True, capture_output=True)


def _each(seconds: list[float], n_events: int) -> str:
    """The median, an event."""
    return f"{statistics.median(seconds) / n_events * 1e9:.3g} ns"


def _encoding(trace: Path, target: Path) -> float:
    """CPU seconds to write a trace's events again, which are in memory, a row group at a time."""
    with target.open("wb") as file:
        writer = ParquetWriter(file, EVENT_SCHEMA, deltas=["tsc"])
        return _spent(trace, writer.write)


def _arrows(trace: Path, target: Path) -> float:
    """The same by Arrow's writer, told to do the same."""
    others = [column.name for column in EVENT_COLUMNS if column.name != "tsc"]
    with pq.ParquetWriter(
        target,
        EVENT_SCHEMA,
        compression="zstd",
        use_dictionary=others,
        column_encoding={"tsc": "DELTA_BINARY_PACKED"},
        write_statistics=["tsc"],
        max_rows_per_page=ROW_GROUP_EVENTS,
    ) as writer:
        return _spent(trace, lambda batch: writer.write_batch(batch, row_group_size=ROW_GROUP_EVENTS))


def _spent(trace: Path, write: Callable[[pa.RecordBatch], object]) -> float:
    spent = 0.0
    for batch in open_trace(trace).batches([column.name for column in EVENT_COLUMNS]):
        begin = time.process_time()
        write(batch)
        spent += time.process_time() - begin
    return spent


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
