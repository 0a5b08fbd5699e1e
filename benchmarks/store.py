"""Whether the overview of a store of 2,000 runs is there within a second, with an index and without.

Usage: python -m benchmarks.store
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Final

import msgspec

from benchmarks import traces
from benchmarks.common import ROOT, Row, alternate, spread
from iretrace.footer import Anchor
from iretrace.store import open_store
from iretrace.store.member import to_bytes
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace

RUNS: Final = 2000
ROUNDS: Final = 5

# What an overview asks: every run, every metric over all vectors, what cannot be read.
OVERVIEW: Final = """
import resource, sys, time
begin = time.perf_counter()
from iretrace.store import open_store
imported, cpu = time.perf_counter(), time.process_time()
store = open_store(sys.argv[1], readonly=True)
runs = store.runs()
rows = store.connect().sql("SELECT run, ret_pct, saved_per_s_cycles FROM metrics WHERE vector = -1").fetchall()
assert len(runs) == int(sys.argv[2]) and rows and not store.unreadable()
done = time.perf_counter()
cpu = time.process_time() - cpu
print(done - imported, done - begin, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run() -> list[Row]:
    """A store of copies of one run, each under its own name and time."""
    with tempfile.TemporaryDirectory() as directory:
        return _measure(Path(directory))


def _measure(directory: Path) -> list[Row]:
    trace = directory / "trace.parquet"
    traces.write(trace, 300_000)
    begin = time.perf_counter()
    base = summarize(open_trace(trace))
    added = time.perf_counter() - begin
    size = len(to_bytes(base))
    indexed, plain = directory / "indexed", directory / "plain"
    for i in range(RUNS):
        at = Anchor(tsc=1, realtime_ns=(1_700_000_000 + 600 * i) * 10**9, monotonic_ns=1)
        clock = msgspec.structs.replace(base.footer.clock, anchors=[at])
        footer = msgspec.structs.replace(base.footer, clock=clock)
        run_id = f"run-{i:05}"
        document = msgspec.structs.replace(base.document, run=run_id, footer=footer, tags={"commit": f"c{i}"})
        target = indexed / "runs" / f"{run_id}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(to_bytes(replace(base, document=document)))
    shutil.copytree(indexed, plain, copy_function=shutil.copy2)
    begin = time.perf_counter()
    open_store(indexed).index()
    indexing = time.perf_counter() - begin
    peaks: list[float] = []
    whole: list[float] = []
    busy: list[float] = []

    def seconds(store: Path) -> float:
        done = subprocess.run(
            [sys.executable, "-c", OVERVIEW, str(store), str(RUNS)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        asked, total, cpu, peak = map(float, done.stdout.split())
        peaks.append(peak)
        if store is indexed:
            whole.append(total)
            busy.append(cpu)
        return asked

    with_index, without = alternate(ROUNDS, lambda: seconds(indexed), lambda: seconds(plain))
    how = f"{RUNS:,} runs of {len(base.vectors)} vectors and {len(base.policies)} policies, {ROUNDS} alternations"
    index_bytes = sum(file.stat().st_size for file in (indexed / "index").iterdir())
    return [
        Row(what="overview", goal="≤ 1 s", measured=spread(with_index, " s"), how=how),
        Row(what="overview, CPU time", goal="", measured=spread(busy, " s"), how=how),
        Row(what="overview, imports included", goal="", measured=spread(whole, " s"), how=how),
        Row(what="overview without an index", goal="", measured=spread(without, " s"), how=how),
        Row(what="writing the index", goal="", measured=f"{indexing:.2f} s, {index_bytes / 1e6:.1f} MB", how="once"),
        Row(what="peak memory", goal="≤ 2 GiB", measured=spread(peaks, " MiB"), how=how),
        Row(what="a run's file", goal="", measured=f"{size / 1e3:.0f} kB", how="300,000 events"),
        Row(what="adding a run", goal="", measured=f"{added:.2f} s", how="300,000 events, six policies, once"),
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]", flush=True)
