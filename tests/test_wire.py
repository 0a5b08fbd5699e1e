"""The wire format is one: bpf/trap.h as a compiler lays it out, and collect/wire.py as numpy does."""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

import numpy as np
import pytest

from iretrace.collect import wire
from iretrace.collect.probes import TEXT_DEVICE, TEXT_ENTRY
from iretrace.collect.stacks import LAYOUT
from iretrace.collect.wire import Addresses, to_events
from iretrace.losses import BY_NAME
from iretrace.vectors import NMI
from tests.conftest import ROOT, needed

if TYPE_CHECKING:
    from pathlib import Path

PRINT_LAYOUT = r"""
#include <linux/types.h>
#include <stddef.h>
#include <stdio.h>
#include "trap.h"
#define FIELD(f) printf(#f " %zu %zu\n", offsetof(struct trap_event, f), sizeof(((struct trap_event *)0)->f));
#define NAME(f) printf("name." #f " %zu %zu\n", offsetof(struct process_event, f), \
                       sizeof(((struct process_event *)0)->f));
#define VALUE(v) printf(#v " %d 0\n", (int)v);
int main(void) {
    FIELD(tsc) FIELD(ip) FIELD(sp) FIELD(flags) FIELD(error_code) FIELD(pid) FIELD(tid) FIELD(cs) FIELD(irq)
    FIELD(cpu) FIELD(vector) FIELD(hook) FIELD(phase) FIELD(seen) FIELD(reserved)
    NAME(tsc) NAME(pid) NAME(cpu) NAME(what) NAME(reserved) NAME(before) NAME(after)
    VALUE(sizeof(struct process_event)) VALUE(PROCESS_RENAMED) VALUE(PROCESS_ENDED) VALUE(PROCESS_RENAMED_BY_OTHER)
    VALUE(sizeof(struct trap_event)) VALUE(TRAP_SEEN_VECTOR) VALUE(TRAP_SEEN_IRQ) VALUE(TRAP_SEEN_FRAME)
    VALUE(TRAP_SEEN_ERROR_CODE) VALUE(TRAP_SEEN_TARGET) VALUE(TRAP_TO_KERNEL) VALUE(TRAP_ENTRY) VALUE(TRAP_EXIT)
    VALUE(HOOK_PAGE_FAULT_USER) VALUE(HOOK_PAGE_FAULT_KERNEL) VALUE(HOOK_IRQ_VECTOR_ENTRY)
    VALUE(HOOK_IRQ_VECTOR_EXIT) VALUE(HOOK_IRQ_HANDLER_ENTRY) VALUE(HOOK_IRQ_HANDLER_EXIT) VALUE(HOOK_NMI_HANDLER)
    VALUE(HOOK_FUNCTION_ENTRY) VALUE(HOOK_FUNCTION_EXIT) VALUE(HOOK_DIE_CHAIN) VALUE(HOOK_DIE_CHAIN_EXIT)
    VALUE(HOOK_EXIT_TO_USER) VALUE(HOOK_SWITCHED_OUT) VALUE(HOOK_NMI_LAST_HANDLER) VALUE(sizeof(struct settings))
    VALUE(N_STACKS)
    VALUE(N_STACKS)
    VALUE(LOSS_RING_FULL) VALUE(LOSS_NMI_RING_BUSY) VALUE(LOSS_TSC_UNREADABLE) VALUE(LOSS_FRAME_UNREAD)
    VALUE(LOSS_TARGET_UNKNOWN) VALUE(LOSS_PROCESS_NAMES) VALUE(LOSS_ORDER_MENDED)
    VALUE(LOSS_ORDER_UNSURE) VALUE(LOSS_NMI_UNCLOSED) VALUE(N_LOSSES) VALUE(TEXT_DEVICE) VALUE(TEXT_NMI)
    VALUE(TEXT_ENTRY)
    return 0;
}
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, int]]:
    """Offset and size of each field, and the value of each constant, as gcc sees bpf/trap.h."""
    directory: Path = tmp_path_factory.mktemp("layout")
    source, program = directory / "layout.c", directory / "layout"
    source.write_text(PRINT_LAYOUT)
    subprocess.run([needed("gcc", "gcc"), f"-I{ROOT / 'bpf'}", "-o", program, source], check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout.splitlines()
    return {line.rsplit(" ", 2)[0]: (int(line.split()[-2]), int(line.split()[-1])) for line in lines}


def test_every_field_lies_where_numpy_reads_it(layout: dict[str, tuple[int, int]]) -> None:
    """Names, offsets and sizes agree, and each kind of record fills its 56 bytes."""
    for record, prefix in ((wire.TRAP_EVENT, ""), (wire.PROCESS_EVENT, "name.")):
        fields = record.fields
        assert fields is not None
        for name, (dtype, offset, *_) in fields.items():
            assert layout[prefix + name] == (offset, dtype.itemsize), name
    assert layout["sizeof(struct process_event)"][0] == wire.PROCESS_EVENT.itemsize
    assert layout["sizeof(struct trap_event)"][0] == wire.TRAP_EVENT.itemsize == 56
    assert wire.SLOT.itemsize == 64


def test_constants_agree(layout: dict[str, tuple[int, int]]) -> None:
    """Bits, hooks and losses have the same numbers on both sides, and every loss is in the one list of losses."""
    assert layout["sizeof(struct settings)"][0] == struct.calcsize("=QII") + LAYOUT.size
    assert layout["N_STACKS"][0] == 3
    assert layout["TRAP_SEEN_VECTOR"][0] == wire.SEEN_VECTOR
    assert layout["TRAP_SEEN_IRQ"][0] == wire.SEEN_IRQ
    assert layout["TRAP_SEEN_FRAME"][0] == wire.SEEN_FRAME
    assert layout["TRAP_SEEN_ERROR_CODE"][0] == wire.SEEN_ERROR_CODE
    assert layout["TRAP_SEEN_TARGET"][0] == wire.SEEN_TARGET
    assert layout["TRAP_TO_KERNEL"][0] == wire.TO_KERNEL
    assert (layout["TRAP_ENTRY"][0], layout["TRAP_EXIT"][0]) == (0, 1)
    assert layout["PROCESS_RENAMED"][0] == wire.PROCESS_RENAMED
    assert layout["PROCESS_ENDED"][0] == wire.PROCESS_ENDED
    assert layout["PROCESS_RENAMED_BY_OTHER"][0] == wire.PROCESS_RENAMED_BY_OTHER
    assert layout["TEXT_DEVICE"][0] == TEXT_DEVICE
    assert layout["TEXT_NMI"][0] == NMI
    assert layout["TEXT_ENTRY"][0] == TEXT_ENTRY
    hooks = [name for name in layout if name.startswith("HOOK_")]
    assert [layout[name][0] for name in hooks] == list(range(len(wire.HOOK_NAMES)))
    assert layout["N_LOSSES"][0] == len(wire.LOSS_CAUSES)
    for name in (name for name in layout if name.startswith("LOSS_")):
        cause = wire.LOSS_CAUSES[layout[name][0]]
        assert cause == name.removeprefix("LOSS_").lower().replace("_", "-")
        assert cause in BY_NAME


def test_what_a_hook_did_not_see_is_null() -> None:
    """Only the fields that ``seen`` names have values."""
    events = np.zeros(2, wire.TRAP_EVENT)
    events["seen"] = [wire.SEEN_VECTOR | wire.SEEN_TARGET | wire.TO_KERNEL, wire.SEEN_IRQ | wire.SEEN_FRAME]
    events["vector"], events["irq"], events["cs"] = 0xEC, 5, 0x10
    rows = to_events(events, Addresses(text_base=0, raw=True)).to_pylist()
    assert (rows[0]["vector"], rows[0]["irq"], rows[0]["cs"], rows[0]["to_kernel"]) == (0xEC, None, None, True)
    assert (rows[1]["vector"], rows[1]["irq"], rows[1]["cs"], rows[1]["to_kernel"]) == (None, 5, 0x10, None)
    assert rows[0]["error_code"] is None


def test_relative_addresses_do_not_tell_where_the_kernel_lies() -> None:
    """Two boots of one kernel at different addresses give the same trace; user addresses stay as they are."""
    text = np.array([0xFFFFFFFF81000000, 0xFFFFFFFFA7000000], np.uint64)
    stack = np.array([0xFFFFC90000123E48, 0xFFFFA3C1DEADBE48], np.uint64)
    ips, sps = [], []
    for base, sp in zip(text, stack, strict=True):
        addresses = Addresses(text_base=int(base), raw=False)
        ips.append(addresses.ip(np.array([base + np.uint64(0x1234), 0x401000], np.uint64)).tolist())
        sps.append(addresses.sp(np.array([sp, 0x7FFC00001000], np.uint64)).tolist())
    assert ips[0] == ips[1] == [0x1234, 0x401000]
    assert sps[0] == sps[1] == [(1 << 63) | 0x3E48, 0x7FFC00001000]


def test_events_that_no_probe_writes_are_refused() -> None:
    """A damaged partial file may hold any bytes."""
    events = np.zeros(1, wire.TRAP_EVENT)
    events["hook"] = 200
    with pytest.raises(ValueError, match="hook 200"):
        to_events(events, Addresses(text_base=0, raw=True))
