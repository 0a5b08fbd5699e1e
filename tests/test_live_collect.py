"""Collecting on the live kernel, against what is known from elsewhere: exact workloads, /proc/interrupts, RDTSC."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from iretrace.trace import open_trace
from tests.conftest import ROOT, needed
from tests.live import (
    INTERRUPT_ROWS,
    bounds,
    interrupts,
    interrupts_of_init,
    own_faults,
    own_losses,
    read_events,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import CompileWorkload, RunIretrace

pytestmark = pytest.mark.kernel

PAGES = 100_003

PROBE = """
import json, mmap, os, sys, time
from iretrace import _native
from tests.live import interrupts
def snapshot():
    before = _native.rdtsc(); rows = interrupts(); return [before, _native.rdtsc(), rows]
"""


def in_child(program: str) -> list[str]:
    """Command line of a Python child that has ``snapshot()``."""
    return [sys.executable, "-c", PROBE + program]


def test_every_page_fault_of_a_known_program_is_there(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """A program that touches 100 003 fresh pages shows 100 003 page faults from its one instruction, none lost."""
    trace = tmp_path / "t.parquet"
    done = run_iretrace("collect", "-q", "--no-calibrate", "-o", trace, "--", compile_workload("faults"), str(PAGES))
    events = read_events(trace)
    mine, counted = own_faults(events, done.stdout)
    assert len(mine) == counted
    assert PAGES <= counted <= PAGES + 3
    assert set(mine.cs) == {0x33}
    assert not mine.to_kernel.any()
    assert set(mine.hook) == {"page_fault_user"}
    assert mine.error_code.unique().tolist() == [6]  # user, write, not present: Intel SDM vol. 3A, 4.7
    assert own_losses(open_trace(trace).footer) == {}
    assert trace.stat().st_size <= 8 * len(events)


UNTYPED = """
import sys
from pathlib import Path
from iretrace.collect import plan, session
from iretrace.collect.options import CollectOptions
plan.typed_tracepoints = lambda prototypes: {}
options = {"calibrate": False, "keep_privileges": True}
session.collect(CollectOptions(target=Path(sys.argv[1]), command=tuple(sys.argv[2:]), **options))
"""


def test_a_kernel_that_gives_no_types_shows_the_same_frames(tmp_path: Path, compile_workload: CompileWorkload) -> None:
    """Page faults' frames read with a helper, where arguments have no types, are those read without one."""
    trace = tmp_path / "t.parquet"
    command = [sys.executable, "-c", UNTYPED, str(trace), str(compile_workload("faults")), str(PAGES)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    mine, counted = own_faults(read_events(trace), done.stdout)
    assert len(mine) == counted >= PAGES
    assert set(mine.cs) == {0x33}
    assert mine.error_code.unique().tolist() == [6]
    assert own_losses(open_trace(trace).footer) == {}


def test_interrupt_counts_equal_proc_interrupts(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """Timer, reschedule and call-function interrupts of a window equal the kernel's own counts, CPU by CPU.

    A child takes snapshots of /proc/interrupts between two RDTSC each; what the trace holds between them, at least
    and at most, and what it says the kernel did not trace, must bracket the difference. Only interrupts that came
    while process 1 was on the CPU, which ftrace counts beside, may be missing (docs/collecting.md). The window is of
    two seconds, for a thousand interrupts at least.
    """
    trace = tmp_path / "t.parquet"
    child = in_child(
        "import subprocess\n"
        "first = snapshot()\n"
        f"subprocess.run([{str(compile_workload('ipis'))!r}, '2'], check=True)\n"
        "print(json.dumps([first, snapshot()]))"
    )
    with interrupts_of_init() as of_init:
        done = run_iretrace("collect", "-q", "--no-calibrate", "-o", trace, "--", *child)
        footer = open_trace(trace).footer
        assert footer.window.start_tsc is not None
        assert footer.window.stop_tsc is not None
        explained = of_init(footer.window.start_tsc, footer.window.stop_tsc)
    (begin_0, begin_1, begin), (end_0, end_1, end) = json.loads(done.stdout)
    losses = footer.losses
    events = read_events(trace)
    seen = 0
    untraced = {loss.cpu: loss.count for loss in losses if loss.cause == "not-traced" and loss.cpu is not None}
    for row, vectors in INTERRUPT_ROWS.items():
        for cpu, (before, after) in enumerate(zip(begin[row], end[row], strict=True)):
            mine = events[(events.cpu == cpu) & events.vector.isin(vectors)]
            least, most = bounds(mine, (begin_0, begin_1), (end_0, end_1))
            assert least <= after - before <= most + untraced.get(cpu, 0), (row, cpu)
            assert most - least <= 6, (row, cpu)
            seen += least
    assert seen > 1000
    assert {loss.cause for loss in losses} <= {"not-traced"}
    assert {cpu: count for cpu, count in untraced.items() if count > explained.get(cpu, 0)} == {}, explained


def test_time_stamps_are_the_tsc(run_iretrace: RunIretrace, tmp_path: Path) -> None:
    """Each page fault provoked between two RDTSC on a CPU has a time stamp between them, on every CPU."""
    trace = tmp_path / "t.parquet"
    child = in_child(
        "marks = []\n"
        "for cpu in sorted(os.sched_getaffinity(0)):\n"
        "    os.sched_setaffinity(0, {cpu})\n"
        "    memory = mmap.mmap(-1, 300 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\n"
        "    memory.madvise(mmap.MADV_NOHUGEPAGE)\n"
        "    for page in range(300):\n"
        "        before = _native.rdtsc(); memory[page * 4096] = 1; after = _native.rdtsc()\n"
        "        marks.append([cpu, before, after])\n"
        "print(json.dumps([os.getpid(), marks]))"
    )
    done = run_iretrace("collect", "-q", "--no-calibrate", "-o", trace, "--", *child)
    pid, marks = json.loads(done.stdout)
    footer = open_trace(trace).footer
    assert footer.clock.source == "msr-tsc"
    error = footer.clock.error_cycles
    assert error is not None
    assert error < 20_000
    events = read_events(trace)
    mine = events[(events.pid == pid) & (events.vector == 14)]
    for cpu, before, after in marks:
        hits = mine[(mine.cpu == cpu) & (mine.tsc >= before - error) & (mine.tsc <= after + error)]
        assert len(hits) >= 1, (cpu, before, after)
    for _, on_cpu in events.groupby("cpu"):
        assert on_cpu.tsc.is_monotonic_increasing


def test_timer_interrupts_of_a_spinning_program_show_its_frame(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """A program that spins in one function is interrupted in it: user CS, an address in it, a stack of its own."""
    trace = tmp_path / "t.parquet"
    done = run_iretrace("collect", "-q", "--no-calibrate", "-o", trace, "--", compile_workload("spin"), "1.5")
    pid, low, high, stack_low, stack_high = (int(text, 0) for text in done.stdout.split())
    events = read_events(trace)
    timer = events[(events.pid == pid) & (events.vector == 0xEC) & (events.phase == "entry")]
    user = timer[timer.to_kernel == False]  # noqa: E712 - a nullable column
    spinning = user[(user.ip >= low) & (user.ip < high)]
    assert len(spinning) >= 50
    assert len(spinning) >= 0.9 * len(user)
    assert set(spinning.cs) == {0x33}
    assert ((spinning.sp >= stack_low) & (spinning.sp <= stack_high)).all()
    assert ((spinning["flags"] & 0x200) != 0).all()  # IF: the interrupt was let in


@pytest.mark.usefixtures("tracefs")
def test_kernel_frames_agree_with_perf(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """The interrupted address equals the one perf's unwinder finds beyond the entry stub, interrupt by interrupt.

    perf and iretrace record the same tracepoints at the same time; perf's CLOCK_MONOTONIC is compared with the TSC
    by the trace's anchors. Two seconds of interrupts are recorded, and ``perf script`` unwinds them for as long again.
    """
    trace, data = tmp_path / "t.parquet", tmp_path / "perf.data"
    perf = [needed("perf", "linux-perf"), "record", "-q", "-a", "-g", "-o", str(data), "-k", "mono", "-m", "4M"]
    perf += [argument for name in PERF_EVENTS for argument in ("-e", f"irq_vectors:{name}_entry")]
    perf += ["--", str(compile_workload("ipis")), "2"]
    run_iretrace("collect", "-q", "--no-calibrate", "--raw-addresses", "-o", trace, "--", *perf)
    script = subprocess.run(
        ["perf", "script", "-i", str(data), "-F", "cpu,event,time,ip,sym", "--ns"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    first, last = open_trace(trace).footer.clock.anchors
    ns_per_cycle = (last.monotonic_ns - first.monotonic_ns) / (last.tsc - first.tsc)
    events = read_events(trace)
    compared = apart = in_bpf = 0
    for (cpu, vector), theirs in _perf_interrupted(script).items():
        mine = events[(events.cpu == cpu) & (events.vector == vector) & (events.phase == "entry")]
        ours_ns = first.monotonic_ns + (mine.tsc.to_numpy("int64") - first.tsc) * ns_per_cycle
        ours = [ip if kernel else None for ip, kernel in zip(mine.ip, mine.to_kernel, strict=True)]
        for time_ns, interrupted in theirs:
            at = int(np.abs(ours_ns - time_ns).argmin())
            if abs(ours_ns[at] - time_ns) > 20_000:
                apart += 1
                continue
            if (ours[at] or 0) >= MODULES:
                in_bpf += 1
                continue
            compared += 1
            assert ours[at] == interrupted, (cpu, hex(vector), time_ns)
    assert compared > 500
    assert apart < 0.01 * compared
    assert in_bpf < 0.01 * compared


MODULES = 0xFFFF_FFFF_C000_0000
"""From here lie modules and BPF programs (Documentation/arch/x86/x86_64/mm.rst). Of code made at run time the kernel's
unwinder has no table, so that perf names another address where a BPF program was interrupted."""

PERF_EVENTS = {"local_timer": 0xEC, "reschedule": 0xFD, "call_function_single": 0xFB}


def _perf_interrupted(script: str) -> dict[tuple[int, int], list[tuple[int, int | None]]]:
    """By CPU and vector: time in ns and the kernel address interrupted (None: user mode)."""
    found: dict[tuple[int, int], list[tuple[int, int | None]]] = {}
    unwound_short = no_chain = 0
    for block in script.strip().split("\n\n"):
        head, *frames = block.splitlines()
        match = re.match(r"\s*\[(\d+)\]\s+(\d+)\.(\d+):\s+irq_vectors:(\w+)_entry", head)
        assert match is not None, head
        addresses = [int(frame.split()[0], 16) for frame in frames]
        if not addresses:
            no_chain += 1
            continue
        symbols = [frame.split()[1] for frame in frames]
        stub = next((i for i, symbol in enumerate(symbols) if symbol.startswith("asm_sysvec")), None)
        if stub is None:
            unwound_short += 1
            continue
        beyond = addresses[stub + 1] if stub + 1 < len(addresses) else 0
        key = (int(match[1]), PERF_EVENTS[match[4]])
        found.setdefault(key, []).append((int(match[2] + match[3]), beyond if beyond >= 1 << 63 else None))
    n_found = sum(map(len, found.values()))
    assert unwound_short < 0.01 * n_found  # perf's unwinder gives up now and then
    assert no_chain < 0.05 * n_found  # or has no chain at all: about one in a hundred here, of reschedule interrupts
    return found


def test_snapshots_read_proc_interrupts() -> None:
    """The oracle itself reads the rows it is asked for."""
    rows = interrupts()
    assert {"LOC", "RES", "CAL"} <= set(rows)
    assert sum(rows["LOC"]) > 0
