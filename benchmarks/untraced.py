"""How many interrupts the kernel runs no BPF probe for: BPF and ftrace on the same tracepoints, and /proc/interrupts.

Of those, how many came while a thread of process 1 was on the CPU (docs/collecting.md).

Usage: python -m benchmarks.untraced (root)
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.common import ROOT, Row
from iretrace import _native
from iretrace.collect import kernel
from iretrace.collect.btf import kernel_prototypes
from iretrace.collect.choice import unusable
from iretrace.collect.clock import TscCounters
from iretrace.collect.hooks import CLASSES
from iretrace.collect.probes import ProbeOptions, Probes
from iretrace.collect.wire import HOOK_NAMES
from tests.live import INTERRUPT_ENTRIES, INTERRUPT_ROWS, ftrace_instance, interrupts, interrupts_of_init

if TYPE_CHECKING:
    from numpy.typing import NDArray

SECONDS = 30


def run() -> list[Row]:
    """A load of inter-processor interrupts and of short processes, counted three ways at once."""
    with ftrace_instance("iretrace") as instance, tempfile.TemporaryDirectory() as directory:
        (instance / "buffer_size_kb").write_text("64")
        return _count(instance, Path(directory))


def _ftrace(instance: Path) -> int:
    """Events that ftrace saw, whatever its buffer kept of them."""
    total = 0
    for stats in instance.glob("per_cpu/cpu*/stats"):
        text = stats.read_text()
        total += sum(
            int(count) for count in re.findall(r"^(?:entries|overrun|dropped events): (\d+)", text, re.MULTILINE)
        )
    return total


def _known() -> int:
    rows = interrupts()
    return sum(sum(rows[name]) for name in INTERRUPT_ROWS)


def _count(instance: Path, directory: Path) -> list[Row]:
    program = directory / "ipis"
    subprocess.run(["gcc", "-O2", "-o", program, ROOT / "tests" / "workloads" / "ipis.c"], check=True)
    cpus = kernel.cpu_list("online")
    vectors = [vector for row in INTERRUPT_ROWS.values() for vector in row]
    differences: list[tuple[int, int]] = []
    times: list[int] = []
    seen = 0

    def wanted(events: NDArray[np.void]) -> int:
        entries = events["hook"] == HOOK_NAMES.index("irq_vectors_entry")
        return int((entries & np.isin(events["vector"], vectors)).sum())

    with (
        interrupts_of_init() as of_init,
        TscCounters(cpus) as clock,
        Probes(ProbeOptions(ring_bytes=1 << 24, use_tsc=True), cpus) as probes,
    ):
        probes.set_tsc_counters(clock.fds)
        refused = unusable(kernel_prototypes(), no_fentry="tracepoints are measured here")
        probes.choose(classes=CLASSES, refused=refused)
        for tracepoint in INTERRUPT_ENTRIES:
            (instance / "events" / "irq_vectors" / tracepoint / "enable").write_text("1")
        load = subprocess.Popen([program, str(SECONDS)])
        until = time.monotonic() + SECONDS - 1
        while time.monotonic() < until:
            subprocess.run([sys.executable, "-c", "import json, re"], check=True)
            seen += sum(wanted(ring.drain()) for ring in probes.rings.values())
            known, ftrace = _known(), _ftrace(instance)
            seen += sum(wanted(ring.drain()) for ring in probes.rings.values())
            differences.append((known - seen, known - ftrace))
            times.append(_native.rdtsc())
        load.wait()
        # Each quarter stands for its middle: what came between the two middles is what the medians differ by.
        eighth = len(times) // 8
        of_process_1 = sum(of_init(times[eighth], times[-1 - eighth]).values())
        lost = sum(loss.count for loss in probes.losses() if loss.cause == "ring-full")
    # The readings of a round are not of one moment; what stays through the rounds is the median's difference.
    quarter = max(1, len(differences) // 4)
    by_bpf, by_ftrace = (
        float(np.median([d[i] for d in differences[-quarter:]]) - np.median([d[i] for d in differences[:quarter]]))
        for i in (0, 1)
    )
    how = f"{SECONDS} s, {seen:,} interrupts, {lost} counted as lost; last quarter of the readings against the first"
    return [
        Row(what="interrupts that BPF was not run for", goal="", measured=f"{by_bpf:.0f}", how=how),
        Row(what="interrupts of process 1, by ftrace", goal="", measured=f"{of_process_1}", how=how),
        Row(what="interrupts that ftrace did not see", goal="", measured=f"{by_ftrace:.0f}", how=how),
    ]


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [{row.how}]")
