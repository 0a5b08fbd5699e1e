"""Counting in the kernel, against exact workloads and against what the same counters say in user space."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from iretrace.replay.policies import Choice
from iretrace.store import aggregated
from iretrace.store.summarize import summarize
from iretrace.trace import open_trace
from tests.live import loaded_programs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import CompileWorkload, RunIretrace

pytestmark = pytest.mark.kernel

PAGES = 50_021

IN_PROCESS = """
import sys
import numpy as np
from pathlib import Path
from iretrace.collect.aggregating import aggregate
from iretrace.collect.counters import CONTEXTS, N_SLOTS
from iretrace.collect.options import CollectOptions
from iretrace.replay.policies import built_in
from iretrace.store.aggregated import tables_of
policy = built_in()[sys.argv[2]]
tables = []
def made(footer):
    tables.append(tables_of(footer, policy))
    return tables[0]
found = aggregate(CollectOptions(target=Path(sys.argv[1]), seconds=1.5, calibrate=False, keep_privileges=True), made)
counts = found.counts["cells"]["count"].sum(axis=0).astype(np.int64)
decided = found.counts["slots"]["decided"].sum(axis=0).astype(np.int64)
for choice in range(4):
    ours = (counts * (tables[0].choice == choice)).sum(axis=1)
    assert (ours == decided[:, choice]).all(), (choice, ours, decided[:, choice])
print(int(counts.sum()), *decided.sum(axis=0).tolist())
"""


def test_every_fault_of_a_known_program_is_counted(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """The count of page faults is the kernel's own; none was an IRET that should be RET; nothing stays loaded."""
    before = loaded_programs()
    trace = tmp_path / "c.parquet"
    faults = [str(compile_workload("faults")), str(PAGES)]
    done = run_iretrace("collect", "--aggregate", "--no-calibrate", "--comm", "faults", "-o", trace, "--", *faults)
    counted = int(done.stdout.split()[2])
    run = aggregated.read(trace)
    policy = run.policy("rfc2014")
    user = policy.count[(policy.slot == 14) & (policy.target == 1)]
    assert PAGES <= counted <= int(user.sum()) <= counted + 200  # the program's start faults too, before it counts
    assert (policy.choice[policy.target == 1] == Choice.IRET).all()
    assert loaded_programs() - before == set()
    refused = run_iretrace("replay", trace, check=False)
    assert refused.returncode == 2
    assert "counters without events" in refused.stderr


def test_timer_interrupts_and_their_durations(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """Timers are there with a target and a duration each, within what a timer can take.

    A program spins: the timer of an idle CPU rests.
    """
    trace = tmp_path / "c.parquet"
    run_iretrace("collect", "--aggregate", "--no-calibrate", "-o", trace, "--", compile_workload("spin"), "1.5")
    run = aggregated.read(trace)
    policy = run.policy("rfc2014")
    timers = int(policy.count[policy.slot == 0xEC].sum())
    latency = run.latency[run.vectors.tolist().index(0xEC)]
    assert timers > 50
    assert abs(int(latency.sum()) - timers) <= 4
    p50 = int(np.searchsorted(np.cumsum(latency), latency.sum() / 2))
    assert 64 * 4 < p50 < 64 * 22  # some thousand cycles: far from 100, far from a second
    assert run.footer.collector.capabilities == []
    assert run.footer.overhead.ns_per_event is not None


@pytest.mark.parametrize("policy", ["rfc2014", "fred"])
def test_the_kernels_decisions_are_the_tables(tmp_path: Path, policy: str) -> None:
    """What BPF decided, return by return, equals the policy's table over the counted contexts."""
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESS, tmp_path / "c.parquet", policy], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    total, *decided = map(int, done.stdout.split())
    assert total == sum(decided) > 0


def test_counters_are_the_replay_of_the_same_traps(
    run_iretrace: RunIretrace, tmp_path: Path, compile_workload: CompileWorkload
) -> None:
    """Context by context the counts are those of an event trace of the same process, recorded at the same time.

    The recorder of events runs inside the counters', so that both see the process whole; each compiles its probes.
    """
    counted, recorded = tmp_path / "counted.parquet", tmp_path / "recorded.parquet"
    common = ("--no-calibrate", "--comm", "faults")
    inner = run_iretrace.command("collect", *common, "-o", recorded, "--", compile_workload("faults"), str(PAGES))
    run_iretrace("collect", "--aggregate", *common, "-o", counted, "--", *inner)
    ours, run = aggregated.read(counted), summarize(open_trace(recorded))
    assert not [loss for loss in run.footer.losses if loss.count]
    for name in ("rfc2014", "iret"):
        left, right = ours.policy(name), run.policy(name)
        assert int(right.count[right.slot == 14].sum()) >= PAGES
        assert dict(zip(left.context, left.count, strict=True)) == dict(zip(right.context, right.count, strict=True))
        assert dict(zip(left.context, left.choice, strict=True)) == dict(zip(right.context, right.choice, strict=True))
