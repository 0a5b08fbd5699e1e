"""Filters on the live kernel: what was asked for is all there, and nothing else."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from iretrace.collect.filters import cgroup2_root
from iretrace.trace import open_trace
from tests.live import own_faults, own_losses, read_events
from tests.waiting import PATIENCE_S

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import CompileWorkload, RunIretrace

pytestmark = pytest.mark.kernel

PAGES = 20_011


def test_classes_and_cpus(run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload) -> None:
    """Only the asked classes on the asked CPU; only their hooks are attached; every run is accounted for."""
    trace = tmp_path / "t.parquet"
    ipis = [str(compile_workload("ipis")), "1"]
    run_iretrace("collect", "--no-calibrate", "--only", "ipis,nmi", "--cpu", "0", "-o", trace, "--", *ipis)
    events, footer = read_events(trace), open_trace(trace).footer
    assert set(events.cpu) == {0}
    assert set(events.vector) <= {2, 0xF6, 0xF7, 0xFB, 0xFC, 0xFD}
    assert {0xFB, 0xFD} & set(events.vector)
    entries, exits = ((events.phase == phase).sum() for phase in ("entry", "exit"))
    assert abs(int(entries) - int(exits)) <= 1  # a filtered trace pairs
    assert own_losses(footer) == {}
    assert not {h.name for h in footer.hooks if h.attached} & {"page_fault_user", "local_timer_entry"}
    assert footer.filters.cpus == [0]
    assert "NMI" in footer.filters.only
    assert footer.filters.left_out > 0
    assert "Only a part was recorded" in run_iretrace("replay", trace).stdout


def test_a_process_by_its_name(run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload) -> None:
    """--comm NAME has every fault of that program, as the kernel counted them, and nothing of any other task."""
    trace = tmp_path / "t.parquet"
    faults = [str(compile_workload("faults")), str(PAGES)]
    done = run_iretrace("collect", "--no-calibrate", "--comm", "faults", "-o", trace, "--", *faults)
    events, footer = read_events(trace), open_trace(trace).footer
    mine, counted = own_faults(events, done.stdout)
    assert len(mine) == counted >= PAGES
    assert set(events.pid) == {int(done.stdout.split()[0])}
    assert own_losses(footer) == {}


def test_a_process_by_its_number(run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload) -> None:
    """--pid N shows that process alone, its timer interrupts whole."""
    trace = tmp_path / "t.parquet"
    spin = subprocess.Popen([str(compile_workload("spin")), str(2 * PATIENCE_S)], stdout=subprocess.DEVNULL)
    try:
        run_iretrace("collect", "-d", "2", "--no-calibrate", "--pid", str(spin.pid), "-o", trace)
    finally:
        spin.kill()
        spin.wait()
    events = read_events(trace)
    assert set(events.pid) == {spin.pid}
    timer = events[events.vector == 0xEC]
    entries, exits = (int((timer.phase == phase).sum()) for phase in ("entry", "exit"))
    assert entries > 20
    assert abs(entries - exits) <= 1


def test_a_cgroup_with_all_below_it(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """--cgroup PATH has the tasks of a cgroup below the named one."""
    root = cgroup2_root()
    assert root is not None, "this test needs the cgroup2 hierarchy"
    named = root / f"iretrace-test-{os.getpid()}"
    inner = named / "inner"
    inner.mkdir(parents=True)
    trace = tmp_path / "t.parquet"
    script = f"echo $$ > {inner}/cgroup.procs; exec {compile_workload('faults')} {PAGES}"
    try:
        done = run_iretrace("collect", "--no-calibrate", "--cgroup", named, "-o", trace, "--", "sh", "-c", script)
    finally:
        inner.rmdir()
        named.rmdir()
    events = read_events(trace)
    mine, counted = own_faults(events, done.stdout)
    assert len(mine) == counted >= PAGES
    assert set(events.pid) == {int(done.stdout.split()[0])}
