"""Counting in the kernel: one layout for C and numpy, and counters that read like any run."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from iretrace.analysis import histogram
from iretrace.cli import iretrace
from iretrace.collect import counters
from iretrace.errors import NotATrace
from iretrace.footer import Anchor, Clock, Footer, Gate, TrapClass, Window
from iretrace.replay import contexts
from iretrace.replay.contexts import Target
from iretrace.replay.policies import DEVICE, Choice, built_in
from iretrace.replay.tables import enumerate_policy
from iretrace.store import aggregated
from iretrace.trace import open_trace
from tests.conftest import ROOT, needed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RFC2014 = built_in()["rfc2014"]
PRINT = r"""
#include <linux/types.h>
#include <stddef.h>
#include <stdio.h>
#include "aggregate.h"
#define C(f) printf("cell." #f " %zu\n", offsetof(struct agg_cell, f));
#define S(f) printf("slot." #f " %zu\n", offsetof(struct agg_slot, f));
#define A(f) printf("aggregate." #f " %zu\n", offsetof(struct aggregate, f));
#define V(v) printf(#v " %d\n", (int)(v));
int main(void) {
    C(count) C(choice) C(reserved)
    S(open_tsc) S(open_context) S(effects) S(exitless) S(reserved) S(decided) S(unused)
    A(latency) A(cells) A(slots) A(kernel_cs) A(nmi_low) A(nmi_high) A(nest) A(orphans) A(overwritten) A(unused)
    A(counting)
    V(sizeof(struct agg_cell)) V(sizeof(struct agg_slot)) V(sizeof(struct aggregate))
    V(AGG_BUCKETS) V(AGG_CONTEXTS) V(AGG_SLOTS)
    V(AGG_DEVICE) V(AGG_FIRST_SYSTEM) V(AGG_NESTED) V(AGG_NMI_TEXT) V(AGG_IF) V(AGG_TF) V(AGG_RF)
    V(AGG_NMI_ON_STACK) V(AGG_USER_SP) V(AGG_KERNEL) V(AGG_OTHER) V(AGG_UNKNOWN) V(AGG_SUB_BITS) V(AGG_CHOICES)
    return 0;
}
"""


def test_one_layout(tmp_path: Path) -> None:
    """Offsets, sizes and constants of bpf/aggregate.h are those of numpy, contexts and histogram."""
    (tmp_path / "p.c").write_text(PRINT)
    subprocess.run([needed("gcc", "gcc"), f"-I{ROOT / 'bpf'}", "-o", tmp_path / "p", tmp_path / "p.c"], check=True)
    lines = subprocess.run([tmp_path / "p"], check=True, capture_output=True, text=True).stdout.splitlines()
    seen = {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in lines}
    assert counters.AGGREGATE.fields is not None
    cell, slot = counters.AGGREGATE["cells"].base, counters.AGGREGATE["slots"].base
    for prefix, dtype in (("cell", cell), ("slot", slot), ("aggregate", counters.AGGREGATE)):
        assert dtype.fields is not None
        for name, (_, offset, *_) in dtype.fields.items():
            assert seen[f"{prefix}.{name}"] == offset, name
    assert seen["sizeof(struct agg_cell)"] == cell.itemsize
    assert seen["sizeof(struct agg_slot)"] == slot.itemsize == 64  # a cache line
    assert counters.AGGREGATE.fields["slots"][1] % 64 == counters.AGGREGATE.itemsize % 64 == 0
    assert seen["sizeof(struct aggregate)"] == counters.AGGREGATE.itemsize
    assert seen["AGG_BUCKETS"] == counters.BUCKETS == int(histogram.bucket_of(np.array(2**32 - 1, np.uint64))) + 1
    assert seen["AGG_CONTEXTS"] == counters.CONTEXTS == contexts.N_CONTEXTS // contexts.N_SLOTS
    assert (seen["AGG_SLOTS"], seen["AGG_DEVICE"]) == (counters.N_SLOTS, counters.DEVICE_SLOT)
    assert seen["AGG_SUB_BITS"] == histogram.SUB_BITS
    assert seen["AGG_CHOICES"] == len(Choice)
    for name in ("NESTED", "NMI_TEXT", "IF", "TF", "RF", "NMI_ON_STACK", "USER_SP"):
        assert seen[f"AGG_{name}"] == getattr(contexts, name)
    for target in Target:
        assert seen[f"AGG_{target.name}"] == target


def test_slots_are_vectors() -> None:
    """Every exception and system vector has a slot of its own; all devices share one."""
    assert counters.VECTORS.tolist() == [*range(32), *range(0xEC, 0x100), DEVICE]


FOOTER = Footer(
    kernel_cs=0x10,
    idt=[Gate(vector=2, ist=2), Gate(vector=14)],
    classes=[
        TrapClass(name="#PF", vectors=[14], entry="e", exit="x", exits_to="user"),
        TrapClass(name="timer", vectors=[0xEC], entry="e", exit="x"),
        TrapClass(name="NMI", vectors=[2], entry="e"),
    ],
    clock=Clock(source="msr-tsc", tsc_khz=2e6, anchors=[Anchor(tsc=5, realtime_ns=10**18, monotonic_ns=0)]),
    window=Window(start_tsc=1, stop_tsc=2_000_000_001),
)


def test_the_policys_table_is_loaded_whole() -> None:
    """Each context's choice, the nest counter's effects, and which returns show at their entry."""
    tables = aggregated.tables_of(FOOTER, RFC2014)
    for slot, vector in enumerate(counters.VECTORS.tolist()):
        for target in Target:
            for bits in (0, contexts.NESTED, contexts.IF, contexts.NMI_TEXT | contexts.NESTED):
                index = contexts.encode(vector, target, bits)
                from_table = tables.choice[slot, index - contexts.encode(vector, Target.KERNEL)]
                assert from_table == enumerate_policy(RFC2014, frozenset({2})).choice[index]
    assert tables.exitless[2] == 7
    assert tables.exitless[14] == 1 << Target.KERNEL
    assert tables.exitless[32] == 0
    assert tables.effects[2] & 1
    assert tables.effects[2] & 4
    assert tables.effects[14] == 0


def counted() -> NDArray[np.void]:
    """Counters of two CPUs: a timer to the kernel 900 times on CPU 0, page faults to user mode 100 times on CPU 1."""
    made = np.zeros(2, counters.AGGREGATE)
    made["cells"]["count"][0, 32, (Target.KERNEL << 7) | contexts.IF] = 850
    made["cells"]["count"][0, 32, (Target.KERNEL << 7) | contexts.IF | contexts.NESTED] = 50
    made["cells"]["count"][1, 14, Target.OTHER << 7] = 100
    made["latency"][0, 32, int(histogram.bucket_of(np.array(5000, np.uint64)))] = 900
    return made


def test_counters_are_a_run() -> None:
    """Counts by vector and context, decisions of the loaded policy and of those that follow, latencies."""
    run = aggregated.to_run(msgspec.structs.replace(FOOTER, events=1000), counted(), RFC2014)
    assert run.document.source == "aggregate"
    assert run.vectors.tolist() == [14, 0xEC]
    ours = run.policy("rfc2014")
    assert int(ours.count[ours.slot == 0xEC].sum()) == 900
    assert int(ours.count[ours.choice == Choice.RET].sum()) == 900
    assert int(ours.count[ours.context & contexts.NESTED != 0].sum()) == 50
    iret = run.policy("iret")
    assert int(iret.count[iret.choice == Choice.IRET].sum()) == 1000
    assert not (iret.context & contexts.NESTED).any()
    assert abs(float(histogram.quantiles(run.latency[1], np.array([0.5]))[0]) - 5000) < 5000 * 0.01
    assert run.document.duration_s == 1.0


@pytest.mark.slow
def test_a_run_of_counters_is_read_like_any(tmp_path: Path) -> None:
    """Runs add, compare and report take the file; what needs events says in one line that it has none."""
    base, new = tmp_path / "base.parquet", tmp_path / "new.parquet"
    footer = msgspec.structs.replace(FOOTER, events=1000)
    aggregated.write(base, aggregated.to_run(footer, counted(), RFC2014))
    more = counted()
    more["cells"]["count"][0, 32] *= 2
    aggregated.write(new, aggregated.to_run(footer, more, RFC2014))
    assert aggregated.is_run(base)
    with pytest.raises(NotATrace) as caught:
        open_trace(base)
    assert "counters without events" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    runner = CliRunner()
    store = str(tmp_path / "store")
    added = runner.invoke(iretrace, ["runs", "add", str(base), "--store", store, "--tag", "kind=always-on"])
    assert added.exit_code == 0, added.output
    listed = runner.invoke(iretrace, ["runs", "list", store, "--json"])
    assert "always-on" in listed.output
    compared = runner.invoke(iretrace, ["compare", str(base), str(new), "--json"])
    assert compared.exit_code in {0, 1}, compared.output
    assert '"comparable": true' in compared.output
    page = tmp_path / "page.html"
    reported = runner.invoke(iretrace, ["report", str(base), "-o", str(page)])
    assert reported.exit_code == 0, reported.output
    shown = page.read_text()
    assert "timer" in shown
    assert "when they came was not kept" in shown
    assert "how deep traps nest was not kept" in shown
    assert "frequency is not known" not in shown
    assert "iretrace report base.parquet --policy rfc2014" in shown
    assert "iretrace replay base" not in shown
    for verb in (["replay", str(base)], ["check", str(base)]):
        refused = runner.invoke(iretrace, verb)
        assert refused.exit_code == 2 or isinstance(refused.exception, NotATrace)
