"""What ``collect --aggregate`` adds to a page fault, beside a program that does nothing and ``collect`` with events.

A program that does nothing is the floor: what the kernel takes to call any program at the tracepoint.

Usage: python -m benchmarks.aggregate (root)
"""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.common import ROOT, Row, alternate, iretrace, spread, storm_ns
from iretrace.collect import syscalls
from iretrace.collect.btf import kernel_prototypes
from iretrace.store import aggregated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FAULTS: Final = 1_000_000
TIMED_FAULTS: Final = 2_000_000
"""Enough for the whole of the first second, in which `collect --aggregate` has its programs timed."""

ROUNDS: Final = 9
_TRACEPOINT: Final = "page_fault_user"


def run() -> list[Row]:
    """Storms of page faults: alone, with a program that does nothing, counted, and with events."""
    btf_id = kernel_prototypes().tracepoint(_TRACEPOINT)
    if btf_id is None:
        return [Row(what="not measured", goal="", measured="", how=f"this kernel has no tracepoint {_TRACEPOINT}")]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        storm = directory / "storm"
        subprocess.run(["gcc", "-O2", "-o", storm, ROOT / "benchmarks" / "storm.c"], check=True)
        # collect --aggregate lets the kernel time its programs in the first second, which costs as much again.
        script = ["sh", "-c", f"sleep 1.5; exec {storm} {FAULTS} 0"]
        collect = iretrace("collect", "-q", "--force", "--no-calibrate", "-o", directory / "t.parquet")

        def with_nothing() -> float:
            with _doing_nothing(btf_id):
                return storm_ns(script)

        def timed_nothing() -> float:
            timing = syscalls.enable_run_time_stats()
            try:
                with _doing_nothing(btf_id) as program:
                    storm_ns([str(storm), str(FAULTS), "0"])
                    info = syscalls.program_info(program)
            finally:
                os.close(timing)
            return float(info.run_time_ns / info.run_cnt)

        def timed_counts() -> float:
            storm_ns([*collect, "--aggregate", "--only", "page-faults", "--", str(storm), str(TIMED_FAULTS), "0"])
            return aggregated.read(directory / "t.parquet").footer.overhead.ns_per_event or 0.0

        alone, nothing, counts, events, by_kernel_nothing, by_kernel_counts = alternate(
            ROUNDS,
            lambda: storm_ns(script),
            with_nothing,
            lambda: storm_ns([*collect, "--aggregate", "--", *script]),
            lambda: storm_ns([*collect, "--", *script]),
            timed_nothing,
            timed_counts,
        )
    added = [_less(figures, alone) for figures in (nothing, counts, events)]
    how = f"{ROUNDS} alternations of {FAULTS:,} faults, CPU time of the storm"
    timed = (
        f"{ROUNDS} alternations, the kernel's statistics of the program (BPF_STATS_RUN_TIME), timing itself included"
    )
    ratio = statistics.median(added[1]) / statistics.median(added[2])
    return [
        Row(what="page fault alone", goal="", measured=spread(alone, " ns"), how=how),
        Row(what="added by a program that does nothing", goal="", measured=spread(added[0], " ns"), how=how),
        Row(what="added by collect --aggregate", goal="< 50 ns", measured=spread(added[1], " ns"), how=how),
        Row(
            what="of which more than by one that does nothing",
            goal="",
            measured=spread(_less(counts, nothing), " ns"),
            how=how,
        ),
        Row(what="added by collect", goal="", measured=spread(added[2], " ns"), how=how),
        Row(what="medians added, collect --aggregate to collect", goal="", measured=f"{ratio:.2f}", how=how),
        Row(what="a run that does nothing", goal="", measured=spread(by_kernel_nothing, " ns"), how=timed),
        Row(what="a run of collect --aggregate", goal="", measured=spread(by_kernel_counts, " ns"), how=timed),
        Row(
            what="of which what counting takes",
            goal="",
            measured=spread(_less(by_kernel_counts, by_kernel_nothing), " ns"),
            how=timed,
        ),
    ]


def _less(figures: Sequence[float], base: Sequence[float]) -> list[float]:
    return [mine - theirs for mine, theirs in zip(figures, base, strict=True)]


@contextmanager
def _doing_nothing(btf_id: int) -> Iterator[int]:
    """With a program that returns at once on the tracepoint; yields its file descriptor."""
    program = syscalls.load_tracing(syscalls.EXIT_0, btf_id=btf_id)
    attached = syscalls.attach_tracing(program)
    try:
        yield program
    finally:
        os.close(attached)
        os.close(program)


if __name__ == "__main__":
    for row in run():
        print(f"{row.what}: {row.measured}  [goal {row.goal or 'none'}; {row.how}]")
