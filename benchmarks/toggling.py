"""Whether switching BPF_STATS_RUN_TIME while probes are attached costs events, by the kernel's own count.

Usage: python -m benchmarks.toggling (root)
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.common import ROOT, Row
from iretrace import _native
from iretrace.collect import kernel, syscalls
from iretrace.collect.btf import kernel_prototypes
from iretrace.collect.clock import TscCounters
from iretrace.collect.hooks import unusable
from iretrace.collect.probes import ProbeOptions, Probes
from iretrace.collect.wire import HOOK_NAMES
from tests.live import interrupts

SECONDS = 8
ROWS = {"LOC": [0xEC], "RES": [0xFD], "CAL": [0xFB, 0xFC]}


def run() -> list[Row]:
    """The same load with the statistics left alone, and switched a hundred times a second."""
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "ipis"
        subprocess.run(["gcc", "-O2", "-o", program, ROOT / "tests" / "workloads" / "ipis.c"], check=True)
        return [_row(program, switching=False), _row(program, switching=True)]


def _row(program: Path, *, switching: bool) -> Row:
    cpus = kernel.cpu_list("online")
    drained = []
    switched = 0
    with TscCounters(cpus) as clock, Probes(ProbeOptions(ring_bytes=1 << 24, use_tsc=True), cpus) as probes:
        probes.set_tsc_counters(clock.fds)
        probes.attach(unusable(kernel_prototypes()))
        load = subprocess.Popen([program, str(SECONDS)])
        time.sleep(0.3)
        first, begin = interrupts(), _native.rdtsc()
        last, end = first, begin
        while load.poll() is None:
            drained += [ring.drain() for ring in probes.rings.values()]
            if switching:
                descriptor = syscalls.enable_run_time_stats()
                time.sleep(0.01)
                os.close(descriptor)
                switched += 2
            else:
                time.sleep(0.02)
            if load.poll() is None:
                last, end = interrupts(), _native.rdtsc()
        probes.detach()
        drained += [ring.drain() for ring in probes.rings.values()]
        events = np.concatenate(drained)
        clock.to_tsc(events)
        lost = sum(loss.count for loss in probes.losses() if loss.cause == "ring-full")
    entries = events[(events["hook"] == HOOK_NAMES.index("irq_vectors_entry"))]
    inside = entries[(entries["tsc"] > begin) & (entries["tsc"] < end)]
    traced = sum(int(np.isin(inside["vector"], vectors).sum()) for vectors in ROWS.values())
    known = sum(sum(last[name]) - sum(first[name]) for name in ROWS)
    return Row(
        what=f"interrupts traced, statistics switched {switched} times",
        goal=f"{known:,}",
        measured=f"{traced:,} (counted as lost: {lost})",
        how="goal: by /proc/interrupts; a few at the edges may be in one count and not in the other",
    )


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [known: {row.goal}; {row.how}]")
